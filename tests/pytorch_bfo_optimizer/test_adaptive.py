from __future__ import annotations

import copy
import gc
import io
import math
import pickle
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.optim.lr_scheduler import StepLR
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bfo_diag.cases.digits_mlp import digits
from pytorch_bfo_optimizer import (
    AdaptiveBFO,
    FunctionObjective,
    HyperparameterError,
    ModelObjective,
    NonFiniteGenerationError,
    StateMismatchError,
    StepRecord,
)
from pytorch_bfo_optimizer.seasons import COVARIANCE, DIFFERENTIAL, MOMENTUM

Fn = Callable[[Tensor], Tensor]


def sphere(x_PD: Tensor) -> Tensor:
    return (x_PD**2).sum(dim=1)


def rosenbrock(x_PD: Tensor) -> Tensor:
    return (100 * (x_PD[:, 1:] - x_PD[:, :-1] ** 2) ** 2 + (1 - x_PD[:, :-1]) ** 2).sum(dim=1)


def rastrigin(x_PD: Tensor) -> Tensor:
    return (x_PD**2 + 10 - 10 * torch.cos(2 * math.pi * x_PD)).sum(dim=1)


def stairs(x_PD: Tensor) -> Tensor:
    """Flat between its steps: a season that waits for the losses to stand still is soon over."""
    return rastrigin(x_PD.double()).floor()


@dataclass
class Seen:
    """A batched objective that notes what it was asked for."""

    fn: Fn
    asked: list[Tensor] = field(default_factory=list)

    def bind(self, params: Any) -> None:
        pass

    def evaluate_population(self, pop_PD: Tensor) -> Tensor:
        self.asked.append(pop_PD.clone())
        return self.fn(pop_PD)

    @property
    def rows(self) -> list[int]:
        return [len(pop_PD) for pop_PD in self.asked]


@dataclass
class Trial:
    """An optimizer at the start of a landscape."""

    fn: Fn
    size: int = 2
    start: float = 2.3
    seed: int = 0
    dtype: torch.dtype = torch.float64
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.param = torch.full((self.size,), self.start, dtype=self.dtype)
        source = torch.Generator().manual_seed(self.seed)
        self.optimizer = AdaptiveBFO([self.param], generator=source, **self.settings)
        self.objective = Seen(self.fn)

    @property
    def state(self) -> dict[str, Any]:
        if not self.optimizer.initialised:
            self.optimizer.step()
        found: dict[str, Any] = self.optimizer.state[self.param]
        return found

    @property
    def season(self) -> tuple[int, int]:
        """Which it is, and how often the colony was dispersed before."""
        return self.state["season"], self.state["cycle"]

    def step(self, times: int = 1) -> list[float]:
        return [self.optimizer.step(self.objective) for _ in range(times)]

    def until(self, season: int, *, age: int = 0, cycle: int = 0) -> Trial:
        """Step until the season has this age."""
        for _ in range(3000):
            if self.season == (season, cycle) and self.state["age"] >= age:
                return self
            self.step()
        raise AssertionError("that season never came")

    def trail(self, steps: int) -> list[Any]:
        """What can be seen of some steps, to the bit."""
        seen = []
        for _ in range(steps):
            loss = self.optimizer.step(self.objective)
            seen.append((loss, self.season, self.optimizer.population.tolist(), self.param.tolist()))
        return seen


def two_seasons(**settings: Any) -> Trial:
    return Trial(stairs, settings={"bounds": (-5.0, 5.0), "horizon": 2500, **settings})


def many_coordinates(**settings: Any) -> Trial:
    return Trial(sphere, size=70, settings=settings)


def in_season(season: int, **settings: Any) -> Trial:
    """A colony a few generations into a season."""
    if season == MOMENTUM:
        return many_coordinates(**settings).until(MOMENTUM, age=3)
    return two_seasons(**settings).until(season, age=3)


ALL = pytest.mark.parametrize("season", [COVARIANCE, MOMENTUM, DIFFERENTIAL], ids=["covariance", "momentum", "tumbles"])


