from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pytorch_bfo_optimizer.turnover.selectors.gradient_activation import GradientActivation
from pytorch_bfo_optimizer.turnover.view import View


class Gated(nn.Module):
    """Two consumers, a dropout before them, and a gate of ones on each activation."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.drop = nn.Linear(3, 5), nn.Dropout(0.5)
        self.one, self.other = nn.Linear(5, 2), nn.Linear(5, 4, bias=False)

    def forward(self, x: Tensor, gate: Tensor | float = 1.0) -> Tensor:
        h = self.drop(self.wide(x).tanh() * gate)
        return torch.cat([self.one(h), self.other(h).sin()], dim=-1)


@pytest.fixture
def model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Gated()


class Ungated(Gated):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def losses(model: nn.Module, shapes: list[tuple[int, ...]], *gate: Tensor) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(shape, generator=generator) for shape in shapes]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)  # the same dropout masks each time
        return [model(batch, *gate).mean() for batch in batches]


@pytest.mark.parametrize("shapes", [[(7, 3)], [(2, 6, 3)], [(8, 3), (3, 3)]], ids=["rows", "sequences", "accumulated"])
def test_it_is_the_derivative_by_a_gate_on_the_activation(
    model: nn.Module, view: Callable[..., View], shapes: list[tuple[int, ...]]
) -> None:
    model.double()
    torch.set_default_dtype(torch.float64)
    try:
        gate = torch.ones(5, requires_grad=True)
        by_gate = torch.autograd.grad(sum(losses(model, shapes, gate)), gate)[0]
        assert by_gate.min() < 0 < by_gate.max()
        for loss in losses(model, shapes):
            loss.backward()
    finally:
        torch.set_default_dtype(torch.float32)
    plain = Ungated()
    plain.__dict__.update(model.__dict__)
    figures, weight = GradientActivation().measure(view(plain), None)
    torch.testing.assert_close(figures, by_gate.abs())
    assert weight == 1.0
    halved, _ = GradientActivation().measure(view(plain, grad_scale=torch.tensor(2.0)), None)
    torch.testing.assert_close(halved, by_gate.abs() / 2)


def test_nothing_is_seen_where_a_consumer_has_no_gradient(view: Callable[..., View]) -> None:
    plain = Ungated()
    assert GradientActivation().measure(view(plain), None) is None
    plain.one.weight.grad = torch.ones(2, 5)
    assert GradientActivation().measure(view(plain), None) is None
