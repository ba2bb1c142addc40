from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pytorch_bfo_optimizer.turnover.folding import folded
from pytorch_bfo_optimizer.turnover.view import View

DYING = torch.tensor([6, 1])


class TwoConsumers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.one, self.other = nn.Linear(3, 8), nn.Linear(8, 4), nn.Linear(8, 2, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.wide(x).relu()
        return self.one(h), self.other(h)


@pytest.fixture
def model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TwoConsumers()


def without(model: nn.Module, view: View, inputs: Tensor) -> list[Tensor]:
    """What the consumers give after the fold, with nothing from the dying neurons."""
    fold, _ = folded(view, DYING, ridge=1e-6)
    with torch.no_grad():
        for (_, consumer), weight, bias in zip(view.layer.consumers, fold.weights, fold.biases, strict=True):
            consumer.weight += weight
            consumer.weight[:, DYING] = 0.0
            if bias is not None:
                consumer.bias += bias
        return list(model(inputs))


def test_what_the_survivors_can_express_is_kept_exactly(model: nn.Module, view: Callable[..., View]) -> None:
    """6 is twice what 0 is; 1 is as much again of 2 and, where there is a bias, a constant."""
    inputs = 1 + torch.rand(64, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.wide.weight.abs_()
        model.wide.bias.abs_()
        model.wide.weight[[6, 1]] = 2 * model.wide.weight[[0, 2]]
        model.wide.bias[[6, 1]] = 2 * model.wide.bias[[0, 2]]
        model.wide.bias[1] += 5.0
        model.other.weight[:, 1] = 0.0  # without a bias it can't take the constant
        expected = model(inputs)
    seen = view(model, inputs=inputs)
    _, left = folded(seen, DYING, ridge=1e-6)
    assert left < 1e-3
    for kept, was in zip(without(model, seen, inputs), expected, strict=True):
        torch.testing.assert_close(kept, was, rtol=0, atol=2e-3)


def test_it_is_the_least_squares_solution(model: nn.Module, view: Callable[..., View]) -> None:
    inputs = torch.randn(300, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model.double()
    with torch.no_grad():
        h = model.wide(inputs).relu()
    survivors = [0, 2, 3, 4, 5, 7]
    for bias, number in ((True, 0), (False, 1)):
        known = torch.cat([h[:, survivors], torch.ones(300, 1)], dim=1) if bias else h[:, survivors]
        solution = torch.linalg.lstsq(known.double(), h[:, DYING]).solution  # (S + 1, K)
        fold, left = folded(view(model, inputs=inputs), DYING, ridge=1e-12)
        outgoing = (model.one, model.other)[number].weight.detach()[:, DYING]
        torch.testing.assert_close(fold.weights[number][:, survivors], outgoing @ solution[:6].T)
        assert not fold.weights[number][:, DYING].any()
        assert (fold.biases[number] is None) == (not bias)
        if bias:
            torch.testing.assert_close(fold.biases[0], outgoing @ solution[6])
    assert 0.1 < left < 1


def test_few_inputs_and_neurons_that_are_silent_are_no_trouble(model: nn.Module, view: Callable[..., View]) -> None:
    fold, left = folded(view(model, inputs=torch.ones(1, 3)), DYING, ridge=1e-4)
    assert all(weight.isfinite().all() for weight in fold.weights)
    with torch.no_grad():
        model.wide.bias.fill_(-100.0)
    fold, left = folded(view(model, inputs=torch.ones(50, 3)), DYING, ridge=1e-4)
    assert left == 0.0
    assert not any(weight.any() for weight in fold.weights)
