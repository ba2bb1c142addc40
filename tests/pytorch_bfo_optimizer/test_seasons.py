from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pytorch_bfo_optimizer import covariance, differential, momentum
from pytorch_bfo_optimizer.adaptive import AdaptiveHyperparameters
from pytorch_bfo_optimizer.flat import ParameterVector
from pytorch_bfo_optimizer.seasons import (
    COVARIANCE,
    DIFFERENTIAL,
    MOMENTUM,
    PART_NAMES,
    SEASONS,
    AdaptiveColony,
    Clock,
    names_of,
    packed,
    unpacked,
)
from pytorch_bfo_optimizer.space import SearchSpace

ALL = [COVARIANCE, MOMENTUM, DIFFERENTIAL]
USUAL: dict[str, Any] = {
    "lr": 1.0,
    "population_size": 0,
    "bounds": None,
    "reevaluate": False,
    "chunk_size": None,
    "step_size": None,
    "horizon": None,
}


def space_of(
    *sizes: int, groups: list[dict[str, Any]] | None = None, dtype: torch.dtype = torch.float64, seed: int = 0
) -> SearchSpace:
    """One parameter of each size in each group."""
    params = [torch.zeros(size, dtype=dtype) for size in sizes]
    hypers = [AdaptiveHyperparameters(**{**USUAL, **group}) for group in groups or [{}] * len(sizes)]
    source = torch.Generator().manual_seed(seed)
    return SearchSpace(ParameterVector(params), hypers, [1] * len(sizes), source)


def units(space: SearchSpace, cycle: int = 0) -> Tensor:
    return space.per_coordinate([group.unit(cycle) for group in space.groups])  # type: ignore[attr-defined]


def begun(season: int, space: SearchSpace, *, members: int = 8, **clock: Any) -> tuple[Any, Clock, Tensor]:
    centre_D = space.vector.read()
    at_start = Clock(season=season, members=members, **{"allotted": 10_000, **clock})
    return SEASONS[season].begin(at_start, space, space.clamp(centre_D), units(space))


def generation(
    season: int, state: tuple[Any, Clock, Tensor], space: SearchSpace, fn: Any, lr: Tensor | None = None
) -> tuple[tuple[Any, Clock, Tensor], Tensor, Tensor]:
    """One generation: the state after it, and what was evaluated, and the losses there."""
    part, clock, position_PD = state
    spread = SEASONS[season].spread(part, clock, space, position_PD, lr)
    found_P = fn(spread.position.double())
    part, position_PD, _ = SEASONS[season].learn(spread, clock, found_P, lr)
    clock = clock._replace(age=clock.age + 1, spent=clock.spent + len(found_P))
    return (part, clock, position_PD), spread.position, found_P


def bowl(x_PD: Tensor) -> Tensor:
    return ((x_PD - 0.7) ** 2).sum(dim=1)


# --- each season is its equations, fed with noise ---


def test_a_covariance_drift_is_fed_by_the_generator() -> None:
    space, source = space_of(3), torch.Generator().manual_seed(0)
    state = begun(COVARIANCE, space)
    drift = covariance.begin(torch.zeros(3, dtype=torch.float64), 0.1, torch.float64)
    by = covariance.rates(8, 3, torch.float64, torch.device("cpu"))
    for age in range(1, 12):
        noise_PD = torch.randn(8, 3, generator=source).double()
        if age == 1:
            noise_PD[0] = 0
        tumble_PD, position_PD = covariance.spread(drift, noise_PD)
        drift = covariance.learn(drift, by, noise_PD, tumble_PD, bowl(position_PD), age=age)
        state, evaluated_PD, _ = generation(COVARIANCE, state, space, bowl)
        assert torch.equal(evaluated_PD, position_PD)
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(state[0], drift, strict=True))


def test_a_momentum_drift_is_fed_by_the_generator_and_looks_at_its_centre_now_and_then() -> None:
    space, source = space_of(90), torch.Generator().manual_seed(0)
    state = begun(MOMENTUM, space)
    drift = momentum.begin(torch.zeros(90, dtype=torch.float64), 0.1, torch.ones(90, dtype=torch.float64))
    by = momentum.pairs(8, torch.float64, torch.device("cpu"))
    for age in range(23):
        noise_HD = torch.randn(4, 90, generator=source).double()
        if age % 10 == 0:
            noise_HD[0] = 0
        position_PD = momentum.spread(drift, by, noise_HD)
        state, evaluated_PD, _ = generation(MOMENTUM, state, space, bowl)
        assert torch.equal(evaluated_PD, position_PD)
        assert torch.equal(evaluated_PD[0], drift.centre) == (age % 10 == 0)
        drift = momentum.learn(drift, by, noise_HD, bowl(position_PD))
        assert torch.equal(state[0].centre, drift.centre)


