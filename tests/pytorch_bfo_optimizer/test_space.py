from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pytorch_bfo_optimizer import BFO, foraging
from pytorch_bfo_optimizer.flat import SUPPORTED_DTYPES
from pytorch_bfo_optimizer.space import SearchSpace, _inward


def space_of(optimizer: BFO) -> SearchSpace:
    return optimizer._space(optimizer._hyperparameters())


@given(value=st.floats(-6e4, 6e4), dtype=st.sampled_from(SUPPORTED_DTYPES))
def test_a_bound_is_rounded_inward_and_by_no_more_than_one_value(value: float, dtype: torch.dtype) -> None:
    low, high = _inward(value, dtype, up=True), _inward(value, dtype, up=False)
    assert low >= value >= high
    assert low == high or torch.nextafter(torch.tensor(high, dtype=dtype), torch.tensor(math.inf, dtype=dtype)) == low


def test_a_bound_beyond_the_dtype_stays_finite() -> None:
    assert _inward(-1e6, torch.float16, up=True) == -65504
    assert _inward(1e6, torch.float16, up=False) == 65504


def test_one_value_a_group_is_spread_over_its_coordinates() -> None:
    one, two, three = torch.zeros(2), torch.zeros(()), torch.zeros(1, 3)
    space = space_of(BFO([{"params": [one, two]}, {"params": [three], "bounds": (-1, 2)}], population_size=2))
    assert space.per_coordinate([5.0, 7.0]).tolist() == [5, 5, 5, 7, 7, 7]
    lower, upper = space.bounds
    assert lower.tolist() == [-math.inf] * 3 + [-1] * 3
    assert upper.tolist() == [math.inf] * 3 + [2] * 3
    assert space.clamp(torch.full((6,), 9.0)).tolist() == [9, 9, 9, 2, 2, 2]


@pytest.mark.parametrize("size", [2, 2000])
def test_without_bounds_the_colony_begins_one_step_around_the_parameters(size: int) -> None:
    start = torch.full((size,), 3.0)
    optimizer = BFO([start], population_size=400, step_size_max=0.5, generator=torch.Generator().manual_seed(0))
    away = (optimizer.population - 3.0).norm(dim=1)
    assert away[0] == 0
    assert away[1:].square().mean().sqrt().item() == pytest.approx(0.5, rel=0.1)


def test_with_bounds_it_begins_anywhere_in_them_and_the_first_member_nearest_to_the_parameters() -> None:
    optimizer = BFO(
        [torch.tensor([9.0, 0.5])], population_size=2000, bounds=(-1, 3), generator=torch.Generator().manual_seed(0)
    )
    assert optimizer.population[0].tolist() == [3, 0.5]
    quartiles = torch.quantile(optimizer.population[1:], torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]), dim=0)
    wanted = torch.tensor([-1.0, 0.0, 1.0, 2.0, 3.0]).unsqueeze(1).expand(5, 2)
    assert torch.allclose(quartiles, wanted, atol=0.15)


def test_flights_are_drawn_for_the_groups_that_fly() -> None:
    still, flying = torch.zeros(2), torch.zeros(3)
    optimizer = BFO(
        [{"params": [still]}, {"params": [flying]}],
        population_size=5,
        generator=torch.Generator().manual_seed(0),
    )
    length = space_of(optimizer).levy_length([None, 1.5])
    assert length is not None
    assert bool((length[:, :2] == 1).all())
    assert length[:, 2:].unique().numel() == 5  # one flight a member
    twin = torch.Generator().manual_seed(0)
    noise = torch.randn((5, 2), generator=twin)
    wanted = foraging.levy_length(noise, torch.tensor([1.5]), torch.tensor([foraging.mantegna_sigma(1.5)]))
    assert torch.equal(length[:, 2:3], wanted)
    assert space_of(BFO([still])).levy_length([None]) is None
