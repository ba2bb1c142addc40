from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pytorch_bfo_optimizer import runs
from pytorch_bfo_optimizer.runs import Run


def after(gradients: Tensor, *, momentum: float = 0.9) -> Run:
    """A run that stands still and feels one gradient (D,) after the other."""
    run = Run.at(torch.zeros_like(gradients[0]))
    for gradient_D in gradients:
        run, _, _ = runs.arrive(run, run.position, gradient_D, momentum=momentum)
    return run


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_the_direction_is_that_of_torchs_adam(momentum: float, generator: torch.Generator) -> None:
    gradients = torch.randn(7, 5, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 10, 1e-3, 1, 100])
    param = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([param], lr=1.0, betas=(momentum, runs.SECOND_MOMENT), eps=1e-12)
    for gradient_D in gradients:
        before = param.detach().clone()
        param.grad = gradient_D.clone()
        adam.step()
    step = before - param.detach()
    assert torch.allclose(after(gradients, momentum=momentum).direction(), step / step.norm(), atol=1e-9)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_scale_of_the_loss_does_not_count(scale: float, generator: torch.Generator) -> None:
    gradients = torch.randn(5, 6, generator=generator)
    assert torch.allclose(after(gradients * scale).direction(), after(gradients).direction(), atol=1e-6)


def test_a_move_has_the_length_it_is_given() -> None:
    run = after(torch.tensor([[3.0, -4.0]]))
    assert run.move(torch.tensor([0.5])).tolist() == pytest.approx([-(0.5**1.5), 0.5**1.5])  # the signs of the slope
    assert run.move(torch.tensor([2.0, 1.0])).tolist() == pytest.approx([-(2**0.5), 0.5**0.5])
    assert torch.equal(run.position, torch.zeros(2))


def test_without_a_slope_there_is_no_move() -> None:
    run = after(torch.zeros(1, 3))
    assert not run.feels
    assert not run.move(torch.tensor([1.0])).any()


@pytest.mark.parametrize(
    ("gradient", "cosine"),
    [([1.0, 0.0], 1.0), ([-7.0, 0.0], -1.0), ([0.0, 3.0], 0.0), ([2.0, 2.0], 0.5**0.5), ([0.0, 0.0], 0.0)],
)
def test_the_slope_ahead_is_compared_with_the_way_back(gradient: list[float], cosine: float) -> None:
    run = after(torch.tensor([[1.0, 0.0]]))
    place = run.move(torch.tensor([0.25]))
    there, found, slope = runs.arrive(run, place, torch.tensor(gradient), momentum=0.9)
    assert found == pytest.approx(cosine)
    assert (slope == 0) == (gradient == [0.0, 0.0])
    assert there.position is place


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_told_by_its_square(value: float) -> None:
    run = after(torch.tensor([[1.0, 0.0]]))
    _, cosine, slope = runs.arrive(run, torch.ones(2), torch.tensor([value, 1.0]), momentum=0.9)
    assert cosine == 0
    assert not math.isfinite(slope)


def test_a_length_changes_most_in_the_first_moves() -> None:
    logarithms = [math.log(runs.quickening(1.0, moves)) for moves in (1, 3, 6, 10, 1000)]
    assert logarithms == pytest.approx([0.8, 0.8, 0.4, 0.24, 0.24])
    assert math.log(runs.quickening(-1.0, 1)) == pytest.approx(-1.2)
    assert runs.quickening(0.0, 1) == 1


@pytest.mark.parametrize("size", [1, 2, 20])
@pytest.mark.parametrize("first_length", [1e-3, 1.0, 1e3])
def test_a_run_finds_its_length_from_any_first_one_and_ends_at_the_minimum(first_length: float, size: int) -> None:
    stretch = torch.logspace(0, 2, size, dtype=torch.float64)
    run, length = Run.at(torch.full((size,), 10.0, dtype=torch.float64)), first_length
    run, _, _ = runs.arrive(run, run.position, stretch * run.position, momentum=0.9)
    for moves in range(1, 400):
        place = run.move(torch.tensor([length]))
        run, cosine, _ = runs.arrive(run, place, stretch * place, momentum=0.9)
        length *= runs.quickening(cosine, moves)
    assert run.position.abs().max() < 1e-2  # it began 10 away, and may not circle around the minimum for ever
