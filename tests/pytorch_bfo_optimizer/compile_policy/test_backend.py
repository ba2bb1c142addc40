from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytorch_bfo_optimizer.compile_policy import backend as backend_module
from pytorch_bfo_optimizer.compile_policy import trial
from pytorch_bfo_optimizer.compile_policy.backend import TRIED_SIZES, BackendSettings, WatchedBackend
from pytorch_bfo_optimizer.compile_policy.calls import Call, running
from pytorch_bfo_optimizer.errors import CompileFailedError

from .conftest import BrokenError


def settings(backend: Any, **changed: Any) -> BackendSettings:
    return BackendSettings(
        **{"backend": backend, "mode": "default", "options": None, "dynamic": None, "raises": False, **changed}
    )


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Call:
    """A call of a target that is under way."""
    current = Call()
    monkeypatch.setattr(running, "call", current)
    return current


class Doubling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("runs", torch.zeros(()))

    def forward(self, x: Tensor) -> tuple[Tensor]:
        self.runs.add_(x.numel() / x.numel())  # a proxy: to be traced
        return (x * 2 + self.runs,)


def graph_of(backend: Any, inputs: Any = (), **changed: Any) -> Any:
    return WatchedBackend(settings(backend, **changed))(torch.fx.symbolic_trace(Doubling()), inputs)


def test_the_real_backend_runs_and_each_run_is_counted(call: Call) -> None:
    graph = graph_of(lambda gm, inputs: gm.forward)
    assert graph(torch.ones(2))[0].tolist() == [3, 3]  # the trial's run of the buffer was taken back
    assert graph(torch.ones(2))[0].tolist() == [4, 4]
    assert len(call.graphs) == 2
    assert len(set(call.graphs)) == 1
    other = graph_of(lambda gm, inputs: gm.forward)
    other(torch.ones(2))
    assert len(set(call.graphs)) == 2
    assert call.fallbacks == []


def test_a_refused_graph_runs_as_it_was_captured_also_where_the_backend_had_rewritten_it(call: Call) -> None:
    def rewrites_and_fails(gm: torch.fx.GraphModule, inputs: Any) -> Any:
        for node in gm.graph.nodes:
            if node.op == "call_function" and 2 in node.args:
                node.args = tuple(100 if arg == 2 else arg for arg in node.args)
        gm.recompile()
        raise BrokenError("later")

    function = torch.compile(lambda x: x * 2 + 1, backend=WatchedBackend(settings(rewrites_and_fails)))
    assert function(torch.ones(2)).tolist() == [3, 3]
    assert call.graphs == []
    assert [(where, str(error), shapes) for where, error, shapes in call.fallbacks] == [
        ("compile", "later", ("float32[2]",))
    ]


def test_outside_of_any_call_a_graph_still_runs() -> None:
    assert running.call is None
    assert graph_of(lambda gm, inputs: gm.forward)(torch.ones(1))[0].tolist() == [3]


def test_with_raises_every_failure_is_the_callers(call: Call) -> None:
    def refuses(gm: Any, inputs: Any) -> Any:
        raise BrokenError("no")

    def runs_badly(gm: Any, inputs: Any) -> Any:
        return lambda *args: 1 / 0

    with pytest.raises(BrokenError):
        graph_of(refuses, raises=True)
    graph = graph_of(runs_badly, raises=True)
    with pytest.raises(CompileFailedError, match=r"failed on copies of its inputs: ZeroDivisionError"):
        graph(torch.ones(2))
    assert call.fallbacks == []


def test_what_the_backend_tells_dynamo_passes() -> None:
    from torch._dynamo.exc import RestartAnalysis, SkipFrame

    for kind in (RestartAnalysis, SkipFrame):

        def speaks(gm: Any, inputs: Any, kind: Any = kind) -> Any:
            raise kind("for dynamo")

        with pytest.raises(kind):
            graph_of(speaks)


def test_backends_of_equal_settings_are_one_to_dynamo() -> None:
    def compiler(gm: Any, inputs: Any) -> Any:
        return gm.forward

    one, other = WatchedBackend(settings(compiler)), WatchedBackend(settings(compiler))
    assert one == other
    assert hash(one) == hash(other)
    for changed in ({"raises": True}, {"dynamic": True}, {"options": {"a": 1}}, {"mode": "x"}, {"backend": "eager"}):
        assert one != WatchedBackend(settings(compiler, **changed) if "backend" not in changed else settings("eager"))


def test_mode_and_options_reach_a_backend_of_the_users() -> None:
    seen = []

    def compiler(gm: Any, inputs: Any, **keywords: Any) -> Any:
        seen.append(keywords)
        return gm.forward

    graph_of(compiler)
    graph_of(compiler, mode="max-autotune")
    graph_of(compiler, options={"level": 3})
    assert seen == [{}, {"mode": "max-autotune"}, {"options": {"level": 3}}]


def test_inductor_is_named_as_torch_names_it() -> None:
    assert WatchedBackend(settings("inductor")).__name__ == "inductor"


def test_a_graph_of_dynamic_sizes_is_tried_for_each_new_size_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    real = trial.try_on_copies

    def counted(graph: Any, args: Any, held: Any = ()) -> None:
        tried.append(tuple(arg for arg in args if isinstance(arg, int)))
        real(graph, args, held)

    monkeypatch.setattr(backend_module, "try_on_copies", counted)
    function = torch.compile(
        lambda x: x * 2, backend=WatchedBackend(settings(lambda gm, inputs: gm.forward)), dynamic=True
    )
    for size in (*range(2, 8), *range(2, 8), *range(8, 20)):
        function(torch.ones(size))
    assert tried == [(size,) for size in range(2, 2 + TRIED_SIZES)]


def test_memory_that_the_copies_lack_tells_nothing_of_the_graph(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(graph: Any, args: Any, held: Any = ()) -> None:
        raise trial.TrialError("forward") from torch.OutOfMemoryError("full")

    monkeypatch.setattr(backend_module, "try_on_copies", full)
    assert graph_of(lambda gm, inputs: gm.forward)(torch.ones(1))[0].tolist() == [3]
    assert (len(call.graphs), call.fallbacks) == (1, [])


def test_a_graph_with_collectives_is_not_run_twice(call: Call) -> None:
    graph = torch.fx.Graph()
    x = graph.placeholder("x")

    def c10d_all_reduce(x: Tensor) -> Tensor:
        runs.append(1)
        return x

    runs: list[int] = []
    graph.output((graph.call_function(c10d_all_reduce, (x,)),))
    module = torch.fx.GraphModule(nn.Module(), graph)
    WatchedBackend(settings(lambda gm, inputs: gm.forward))(module, ())(torch.ones(1))
    assert runs == [1]
