from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

from pytorch_bfo_optimizer.turnover import tracing


class Busy(nn.Module):
    """A forward that sets attributes, counts in a buffer, draws random numbers and asks for its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.register_buffer("steps", torch.zeros(()))
        self.last: object = None
        self.calls = 0

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        self.calls += 1
        self.steps.add_(1)
        self.last = self.linear(x)
        if torch.rand(()) > random.random() + 1:
            return x
        self.linear.extra = x
        return self.last if mask is None else self.last * mask


def operations(graph: torch.fx.Graph) -> list[str]:
    return [node.name for node in graph.nodes if node.op.startswith("call")]


def test_a_module_is_traced_in_each_mode_and_with_and_without_its_optional_arguments() -> None:
    assert [operations(graph) for graph in tracing.graphs(Busy())] == [
        ["add_", "linear", "mul"],
        ["_assert_is_none", "add_", "linear"],
        ["add_", "linear", "mul"],
        ["_assert_is_none", "add_", "linear"],
    ]


def test_the_module_and_the_random_numbers_are_left_as_they_were() -> None:
    model = Busy()
    model.linear.eval()
    numbers, python = torch.get_rng_state(), random.getstate()
    grad = torch.is_grad_enabled()
    tracing.graphs(model)
    assert (model.calls, model.last, float(model.steps)) == (0, None, 0.0)
    assert not hasattr(model.linear, "extra")
    assert (model.training, model.linear.training) == (True, False)
    assert torch.equal(torch.get_rng_state(), numbers)
    assert random.getstate() == python
    assert torch.is_grad_enabled() is grad


def test_hooks_do_not_run() -> None:
    seen: list[str] = []
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2)))
    for module in model.modules():
        module.register_forward_pre_hook(lambda module, args: seen.append(type(module).__name__))
    tracing.graphs(model)
    assert seen == []


class Deciding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_what_decides_by_values_is_no_graph() -> None:
    with pytest.raises(tracing.UntraceableError, match="TraceError: symbolically traced variables cannot be used"):
        tracing.graphs(Deciding())


@pytest.mark.compile
def test_what_is_compiled_is_known() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    assert not tracing.is_compiled(model)
    wrapped = torch.compile(model, backend="eager")
    assert tracing.uncompiled(wrapped) is model
    assert tracing.is_compiled(nn.Sequential(wrapped))
    model[0].compile(backend="eager")
    assert tracing.is_compiled(model)
