"""Which share of the eager ATen operations runs inside captured graphs, by torch's profiler."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile, record_function

_MARK = "bfo_diag.graph"
_GRAPH_RANGES = (
    _MARK,
    "## Call CompiledFxGraph",
    "CompiledFunctionBackward",
    "autograd::engine::evaluate_function: CompiledFunctionBackward",
)
_BOOKKEEPING = "torch::autograd::AccumulateGrad"
"""What autograd itself does with a finished gradient: neither eager nor compiled, and the same in both."""
_COMPILING = "(dynamo_timed)"
"""Ends the names of the ranges in which dynamo traces and compiles: what runs there is not the step's."""


def marked(graph: Callable[..., Any]) -> Callable[..., Any]:
    """Return a compiled graph whose runs the profiler can tell."""

    def run(*args: Any) -> Any:
        with record_function(_MARK):
            return graph(*args)

    return run


def outermost(call: Callable[[], Any]) -> tuple[Counter[str], Counter[str]]:
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
            if parent.name.startswith("aten::") or parent.name == _BOOKKEEPING or parent.name.endswith(_COMPILING):
                counts = False
                break
            in_graph = in_graph or parent.name.startswith(_GRAPH_RANGES)
            parent = parent.cpu_parent
        if counts:
            (inside if in_graph else outside)[event.name.removeprefix("aten::")] += 1
    return inside, outside


def uncovered(eager: Counter[str], outside: Counter[str]) -> Counter[str]:
    """Return which of the eager operations still run outside of graphs.

    What only the compiled form runs there (it wraps a Python number as a tensor, say) is no operation of the step.
    """
    return Counter({name: min(count, eager[name]) for name, count in outside.items() if eager[name]})
