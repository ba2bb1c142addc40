from __future__ import annotations

import pytest
import torch

from pytorch_bfo_optimizer.turnover.population import Average, Population


def test_a_serial_number_is_never_used_again() -> None:
    population = Population(3)
    assert population.bear([1], 5) == (3,)
    assert population.bear([1, 0], 7) == (4, 5)
    assert population.bear([3, 4], 8) == (6, 7)  # new slots
    assert population.serials == [5, 4, 2, 6, 7]
    assert population.ages(10).tolist() == [3, 3, 10, 2, 2]
    assert population.founders().tolist() == [False, False, True, False, False]
    assert population.named([2, 0]) == (2, 5)


def test_its_state_goes_round() -> None:
    population = Population(3)
    population.bear([1], 5)
    population.fading, population.owed = {2: 4}, 0.75
    back = Population(9)
    back.load_state_dict(population.state_dict())
    assert back.state_dict() == population.state_dict()
    assert back.bear([0], 6) == (4,)
    assert back.fading_mask().tolist() == [False, False, True]


def test_an_average_weighs_a_smaller_batch_less() -> None:
    average = Average(2, torch.zeros(1))
    assert average.value().isnan().all()
    average.add(torch.tensor([32.0, 64.0]), torch.tensor(32.0), decay=0.5)  # means 1 and 2
    average.add(torch.tensor([40.0, 0.0]), torch.tensor(8.0), decay=0.5)  # means 5 and 0, of 8 rows
    expected = [(0.5 * 32 + 40) / (0.5 * 32 + 8), 0.5 * 64 / (0.5 * 32 + 8)]
    assert average.value().tolist() == pytest.approx(expected)


def test_a_newborn_has_no_past_and_needs_no_correction() -> None:
    average = Average(2, torch.zeros(1, dtype=torch.float64))
    assert average.sum_H.dtype == torch.float64
    for _ in range(3):
        average.add(torch.tensor([3.0, 3.0], dtype=torch.float64), 1.0, decay=0.9)
    average.forget(torch.tensor([1]))
    assert average.value()[0] == pytest.approx(3.0)
    assert average.value()[1].isnan()
    average.add(torch.tensor([3.0, 7.0], dtype=torch.float64), 1.0, decay=0.9)
    assert average.value().tolist() == pytest.approx([3.0, 7.0])
    average.resize(3)
    assert average.value()[:2].tolist() == pytest.approx([3.0, 7.0])
    assert average.value()[2].isnan()


def test_what_is_not_finite_is_left_out() -> None:
    average = Average(3, torch.zeros(1))
    average.add(torch.tensor([1.0, 1.0, 1.0]), 1.0, decay=0.9)
    average.add(torch.tensor([float("nan"), float("inf"), 3.0]), 1.0, decay=0.9)
    assert average.value().tolist() == pytest.approx([1.0, 1.0, (0.9 + 3) / 1.9])