def test_where_losses_go_stale_the_first_of_a_momentum_drift_is_always_the_centre() -> None:
    space = space_of(90, groups=[{"reevaluate": True}])
    state = begun(MOMENTUM, space)
    for _ in range(12):
        centre_D = state[0].centre
        state, evaluated_PD, _ = generation(MOMENTUM, state, space, bowl)
        assert torch.equal(evaluated_PD[0], centre_D)


def test_differential_tumbles_are_sensed_first_and_then_fed_by_the_generator() -> None:
    space, source = space_of(3, groups=[{"bounds": (-5.0, 5.0)}]), torch.Generator().manual_seed(0)
    state = begun(DIFFERENTIAL, space)
    torch.randn(8, 3, generator=source)  # of places around the centre, where there are no bounds
    share_PD = torch.rand(8, 3, generator=source)
    assert torch.allclose(state[2], -5 + 10 * share_PD.double(), atol=1e-6)
    scattered_PD = state[2]
    state, evaluated_PD, loss_P = generation(DIFFERENTIAL, state, space, bowl)
    assert torch.equal(evaluated_PD, scattered_PD)
    assert torch.equal(state[2], scattered_PD)
    assert torch.equal(state[0].loss, loss_P)
    swarm, position_PD = state[0], scattered_PD
    for _ in range(10):
        uniform = torch.rand(8, 6 + 3, generator=source)
        normal_P = torch.randn(8, 1, generator=source)[:, 0]
        made = differential.moves(swarm, position_PD, uniform[:, :6], normal_P, uniform[:, 6:], *space.bounds)
        swarm, position_PD = differential.learn(swarm, position_PD, made, bowl(made.position))
        state, evaluated_PD, _ = generation(DIFFERENTIAL, state, space, bowl)
        assert torch.equal(evaluated_PD, made.position)
        assert torch.equal(state[2], position_PD)


def test_the_differential_colony_shrinks_by_the_clock() -> None:
    space = space_of(3, groups=[{"bounds": (-5.0, 5.0)}])
    state, sizes = begun(DIFFERENTIAL, space, members=30, allotted=600), []
    while state[1].spent < 600:
        best = float("inf") if state[1].age == 0 else float(state[0].loss.min())
        state, evaluated_PD, _ = generation(DIFFERENTIAL, state, space, bowl)
        sizes.append(len(evaluated_PD))
        part, clock, position_PD = state
        assert len(position_PD) == len(part.loss) == len(part.archive)
        assert clock.age == 1 or len(position_PD) == differential.size_after(30, clock.spent, 600)
        assert float(part.loss.min()) <= best  # the best is never among those who leave
    assert sizes[:2] == [30, 30]
    assert len(state[2]) == 4


# --- what the space does to all of them ---


@pytest.mark.parametrize("season", ALL)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("lr", [1.0, 0.3, 1.9])
def test_nothing_outside_the_bounds_is_evaluated(season: int, dtype: torch.dtype, lr: float) -> None:
    groups: list[dict[str, Any]] = [{"bounds": (-0.1, 0.3)}, {"bounds": None}, {"bounds": (-2.0, 0.30005)}]
    space = space_of(2, 1, 2, groups=groups, dtype=dtype)
    state, share = begun(season, space), None if lr == 1.0 else torch.tensor([lr], dtype=space.dtype)
    seen = []
    for _ in range(60):
        state, evaluated_PD, _ = generation(season, state, space, bowl, share)
        assert evaluated_PD.dtype == dtype
        seen.append(evaluated_PD.double())
    seen_PD = torch.cat(seen)
    assert seen_PD[:, :2].min() >= -0.1
    assert seen_PD[:, :2].max() <= 0.3
    assert seen_PD[:, 3:].max() <= 0.30005
    assert seen_PD[:, :2].max() > 0.25  # the optimum lies behind the wall
    assert lr < 1 or seen_PD[:, 2].max() > 0.35  # no wall there