def saved_and_loaded(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def flattened(optimizer: AdaptiveBFO) -> dict[Any, Any]:
    """The whole state dict, as values that can be compared."""
    found = optimizer.state_dict()
    values = {(key, name): value for key, kept in found["state"].items() for name, value in kept.items()}
    return {key: (value.dtype, value.tolist()) if isinstance(value, Tensor) else value for key, value in values.items()}


# --- which season follows which ---


def test_a_multimodal_landscape_sees_three_seasons_and_the_tumblers_are_fewer_and_fewer() -> None:
    trial = Trial(rastrigin, size=5, settings={"bounds": (-5.0, 5.0), "horizon": 4000})
    seasons = []
    while trial.optimizer.evaluations < 4000:
        seasons.append(trial.season)
        trial.step()
    assert [season for season, _ in groupby(seasons)] == [(COVARIANCE, 0), (DIFFERENTIAL, 0), (COVARIANCE, 1)]
    rows = {season: [] for season in seasons}
    for season, count in zip(seasons, trial.objective.rows, strict=True):
        rows[season].append(count)
    tumblers, before = rows[DIFFERENTIAL, 0], sum(rows[COVARIANCE, 0])
    assert set(rows[COVARIANCE, 0]) == {8}
    assert set(rows[COVARIANCE, 1]) == {(4000 - before - sum(tumblers)) // 50}  # fewer than 16
    assert sum(tumblers) == pytest.approx(0.7 * (4000 - before), abs=5)
    assert tumblers[0] == round(0.7 * (4000 - before) / (70 * math.sqrt(5)))
    assert tumblers == sorted(tumblers, reverse=True)
    assert tumblers[-1] in (4, 5)


def test_each_dispersal_doubles_the_colony_as_far_as_the_budget_feeds_it() -> None:
    trial, members = two_seasons(horizon=20_000), {}
    while trial.optimizer.evaluations < 19_900:
        left = 20_000 - trial.optimizer.evaluations
        if trial.season[0] == COVARIANCE and trial.state["age"] == 0:
            members[trial.season[1]] = (trial.state["members"], left)
        trial.step()
    doubled = [count for count, _ in members.values()]
    assert doubled[:4] == [6, 12, 24, 48]
    assert doubled[-1] < 6 * 2 ** (len(doubled) - 1)
    for count, left in members.values():
        assert count <= max(left // 50, 6)


def test_without_a_horizon_drift_and_tumbles_take_turns_and_each_turn_is_longer() -> None:
    trial = Trial(stairs, settings={"bounds": (-5.0, 5.0)})
    seasons, allotted = [], {}
    while trial.season != (COVARIANCE, 2):
        seasons.append(trial.season)
        allotted[trial.season] = trial.state["allotted"]
        trial.step()
    order = [season for season, _ in groupby(seasons)]
    assert order == [(COVARIANCE, 0), (DIFFERENTIAL, 0), (COVARIANCE, 1), (DIFFERENTIAL, 1)]
    assert [allotted[season] for season in order] == [0, 1000, 0, 2000]


def test_a_budget_too_small_for_tumbles_goes_to_drifts_alone() -> None:
    trial = Trial(stairs, settings={"bounds": (-5.0, 5.0), "horizon": 400})
    seasons = []
    while trial.optimizer.evaluations < 400:
        seasons.append(trial.season)
        trial.step()
    assert {season for season, _ in seasons} == {COVARIANCE}
    assert seasons[-1][1] > 0


def test_a_dispersed_colony_drifts_elsewhere_and_its_best_is_not_forgotten() -> None:
    trial = two_seasons().until(COVARIANCE, cycle=1)
    best = trial.optimizer.best_fitness
    assert (trial.state["centre"] - trial.param).norm() > 0.1
    trial.step(2)
    assert trial.optimizer.best_fitness == best


def test_each_dispersal_without_bounds_reaches_four_times_as_far() -> None:
    trial = Trial(stairs, settings={"step_size": 0.5, "horizon": 20_000})
    scales = {}
    while len(scales) < 4:
        if trial.season[0] == COVARIANCE and trial.state["age"] == 0:
            scales[trial.season[1]] = trial.state["first_scale"]
        trial.step()
    assert scales == {0: 0.5, 1: 2.0, 2: 8.0, 3: 32.0}


def test_tumbles_that_have_all_found_the_same_loss_are_over() -> None:
    trial = two_seasons()
    trial.objective.fn = lambda x_PD: stairs(x_PD) * 0
    trial.until(DIFFERENTIAL)
    trial.step(10)
    assert trial.season == (COVARIANCE, 1)
    assert trial.optimizer.evaluations < 700  # of 2500


@pytest.mark.parametrize("size", [2, 70])
def test_where_losses_go_stale_no_old_losses_are_compared(size: int) -> None:
    trial = Trial(stairs, size=size, settings={"reevaluate": True, "horizon": 4000, "bounds": (-5.0, 5.0)})
    seasons = set()
    for _ in range(150):
        seasons.add(trial.season[0])
        trial.step()
    assert seasons == {COVARIANCE if size == 2 else MOMENTUM}


def test_on_a_plateau_the_momentum_drift_shortens_its_steps() -> None:
    trial = Trial(lambda x_PD: x_PD[:, 0] * 0 + 3, size=70)
    scales = []
    for _ in range(41):
        trial.step()
        scales.append(float(trial.state["scale"]))
    assert scales == pytest.approx([0.1] * 19 + [0.07] * 10 + [0.049] * 10 + [0.0343] * 2)


def test_while_the_mean_loss_falls_the_steps_stay_as_they_are() -> None:
    trial = Trial(lambda x_PD: x_PD.sum(dim=1), size=70)
    trial.step(60)
    assert float(trial.state["scale"]) == 0.1


def test_by_the_horizon_the_steps_have_fallen_to_a_twentieth_and_stay_there() -> None:
    trial = Trial(lambda x_PD: x_PD.sum(dim=1), size=70, settings={"horizon": 1010, "step_size": 0.4})
    shares = {}
    while trial.optimizer.evaluations < 1300:
        trial.step()
        shares[trial.optimizer.evaluations] = float(trial.state["scale"]) / 0.4
    for spent, share in shares.items():
        assert share == pytest.approx(1 - 0.95 * min(spent / 1010, 1))
    assert min(shares.values()) == pytest.approx(0.05)


def test_minimize_lets_the_steps_fall_over_its_own_budget() -> None:
    trial = Trial(lambda x_PD: x_PD.sum(dim=1), size=70, settings={"horizon": 10_000_000})
    trial.optimizer.minimize(trial.objective, max_evaluations=1000)
    assert float(trial.state["scale"]) == pytest.approx(0.1 * 0.05, rel=0.25)
    assert trial.season == (MOMENTUM, 0)


def test_a_change_of_season_is_in_the_records() -> None:
    trial, records = two_seasons(), list[StepRecord]()
    trial.optimizer.on_step.append(records.append)
    trial.until(COVARIANCE, cycle=1)
    turned = [index for index, record in enumerate(records) if record.dispersed]
    rows = trial.objective.rows
    assert [records[index].reproduced for index in turned] == [True, False]
    assert records[turned[0]].dispersed == rows[turned[0] + 1]  # into tumblers
    assert records[turned[1]].dispersed == 12  # into a drift twice as large
    assert turned[1] == len(records) - 1
    assert [record.evaluations for record in records] == rows
    assert records[-1].evaluations_total == sum(rows)
    assert records[0].improved == rows[0]  # than nothing known
    assert sum(record.improved > 0 for record in records) >= len({record.best_loss for record in records})
    assert not any(record.used_gradient for record in records)


# --- evaluations ---


@pytest.mark.parametrize(
    ("size", "members", "wanted"),
    [
        (1, None, 4),
        (2, None, 6),
        (64, None, 16),
        (65, None, 20),
        (2, 5, 5),
        (2, 31, 31),
        (64, 4, 4),
        (70, 4, 4),
        (70, 26, 26),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_generation_is_one_call_of_p_rows(size: int, members: int | None, wanted: int, dtype: torch.dtype) -> None:
    trial = Trial(sphere, size=size, dtype=dtype, settings={"population_size": members})
    losses = trial.step(12)
    assert trial.objective.rows == [wanted] * 12
    assert trial.optimizer.evaluations == 12 * wanted
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]
    assert trial.state["season"] == (COVARIANCE if size <= 64 else MOMENTUM)
    assert {pop_PD.dtype for pop_PD in trial.objective.asked} == {dtype}
    assert trial.param.dtype == dtype


def test_a_fixed_population_is_kept_by_every_season() -> None:
    trial = two_seasons(population_size=9)
    while trial.season[1] < 2:
        drifting = trial.season[0] == COVARIANCE
        trial.step()
        assert trial.objective.rows[-1] == 9 if drifting else 4 <= trial.objective.rows[-1] <= 9


@pytest.mark.parametrize("size", [2, 70])
def test_the_first_member_of_all_is_the_parameters_as_they_are(size: int) -> None:
    trial = Trial(sphere, size=size)
    here_D = trial.param.clone()
    trial.step()
    assert torch.equal(trial.objective.asked[0][0], here_D)
    assert not torch.equal(trial.objective.asked[0][1], here_D)


@pytest.mark.parametrize(("members", "words"), [(3, "needs at least 4"), (0, "at least 4, or None"), (1, "at least 4")])
def test_too_few_members_are_refused(members: int, words: str) -> None:
    with pytest.raises(HyperparameterError, match=words):
        AdaptiveBFO([torch.zeros(2)], population_size=members)


def test_settings_of_its_relatives_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match="AdaptiveBFO has no argument 'swim_length'; it has lr, population_size"):
        AdaptiveBFO([torch.zeros(2)], swim_length=4)


# --- determinism, and the state ---


@ALL
def test_the_same_seed_gives_the_same_bits_and_torchs_own_generator_is_left_alone(season: int) -> None:
    before = torch.get_rng_state()
    first, second = (in_season(season) for _ in range(2))
    assert first.trail(5) == second.trail(5)
    assert torch.equal(torch.get_rng_state(), before)
    other = in_season(season)
    other.optimizer.generator.manual_seed(5)
    assert other.trail(5) != first.trail(5)


def resumed(trial: Trial, how: str) -> Trial:
    """Another trial with an optimizer that was made from what there is of this one."""
    twin = copy.copy(trial)
    twin.objective = Seen(trial.fn)
    if how == "state_dict":
        twin.param = trial.param.clone()
        twin.optimizer = AdaptiveBFO([twin.param], generator=torch.Generator().manual_seed(99), **trial.settings)
        twin.optimizer.load_state_dict(saved_and_loaded(trial.optimizer.state_dict()))
    else:
        copied = copy.deepcopy(trial.optimizer) if how == "deepcopy" else pickle.loads(pickle.dumps(trial.optimizer))
        twin.optimizer, (twin.param,) = copied, copied.param_groups[0]["params"]
    return twin


@pytest.mark.parametrize("how", ["state_dict", "deepcopy", "pickle"])
@ALL
def test_resuming_within_a_season_is_bitwise_equal_to_going_on(season: int, how: str) -> None:
    trial = in_season(season)
    twin = resumed(trial, how)
    assert twin.param is not trial.param
    assert twin.trail(8) == trial.trail(8)
    assert flattened(twin.optimizer) == flattened(trial.optimizer)


@pytest.mark.parametrize("how", ["state_dict", "pickle"])
def test_resuming_across_a_change_of_season_is_bitwise_equal_to_going_on(how: str) -> None:
    trial, twins = two_seasons(), []
    while trial.season != (COVARIANCE, 2):
        if not twins or trial.season != twins[-1][0] or trial.state["age"] == 0:
            twins.append((trial.season, resumed(trial, how)))  # as it has begun
        trial.step()
    seasons = [season for season, _ in twins]
    assert seasons == [(COVARIANCE, 0), (DIFFERENTIAL, 0), (COVARIANCE, 1)]
    for begun, twin in twins:
        while twin.season == begun:
            twin.step()
        twin.until(COVARIANCE, cycle=2)
        assert flattened(twin.optimizer) == flattened(trial.optimizer)


def test_a_parameter_keeps_what_its_season_needs_and_nothing_of_the_last() -> None:
    one, two = torch.zeros(1, 2, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    optimizer = AdaptiveBFO([one, two], bounds=(-5, 5), horizon=3000, generator=torch.Generator().manual_seed(0))
    names = {}
    for _ in range(3000):
        optimizer.step(FunctionObjective(stairs))
        season, count = optimizer.state[one]["season"], len(optimizer.population)
        names[season, optimizer.state[one]["cycle"]] = set(optimizer.state[two])
        assert optimizer.state[one]["position"].shape == (count, 1, 2)
        assert optimizer.state[two]["position"].shape == (count,)
        if optimizer.state[one]["cycle"] == 1:
            break
    drift = {"position", "best", "centre", "path", "velocity"}
    assert names == {
        (COVARIANCE, 0): drift,
        (DIFFERENTIAL, 0): {"position", "best", "archive"},
        (COVARIANCE, 1): drift,
    }
    assert "history" not in optimizer.state[one]


def test_the_colony_of_a_relative_is_refused() -> None:
    from pytorch_bfo_optimizer import BFO

    param = torch.ones(2)
    other = BFO([param], population_size=4)
    other.step(FunctionObjective(sphere))
    with pytest.raises(StateMismatchError, match="which AdaptiveBFO needs"):
        AdaptiveBFO([param]).load_state_dict(other.state_dict())


# --- minimize ---


@pytest.mark.parametrize("hooked", [False, True], ids=["in-hand", "watched"])
@pytest.mark.parametrize(
    ("make", "budget"), [(two_seasons, 2500), (many_coordinates, 800), (lambda **s: two_seasons(lr=0.8, **s), 2500)]
)
def test_minimize_is_a_loop_of_steps(make: Any, budget: int, hooked: bool) -> None:
    trial, twin = make(horizon=budget), make(horizon=budget)
    records = list[StepRecord]()
    if hooked:
        trial.optimizer.on_step.append(records.append)
    result = trial.optimizer.minimize(trial.objective, max_evaluations=budget)
    while twin.optimizer.evaluations + twin.optimizer._generation_cost() <= budget:
        twin.step()
    assert flattened(trial.optimizer) == flattened(twin.optimizer)
    assert torch.equal(trial.param, twin.param)
    assert result.best_loss == twin.optimizer.best_fitness
    assert torch.equal(result.best_params[0], trial.param)
    assert (result.evaluations, result.generations) == (twin.optimizer.evaluations, twin.optimizer.generation)
    assert len(records) == (result.generations if hooked else 0)
    assert trial.trail(5) == twin.trail(5)  # and from there on


def test_minimize_with_a_closure_is_a_loop_of_steps_too(make_bowl: Callable[..., Any]) -> None:
    ends = []
    for in_hand in (True, False):
        bowl = make_bowl()
        optimizer = AdaptiveBFO(bowl.params, horizon=400, generator=torch.Generator().manual_seed(0))
        if in_hand:
            result = optimizer.minimize(bowl, max_evaluations=400)
            assert bowl.calls == result.evaluations == optimizer.evaluations <= 400
        else:
            while optimizer.evaluations + 10 <= 400:
                optimizer.step(bowl)
        ends.append((flattened(optimizer), [param.tolist() for param in bowl.params]))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("watch", ["on_step", "pre_hook", "post_hook", "scheduler"])
def test_whoever_looks_on_sees_every_step(watch: str) -> None:
    trial, seen = two_seasons(), list[int]()
    look = {
        "on_step": lambda: trial.optimizer.on_step.append(lambda record: seen.append(record.generation)),
        "pre_hook": lambda: trial.optimizer.register_step_pre_hook(
            lambda optimizer, args, kwargs: seen.append(trial.optimizer.generation + 1)
        ),
        "post_hook": lambda: trial.optimizer.register_step_post_hook(
            lambda optimizer, args, kwargs: seen.append(trial.optimizer.generation)
        ),
        "scheduler": lambda: StepLR(trial.optimizer, step_size=1),
    }
    scheduler = look[watch]()
    result = trial.optimizer.minimize(trial.objective, max_evaluations=60)
    if watch == "scheduler":
        scheduler.step()  # which warns where no step was seen before
    else:
        assert seen == list(range(1, result.generations + 1))


def test_a_scheduler_that_steps_in_the_closure_holds_from_the_next_generation() -> None:
    param = torch.ones(2, dtype=torch.float64)
    optimizer = AdaptiveBFO([param], generator=torch.Generator().manual_seed(0))
    scheduler, centres = StepLR(optimizer, step_size=1, gamma=0.0), []

    def closure() -> Tensor:
        if optimizer.evaluations == 12:
            scheduler.step()
        centres.append(optimizer.state[param]["centre"].clone())
        return (param**2).sum()

    optimizer.minimize(closure, max_evaluations=36)
    assert not torch.equal(centres[0], centres[6])
    assert torch.equal(centres[18], centres[30])  # lr is 0


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("budget", [6, 11, 100, 2003])
def test_minimize_never_exceeds_its_budget(budget: int, hooked: bool) -> None:
    trial = Trial(stairs, settings={"bounds": (-5.0, 5.0)})
    if hooked:
        trial.optimizer.on_step.append(lambda record: None)
    for _ in range(3):  # the colony lives on
        before = sum(trial.objective.rows)
        result = trial.optimizer.minimize(trial.objective, max_evaluations=budget)
        assert sum(trial.objective.rows) - before == result.evaluations <= budget
        assert result.why == "budget"
        assert result.generations > 0
        budget += 60


@pytest.mark.parametrize("hooked", [False, True])
def test_nor_where_parameters_changed_from_outside_begin_another_colony(hooked: bool) -> None:
    trial, noise = two_seasons().until(DIFFERENTIAL), torch.Generator().manual_seed(0)
    trial.objective.fn = lambda x_PD: torch.rand(len(x_PD), generator=noise)  # no two members ever agree
    while len(trial.optimizer.population) > 4:
        trial.step()
    assert trial.season == (DIFFERENTIAL, 0)
    trial.param.fill_(1.0)
    if hooked:
        trial.optimizer.on_step.append(lambda record: None)
    trial.objective.asked.clear()
    with pytest.raises(HyperparameterError, match="one generation may cost 6"):
        trial.optimizer.minimize(trial.objective, max_evaluations=5)
    assert trial.optimizer.minimize(trial.objective, max_evaluations=7).evaluations == 6
    assert trial.objective.rows == [6]


def test_minimize_ends_at_its_target() -> None:
    trial = Trial(sphere)
    result = trial.optimizer.minimize(trial.objective, max_evaluations=5000, target=0.1)
    assert result.why == "target"
    assert result.best_loss <= 0.1
    losses = [float(sphere(pop_PD).min()) for pop_PD in trial.objective.asked]
    assert min(losses[:-1]) > 0.1
    assert result.generations == len(losses) == trial.optimizer.generation


@pytest.mark.parametrize("hooked", [False, True])
@ALL
def test_an_exception_in_minimize_leaves_the_last_complete_generation(season: int, hooked: bool) -> None:
    """At a row in the middle, in a closure that is called member by member."""
    ends = []
    for broken in (True, False):
        trial = in_season(season, horizon=2500)
        if hooked:
            trial.optimizer.on_step.append(lambda record: None)
        cost, calls, error = trial.optimizer._generation_cost(), 0, KeyError("mine")

        def closure(trial: Trial = trial, broken: bool = broken, cost: int = cost, error: Any = error) -> Tensor:
            nonlocal calls
            calls += 1
            if broken and calls > 2 * cost + 2:
                raise error
            return trial.fn(trial.param.unsqueeze(0))[0]

        before = trial.optimizer.evaluations
        if broken:
            with pytest.raises(KeyError) as caught:
                trial.optimizer.minimize(closure, max_evaluations=2500 - before)
            assert caught.value is error
            assert trial.optimizer.evaluations - before == calls
        else:
            for _ in range(2):
                trial.optimizer.step(closure)
        state = flattened(trial.optimizer)
        assert state.pop((0, "evaluations")) - before == calls
        ends.append((state, trial.param.tolist()))
        if broken:  # another call goes on from there
            best = trial.optimizer.best_fitness
            twin = resumed(trial, "deepcopy")
            result = twin.optimizer.minimize(twin.objective, max_evaluations=100)
            assert result.best_loss <= best
            assert result.evaluations == sum(twin.objective.rows) <= 100
    assert ends[0] == ends[1]


# --- losses that are no numbers ---


@ALL
def test_losses_that_are_not_finite_lose_and_are_counted(season: int) -> None:
    trial = in_season(season)
    before, wrong = trial.optimizer.nonfinite_evaluations, 0

    def fn(x_PD: Tensor) -> Tensor:
        nonlocal wrong
        loss_P = trial.fn(x_PD).double()
        for row, value in enumerate((math.nan, -math.inf, math.inf)):
            loss_P[row] = value
            wrong += 1
        return loss_P

    trial.objective.fn = fn
    best = trial.optimizer.best_fitness
    losses = trial.step(6)
    assert trial.optimizer.nonfinite_evaluations - before == wrong == 18
    assert all(math.isfinite(loss) and loss <= best for loss in losses)
    assert bool(trial.state["loss"].isfinite().any())
    for name in ("centre", "scale", "history", "covariance", "velocity"):
        if name in trial.state:
            assert not bool(trial.state[name].isnan().any())


@pytest.mark.parametrize("how", ["step", "in-hand", "watched"])
@pytest.mark.parametrize("size", [2, 70])
def test_a_generation_without_a_finite_loss_raises_and_is_as_if_it_had_not_been(how: str, size: int) -> None:
    def run(fails: bool) -> tuple[Trial, dict[Any, Any]]:
        trial, calls = Trial(sphere, size=size, settings={"horizon": 10_000}), 0
        cost = trial.optimizer._generation_cost()

        def fn(x_PD: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return sphere(x_PD) * (math.nan if calls == 5 and fails else 1.0)

        trial.objective.fn = fn
        if how == "watched":
            trial.optimizer.on_step.append(lambda record: None)
        if fails:
            with pytest.raises(NonFiniteGenerationError, match=f"all {cost} losses evaluated in generation 5 were"):
                trial.step(9) if how == "step" else trial.optimizer.minimize(trial.objective, max_evaluations=10_000)
        else:
            trial.step(4)
        state = flattened(trial.optimizer)
        spent = [state.pop((0, name)) for name in ("evaluations", "nonfinite_evaluations")]
        state.pop((0, "rng_state"))  # the random numbers are used up: the next generation is another
        assert spent == ([5 * cost, cost] if fails else [4 * cost, 0])
        return trial, state

    (trial, state), (twin, wanted) = run(True), run(False)
    assert state == wanted
    assert torch.equal(trial.param, twin.param)
    loss = trial.optimizer.best_fitness
    assert trial.step()[0] <= loss


def test_all_losses_of_the_first_generation_not_finite_leaves_the_parameters() -> None:
    trial = Trial(lambda x_PD: x_PD[:, 0] * math.nan)
    for minimize in (True, False):
        with pytest.raises(NonFiniteGenerationError, match="generation 1"):
            trial.optimizer.minimize(trial.objective, max_evaluations=50) if minimize else trial.step()
        assert trial.param.tolist() == [2.3, 2.3]
    assert trial.optimizer.best_fitness is None
    assert trial.optimizer.best_params[0].tolist() == [2.3, 2.3]


@pytest.mark.parametrize("how", ["minimize", "step"])
@pytest.mark.parametrize("size", [3, 5])
def test_a_dispersal_to_where_no_loss_is_finite_is_not_the_users_error(size: int, how: str) -> None:
    def barrier(x_PD: Tensor) -> Tensor:
        return sphere(x_PD) - torch.log(1 - sphere(x_PD))

    trial = Trial(barrier, size=size, start=0.1, settings={"horizon": 12_000})
    if how == "minimize":
        result = trial.optimizer.minimize(trial.objective, max_evaluations=12_000)
        assert result.evaluations > 11_000
    else:
        while trial.optimizer.evaluations < 12_000:
            trial.step()
    assert 0 <= trial.optimizer.best_fitness < 1e-12
    assert trial.optimizer.nonfinite_evaluations > 0


# --- what the parameters hold, and what changes from outside ---


@ALL
def test_the_parameters_hold_the_best_position_of_all(season: int) -> None:
    trial = in_season(season)
    for _ in range(10):
        (loss,) = trial.step()
        seen_PD = torch.cat(trial.objective.asked)
        loss_P = trial.fn(seen_PD)
        assert loss == trial.optimizer.best_fitness == float(loss_P.min())
        assert torch.equal(trial.param, seen_PD[loss_P.argmin()])


@ALL
def test_parameters_changed_from_outside_are_where_the_next_drift_begins(season: int) -> None:
    trial = in_season(season)
    trial.param.fill_(-1.25)
    trial.objective.asked.clear()
    (loss,) = trial.step()
    assert torch.equal(trial.objective.asked[0][0], torch.full_like(trial.param, -1.25))
    assert trial.state["season"] == (MOMENTUM if season == MOMENTUM else COVARIANCE)
    assert trial.state["age"] == 1
    assert loss == float(trial.fn(trial.objective.asked[0]).min())  # what was known before is of another place


@pytest.mark.parametrize("size", [2, 70])
def test_where_losses_go_stale_the_parameters_hold_the_best_of_the_generation_or_the_centre(size: int) -> None:
    trial = Trial(sphere, size=size, settings={"reevaluate": True})
    for _ in range(5):
        centre_D = trial.state["centre"].clone()
        (loss,) = trial.step()
        seen_PD = trial.objective.asked[-1]
        row = 0 if size == 70 else int(sphere(seen_PD).argmin())
        assert torch.equal(trial.param, seen_PD[row])
        assert loss == trial.optimizer.best_fitness == float(sphere(seen_PD)[row])
        assert size == 2 or torch.equal(trial.param, centre_D)
    trial.objective.fn = lambda x_PD: sphere(x_PD) + 1000
    assert trial.step()[0] > 1000


def test_a_centre_without_a_finite_loss_gives_way_to_the_best_of_the_others() -> None:
    trial = Trial(sphere, size=70, settings={"reevaluate": True})
    trial.step()
    trial.objective.fn = lambda x_PD: sphere(x_PD).index_fill(0, torch.tensor([0]), math.nan)
    (loss,) = trial.step()
    seen_PD = trial.objective.asked[-1]
    best = 1 + int(sphere(seen_PD[1:]).argmin())
    assert loss == float(sphere(seen_PD)[best])
    assert torch.equal(trial.param, seen_PD[best])


def test_mini_batches_of_digits_train_a_network() -> None:
    images, labels = digits()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 10))
    generations = 250
    optimizer = AdaptiveBFO(
        model.parameters(),
        reevaluate=True,
        horizon=generations * 28,
        generator=torch.Generator().manual_seed(0),
    )
    source = torch.Generator().manual_seed(1)
    objective = ModelObjective(model, nn.functional.cross_entropy, (images[:1], labels[:1]))
    for _ in range(generations):
        rows = torch.randint(1300, (128,), generator=source)
        objective.batch = images[rows], labels[rows]
        optimizer.step(objective)
    assert optimizer.evaluations == generations * 28
    with torch.no_grad():
        accuracy = (model(images[1300:]).argmax(dim=1) == labels[1300:]).float().mean().item()
    assert accuracy > 0.75  # of 497 held-out digits; chance is 0.1


# --- bounds ---


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1, 70])
def test_no_position_outside_its_groups_bounds_is_ever_evaluated(size: int, dtype: torch.dtype) -> None:
    """In all seasons; the optimum, 0, is cut off in the first group, and the third has no bounds."""
    one, two, three = (torch.full((size,), 0.2, dtype=dtype) for _ in range(3))
    groups = [
        {"params": [one], "bounds": (0.1, 0.3)},
        {"params": [two], "bounds": (-5.0, 3.0)},
        {"params": [three], "step_size": 0.5},
    ]
    optimizer = AdaptiveBFO(groups, horizon=2000, generator=torch.Generator().manual_seed(0))
    objective = Seen(lambda x_PD: stairs(x_PD) + (x_PD[:, :size].double().sum(dim=1) * 10).floor())
    seasons = set()
    while optimizer.evaluations < 2000:
        optimizer.step(objective)
        seasons.add(optimizer.state[one]["season"])
    seen_PD = torch.cat(objective.asked).double()
    assert seen_PD[:, :size].min() >= 0.1
    assert seen_PD[:, :size].max() <= 0.3
    assert seen_PD[:, :size].min() < 0.101
    assert seen_PD[:, size : 2 * size].min() >= -5
    assert seen_PD[:, size : 2 * size].max() <= 3
    assert seen_PD[:, 2 * size :].max() > 0.5
    assert seasons == ({COVARIANCE, DIFFERENTIAL} if size == 1 else {MOMENTUM})


@pytest.mark.parametrize("size", [2, 70])
def test_parameters_outside_of_the_bounds_are_brought_in_first(size: int) -> None:
    trial = Trial(sphere, size=size, start=9.0, settings={"bounds": (-5.0, 5.0)})
    trial.step()
    assert trial.objective.asked[0][0].tolist() == [5.0] * size
    assert torch.cat(trial.objective.asked).abs().max() <= 5


@ALL
@pytest.mark.parametrize(("low", "high"), [(-0.1, 0.05), (4.4, 4.6)], ids=["at the optimum", "far away"])
def test_bounds_that_are_narrowed_later_hold_from_the_next_step(season: int, low: float, high: float) -> None:
    trial = in_season(season, bounds=(-5.0, 5.0))
    assert not bool(((trial.param >= low) & (trial.param <= high)).all())
    trial.optimizer.param_groups[0]["bounds"] = (low, high)
    trial.objective.asked.clear()
    for _ in range(6):
        (loss,) = trial.step()
        seen_PD = torch.cat(trial.objective.asked)
        assert seen_PD.min() >= low
        assert seen_PD.max() <= high
        assert bool(((trial.param >= low) & (trial.param <= high)).all())
        assert loss == float(trial.fn(seen_PD).min())  # a loss of out there is not believed any longer
        standing_PD, loss_P = trial.optimizer.population, trial.state["loss"]
        assert torch.equal(loss_P[loss_P < math.inf], trial.fn(standing_PD)[loss_P < math.inf].double())


def test_the_first_steps_are_a_share_of_the_bounds_or_of_ones_own_choosing() -> None:
    for settings, wanted in [
        ({"bounds": (-2.0, 6.0)}, 2.4),
        ({}, 0.1),
        ({"step_size": 0.7}, 0.7),
        ({"bounds": (-2.0, 6.0), "step_size": 0.7}, 0.7),
    ]:
        assert Trial(sphere, settings=settings).state["first_scale"] == pytest.approx(wanted)


# --- learning rate, groups ---


@pytest.mark.parametrize("as_lr", [float, torch.tensor])
@pytest.mark.parametrize("size", [2, 70])
def test_a_scheduler_freezes_the_drift(size: int, as_lr: Callable[[float], Any]) -> None:
    trial = Trial(sphere, size=size, settings={"lr": as_lr(1.0)})
    scheduler, moves = StepLR(trial.optimizer, step_size=3, gamma=0.0), []
    for _ in range(6):
        before_D = trial.state["centre"].clone()
        trial.step()
        moves.append(float((trial.state["centre"] - before_D).norm()))
        scheduler.step()
    assert min(moves[:3]) > 0
    assert moves[3:] == [0.0] * 3


def test_with_no_learning_rate_no_tumbler_moves() -> None:
    trial = in_season(DIFFERENTIAL)
    trial.optimizer.param_groups[0]["lr"] = 0.0
    standing_PD = trial.optimizer.population
    trial.step()
    assert torch.equal(trial.objective.asked[-1], standing_PD)


@pytest.mark.parametrize("sizes", [(2, 3), (40, 30)])
def test_groups_tumble_by_their_own_step_size_and_share_of_the_move(sizes: tuple[int, int]) -> None:
    fine, coarse = (torch.full((size,), 1.0, dtype=torch.float64) for size in sizes)
    groups = [{"params": [fine], "step_size": 0.01}, {"params": [coarse], "step_size": 1.0, "lr": 0.0}]
    optimizer = AdaptiveBFO(groups, population_size=200, generator=torch.Generator().manual_seed(0))
    objective = Seen(sphere)
    optimizer.step(objective)
    spread_D = objective.asked[0][1:].std(dim=0)
    assert spread_D[: sizes[0]].tolist() == pytest.approx([0.01] * sizes[0], rel=0.25)
    assert spread_D[sizes[0] :].tolist() == pytest.approx([1.0] * sizes[1], rel=0.25)
    assert torch.equal(optimizer.state[coarse]["centre"], torch.ones_like(coarse))
    assert not torch.equal(optimizer.state[fine]["centre"], torch.ones_like(fine))


# --- what is counted ---


class Asked(TorchFunctionMode):
    """Counts what the host asks of tensors: on a GPU it would wait for each answer."""

    questions = frozenset(["tolist", "item", "__float__", "__int__", "__bool__", "__index__", "numpy", "cpu"])

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ in self.questions or func.__name__ in ("equal", "nonzero", "is_nonzero", "masked_select"):
            self.count[func.__name__] += 1
        return func(*args, **(kwargs or {}))


class Dispatched(TorchDispatchMode):
    """Counts the same below Python, where a C++ function might ask by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "equal", "nonzero", "is_nonzero", "item", "masked_select", "unique"):
            self.count[name] += 1
        return func(*args, **(kwargs or {}))


@ALL
@pytest.mark.parametrize("bounds", [None, (-5.0, 5.0)])
def test_a_generation_waits_once_for_the_device(season: int, bounds: Any) -> None:
    """In `minimize`, to read its losses; every tenth looks closer. A call asks twice for changes from outside."""
    counts = []
    for generations in (1, 21):
        trial = in_season(season, bounds=bounds, horizon=20_000, lr=0.9)
        trial.objective.fn = lambda x_PD: 1.0 + x_PD.double().abs().sum(dim=1)
        start, members = trial.state["age"], trial.optimizer._generation_cost()
        with Asked() as asked, Dispatched() as dispatched:
            result = trial.optimizer.minimize(trial.objective, max_evaluations=generations * members)
        assert result.generations >= generations
        closer = len([age for age in range(start + 1, start + 1 + result.generations) if age % 10 == 0])
        questions = {COVARIANCE: 1, MOMENTUM: 0, DIFFERENTIAL: 2}[season]
        assert asked.count["tolist"] == result.generations
        assert asked.count["equal"] == dispatched.count["equal"] <= 2
        counts.append(asked.count["__float__"] - questions * closer)
        assert set(asked.count) <= {"tolist", "equal", "__float__"}
        # what `tolist` asks for itself shows as one for each number, or not at all
        scalars = dispatched.count["_local_scalar_dense"]
        assert scalars - asked.count["__float__"] in (0, result.evaluations)
        assert set(dispatched.count) <= {"_local_scalar_dense", "equal"}
    assert counts[0] == counts[1] <= 1  # the best loss, at the end


@ALL
def test_a_step_waits_three_times(season: int) -> None:
    """For changes from outside, for the losses, and for the figures of the generation."""
    trial = in_season(season)
    with Asked() as asked:
        trial.step(4)
    assert asked.count == {"equal": 4, "tolist": 8}


class Memory(TorchDispatchMode):
    """The most bytes that large tensors held at a time, those known before among them."""

    def __init__(self, least: int, known: Iterable[Any]) -> None:
        super().__init__()
        self.least, self.most = least, 0
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.note(known)

    def note(self, found: Any) -> None:
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().nbytes() >= self.least:
                storage = tensor.untyped_storage()
                self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.alive = {key: kept for key, kept in self.alive.items() if not kept[0].expired()}
        self.most = max(self.most, sum(size for _, size in self.alive.values()))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.note(found)
        return found


@pytest.mark.parametrize("chunk_size", [None, 8])
@pytest.mark.parametrize("bounds", [None, (-5.0, 5.0)])
@pytest.mark.parametrize("sizes", [[4000], [3000, 1000]])
@pytest.mark.parametrize("in_hand", [False, True])
def test_a_momentum_drift_needs_the_memory_of_four_colonies(
    in_hand: bool, sizes: list[int], bounds: Any, chunk_size: int | None
) -> None:
    params = [torch.full((size,), 2.0) for size in sizes]
    optimizer = AdaptiveBFO(params, bounds=bounds, chunk_size=chunk_size, generator=torch.Generator().manual_seed(0))
    objective = FunctionObjective(lambda x_PD: x_PD.norm(dim=1))  # needs none itself
    for _ in range(2):
        optimizer.step(objective)
    colony = optimizer._generation_cost() * 4000 * 4
    gc.collect()
    with Memory(colony // 2, [list(kept.values()) for kept in optimizer.state.values()]) as memory:
        if in_hand:
            optimizer.minimize(objective, max_evaluations=3 * 36)
        else:
            for _ in range(3):
                optimizer.step(objective)
    assert 2 < memory.most / colony <= 4


# --- how well ---


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("fn", "bounds", "budget", "gap"),
    [
        (sphere, None, 2000, 1e-6),
        (sphere, (-5.0, 5.0), 2000, 1e-6),
        (rosenbrock, None, 10_000, 1e-6),
        (rosenbrock, (-5.0, 5.0), 10_000, 1e-6),
        (rastrigin, (-5.0, 5.0), 30_000, 1e-6),
    ],
)
def test_it_finds_the_optimum_of_the_classics_in_ten_dimensions(
    fn: Fn, bounds: Any, budget: int, gap: float, seed: int
) -> None:
    trial = Trial(fn, size=10, start=3.3, seed=seed, settings={"bounds": bounds})
    assert trial.optimizer.minimize(trial.objective, max_evaluations=budget).best_loss < gap
