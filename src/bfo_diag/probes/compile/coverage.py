"""Which share of the eager ATen operations runs inside captured graphs, by torch's profiler."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile, record_function

from bfo_diag.probes.compile import compat

_MARK = "bfo_diag.graph"
_GRAPH_RANGES = (
    _MARK,
    "## Call CompiledFxGraph",
    "CompiledFunctionBackward",
    "autograd::engine::evaluate_function: CompiledFunctionBackward",
)
_BOOKKEEPING = "torch::autograd::AccumulateGrad"
"""What autograd itself does with a finished gradient: neither eager nor compiled, and the same in both."""


def marking_backend(graph_module: Any, inputs: Any) -> Callable[..., Any]:
    """Be the backend `aot_eager`, with each run of a graph marked for the profiler."""
    run = compat.base_backend("aot_eager")(graph_module, inputs)

    def marked(*args: Any) -> Any:
        with record_function(_MARK):
            return run(*args)

    return marked


def operations(call: Callable[[], Any]) -> tuple[Counter[str], Counter[str]]:
    """Run `call`, and count its outermost ATen operations: (inside of graphs, outside of them)."""
    inside: Counter[str] = Counter()
    outside: Counter[str] = Counter()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        call()
    for event in profiled.events():
        if not event.name.startswith("aten::"):
            continue
        parent, in_graph, counts = event.cpu_parent, False, True
        while parent is not None:
            if parent.name.startswith("aten::") or parent.name == _BOOKKEEPING:
                counts = False
                break
            in_graph = in_graph or parent.name.startswith(_GRAPH_RANGES)
            parent = parent.cpu_parent
        if counts:
            (inside if in_graph else outside)[event.name.removeprefix("aten::")] += 1
    return inside, outside