@pytest.mark.parametrize("season", [COVARIANCE, MOMENTUM])
def test_each_group_tumbles_by_its_own_step_size(season: int) -> None:
    space = space_of(40, 30, groups=[{"step_size": 0.01}, {"step_size": 2.0}])
    state = begun(season, space, members=40)
    (part, clock, _), evaluated_PD, _ = generation(season, state, space, bowl)
    assert evaluated_PD[1:, :40].std() == pytest.approx(0.01, rel=0.1)
    assert evaluated_PD[1:, 40:].std() == pytest.approx(2.0, rel=0.1)
    assert clock.first_scale == pytest.approx(2.0)
    moved_D = part.centre.abs()
    assert moved_D[:40].mean() < 0.02 * moved_D[40:].mean()


@pytest.mark.parametrize("season", [COVARIANCE, MOMENTUM])
def test_the_learning_rate_is_the_share_of_the_drift_that_is_made(season: int) -> None:
    ends = {}
    for lr in (None, 0.0, 0.25):
        space = space_of(70)
        state = begun(season, space)
        share = None if lr is None else torch.tensor([lr], dtype=torch.float64)
        state, _, _ = generation(season, state, space, bowl, share)
        ends[lr] = state[0].centre
    assert ends[0.0].tolist() == [0.0] * 70
    assert ends[None].norm() > 0
    assert torch.allclose(ends[0.25], ends[None] / 4)


def test_the_learning_rate_is_the_share_of_each_tumble_that_is_made() -> None:
    ends = {}
    for lr in (None, 0.0, 0.25):
        space = space_of(3, groups=[{"bounds": (-5.0, 5.0)}])
        state, _, _ = generation(DIFFERENTIAL, begun(DIFFERENTIAL, space), space, bowl)
        start_PD = state[2]
        share = None if lr is None else torch.tensor([lr], dtype=torch.float64)
        _, evaluated_PD, _ = generation(DIFFERENTIAL, state, space, bowl, share)
        ends[lr] = evaluated_PD - start_PD
    assert not ends[0.0].any()
    assert torch.allclose(ends[0.25], ends[None] / 4)


@pytest.mark.parametrize("season", ALL)
def test_what_a_season_computes_in_is_precise_enough(season: int) -> None:
    space = space_of(3, dtype=torch.bfloat16)
    part, _, position_PD = begun(season, space)
    assert position_PD.dtype == torch.bfloat16
    wanted = {COVARIANCE: torch.float64, MOMENTUM: torch.float32, DIFFERENTIAL: torch.float64}[season]
    assert (part.loss if season == DIFFERENTIAL else part.centre).dtype == wanted


@pytest.mark.parametrize("season", ALL)
def test_a_season_begins_on_the_device_and_in_the_dtype_of_the_vector_whatever_is_torchs_default(season: int) -> None:
    space = space_of(3)
    torch.set_default_dtype(torch.float16)
    try:
        with torch.device("meta"):
            state = begun(season, space)
            for _ in range(2):
                state, evaluated_PD, _ = generation(season, state, space, bowl)
    finally:
        torch.set_default_dtype(torch.float32)
    tensors = [value for value in (*state[0], evaluated_PD) if isinstance(value, Tensor)]
    assert {str(tensor.device) for tensor in tensors} == {"cpu"}
    if season != DIFFERENTIAL:
        assert {tensor.dtype for tensor in tensors} == {torch.float64}


# --- how a colony is kept ---


@pytest.mark.parametrize("season", ALL)
def test_a_colony_is_kept_under_names_that_tell_its_season(season: int) -> None:
    part, clock, position_PD = begun(season, space_of(3))
    unknown = torch.tensor(math.inf, dtype=torch.float64)
    loss_P = part.loss if season == DIFFERENTIAL else unknown.expand(8)
    colony = AdaptiveColony(position_PD, torch.zeros(3), unknown, loss_P, part, clock)
    kept = packed(colony)
    assert set(kept) == set(names_of(kept))
    assert kept["season"] == season
    assert PART_NAMES.intersection(kept) == {*type(part)._fields, "loss"}
    again = unpacked(kept)
    assert again.clock == clock
    assert all(mine is theirs for mine, theirs in zip(again.part, part, strict=True))
    assert again.position is position_PD
    plain = {type(value) for value in kept.values() if not isinstance(value, Tensor)}
    assert plain <= {int, float}  # torch.load(weights_only=True) takes them
