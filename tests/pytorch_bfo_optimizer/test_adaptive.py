from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pytorch_bfo_optimizer import AdaptiveBFO, StepRecord

PLAIN = {"levy_alpha": None, "repro_steps": 0, "elim_prob": 0.0, "diversity_threshold": 0.0}


def moves_of(optimizer: AdaptiveBFO, param: Tensor, losses: dict[int, float]) -> list[float]:
    """Lengths of the one move of each member in a generation; member i is told the loss `losses[i]` there."""
    start, lengths = optimizer.population, []

    def closure() -> float:
        lengths.append(float((param - start[len(lengths)]).norm()))
        return losses[len(lengths) - 1]

    optimizer.step(closure)
    return lengths


def test_success_lengthens_and_failure_shortens_by_the_one_fifth_rule() -> None:
    param = torch.zeros(6, dtype=torch.float64)
    optimizer = AdaptiveBFO(
        [param], population_size=2, swim_length=0, adaptation_rate=0.2, step_size_max=1.0, step_size_min=0.01, **PLAIN
    )
    moves_of(optimizer, param, {0: 100.0, 1: 100.0})  # senses
    scale = [1 / 1.2**0.25] * 2
    for loss in (99.0, 98.0, 97.0, 96.0, 95.0):
        lengths = moves_of(optimizer, param, {0: loss, 1: 1000.0})
        assert lengths == pytest.approx(scale, rel=1e-9)
        scale = [min(scale[0] * 1.2, 1.0), scale[1] / 1.2**0.25]
    assert scale[0] == 1.0  # no longer than step_size_max
    assert scale[1] < 0.8


def test_steps_never_become_shorter_than_the_least() -> None:
    param = torch.zeros(3, dtype=torch.float64)
    optimizer = AdaptiveBFO([param], population_size=1, swim_length=0, adaptation_rate=5.0, step_size_min=0.05, **PLAIN)
    for _ in range(10):
        lengths = moves_of(optimizer, param, {0: 1.0})
    assert lengths == pytest.approx([0.05])
    assert optimizer.state[param]["scale"].tolist() == [0.5]  # nor does the scale sink below what is used


def test_each_member_has_its_own_scale_and_a_dispersed_one_starts_again() -> None:
    param = torch.zeros(3)
    optimizer = AdaptiveBFO([param], population_size=4, levy_alpha=None, chem_steps=3, repro_steps=1, elim_prob=1.0)
    for _ in range(2):
        optimizer.step(lambda: (param**2).sum() * 0 + 1)
    assert (optimizer.state[param]["scale"] < 1).all()
    optimizer.step(lambda: (param**2).sum() * 0 + 1)
    scale = optimizer.state[param]["scale"].tolist()
    assert sorted(scale)[1:] == [1, 1, 1]
    assert min(scale) < 1  # the best member is never dispersed


def test_a_collapsed_colony_is_dispersed_by_half_and_keeps_its_best() -> None:
    param = torch.full((2,), 5.0)
    records: list[StepRecord] = []
    optimizer = AdaptiveBFO(
        [param], population_size=7, bounds=(-10, 10), elim_prob=0.0, repro_steps=0, diversity_threshold=1e9
    )
    optimizer.on_step.append(records.append)
    best = math.inf
    for _ in range(5):
        loss = optimizer.step(lambda: (param**2).sum())
        assert loss <= best
        best = loss
    assert [record.dispersed for record in records] == [3] * 5
    calm = AdaptiveBFO(
        [param], population_size=7, bounds=(-10, 10), elim_prob=0.0, repro_steps=0, diversity_threshold=0.0
    )
    calm.on_step.append(records.append)
    calm.step(lambda: (param**2).sum())
    assert records[-1].dispersed == 0


def test_a_colony_of_one_is_left_alone() -> None:
    param = torch.zeros(2)
    optimizer = AdaptiveBFO([param], population_size=1, diversity_threshold=1.0)
    assert optimizer.diversity() == 0
    optimizer.step(lambda: (param**2).sum())
    assert optimizer.best_fitness == 0
