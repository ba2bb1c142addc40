from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytorch_bfo_optimizer import (
    BFO,
    AdaptiveBFO,
    ClosureRequiredError,
    DeviceMismatchError,
    EmptyParametersError,
    FunctionObjective,
    GradientConfig,
    HybridBFO,
    HyperparameterError,
    LossTypeError,
    NonFiniteGenerationError,
    ParameterError,
    StepRecord,
    TiedParametersError,
)

FAMILY = [BFO, AdaptiveBFO, HybridBFO]
SWIMMERS = [BFO, HybridBFO]


def generating(cls: type[BFO]) -> dict[str, Any]:
    """Settings with which each step is a generation: what `HybridBFO` does in a run is in test_running."""
    return {"gradient_config": GradientConfig(mode="never")} if cls is HybridBFO else {}


def restless(cls: type[BFO], **settings: Any) -> dict[str, Any]:
    """Settings of a class, and seasons that come often where there are settings for them."""
    if cls is AdaptiveBFO:
        return settings
    return {"chem_steps": 2, "repro_steps": 1, "elim_prob": 0.9, **generating(cls), **settings}


def sphere(x_PD: Tensor) -> Tensor:
    return (x_PD**2).sum(dim=1)


def rosenbrock(x_PD: Tensor) -> Tensor:
    return (100 * (x_PD[:, 1:] - x_PD[:, :-1] ** 2) ** 2 + (1 - x_PD[:, :-1]) ** 2).sum(dim=1)


# --- the known case ---


class GreedyBFO(BFO):
    """Moves that do not pay are taken back, as `HybridBFO` does it."""

    greedy = True


@dataclass
class Twin:
    """Passino 2002 without swarming and flights, in plain loops over floats; draws what `BFO` draws.

    `greedy`: a move that does not pay is taken back, and reproduction and dispersal spare the lowest loss.
    """

    source: torch.Generator
    start: list[float]
    members: int
    swims: int
    length: float
    chem_steps: int
    repro_steps: int
    elim_prob: float
    greedy: bool

    def __post_init__(self) -> None:
        self.places = [list(self.start), *self.around(self.start)[1:]]
        self.losses: list[float | None] = [None] * self.members
        self.health: list[float | None] = [None] * self.members
        self.best, self.best_loss = self.start, math.inf

    def normal(self) -> list[list[float]]:
        noise = torch.randn(self.members, len(self.start), generator=self.source, dtype=torch.float64)
        return noise.tolist()  # type: ignore[no-any-return]

    def around(self, centre: list[float]) -> list[list[float]]:
        spread = self.length / math.sqrt(len(centre))
        return [[x + spread * n for x, n in zip(centre, row, strict=True)] for row in self.normal()]

    def loss(self, place: list[float]) -> float:
        value = (place[0] - 0.3) * (place[0] - 0.3) + (place[1] + 0.7) * (place[1] + 0.7)
        if value < self.best_loss:
            self.best, self.best_loss = place, value
        return value

    def walk(self, i: int, delta: list[float]) -> None:
        squares = delta[0] * delta[0] + delta[1] * delta[1]
        norm = torch.tensor(squares, dtype=torch.float64).sqrt().item()  # math.sqrt differs in the last bit
        budget, here = 1 + self.swims, self.losses[i]
        if here is None:
            here, budget = self.loss(self.places[i]), budget - 1
        health = self.health[i]
        health = here if health is None else health
        while budget:
            there = [x + self.length * (d / norm) for x, d in zip(self.places[i], delta, strict=True)]
            value, budget = self.loss(there), budget - 1
            falls = value < here
            if falls or not self.greedy:
                self.places[i], here = there, value
            if not falls:
                break
        self.losses[i], self.health[i] = here, health + here

    def lowest(self) -> int | None:
        return self.losses.index(min(self.losses)) if self.greedy else None  # type: ignore[type-var]

    def reproduce(self) -> None:
        lowest, half = self.lowest(), self.members // 2
        order = sorted(range(self.members), key=lambda i: -math.inf if i == lowest else self.health[i])
        parents = order[:half] + order[: self.members - half]
        self.places = [list(self.places[i]) for i in parents]
        self.losses = [self.losses[i] for i in parents]
        self.health = [None] * self.members

    def disperse(self) -> None:
        chances = torch.rand(self.members, 1, generator=self.source, dtype=torch.float64)[:, 0].tolist()
        fresh, lowest = self.around(self.best), self.lowest()
        for i, chance in enumerate(chances):
            if chance < self.elim_prob and i != lowest:
                self.places[i], self.losses[i], self.health[i] = fresh[i], None, None

    def run(self, steps: int) -> None:
        for generation in range(1, steps + 1):
            for i, delta in enumerate(self.normal()):
                self.walk(i, delta)
            if generation % self.chem_steps == 0:
                self.reproduce()
            if generation % (self.chem_steps * self.repro_steps) == 0:
                self.disperse()


@pytest.mark.parametrize("cls", [BFO, GreedyBFO])
@pytest.mark.parametrize(("members", "swims", "seed"), [(1, 0, 1), (5, 3, 2), (8, 4, 3), (20, 2, 4)])
def test_it_equals_an_independent_twin_bit_for_bit(cls: type[BFO], members: int, swims: int, seed: int) -> None:
    twin = Twin(torch.Generator().manual_seed(seed), [1.5, -2.0], members, swims, 0.05, 4, 3, 0.5, cls.greedy)
    param = torch.tensor(twin.start, dtype=torch.float64)
    optimizer = cls(
        [param],
        population_size=members,
        swim_length=swims,
        chem_steps=4,
        repro_steps=3,
        elim_prob=0.5,
        step_size_max=0.05,
        step_size_min=0.05,
        generator=torch.Generator().manual_seed(seed),
    )
    for _ in range(60):
        optimizer.step(lambda: (param[0] - 0.3) * (param[0] - 0.3) + (param[1] + 0.7) * (param[1] + 0.7))
    twin.run(60)
    assert optimizer.population.tolist() == twin.places
    assert optimizer.best_fitness == twin.best_loss
    assert param.tolist() == twin.best


# --- it optimizes ---


@pytest.mark.parametrize("cls", FAMILY)
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("fn", "start", "size", "goal"), [(sphere, 3.0, 5, 0.01), (rosenbrock, -1.2, 2, 0.05)])
def test_it_gets_down_the_classics(cls: type[BFO], seed: int, fn: Any, start: float, size: int, goal: float) -> None:
    param = torch.full((size,), start, dtype=torch.float64, requires_grad=True)
    optimizer = cls([param], population_size=20, generator=torch.Generator().manual_seed(seed))
    budget = 1_500 if cls is HybridBFO else 12_000  # a step of a run costs one evaluation
    result = optimizer.minimize(FunctionObjective(fn), max_evaluations=budget)
    assert result.best_loss < goal
    assert torch.equal(result.best_params[0], param)
    assert float(fn(param.detach().unsqueeze(0))) == result.best_loss


# --- evaluations ---


@pytest.mark.parametrize("reevaluate", [False, True])
@pytest.mark.parametrize(
    ("cls", "members", "swims"),
    [(cls, *size) for cls in SWIMMERS for size in [(1, 1), (2, 4), (5, 2), (7, 1)]]
    + [(AdaptiveBFO, members, 0) for members in (4, 5, 8)],
)
def test_a_generation_never_costs_more_than_its_bound_and_every_call_is_counted(
    cls: type[BFO],
    reevaluate: bool,
    members: int,
    swims: int,
    make_bowl: Callable[..., Any],
    generator: torch.Generator,
) -> None:
    bowl = make_bowl()
    settings = {"swim_length": swims} if cls in SWIMMERS else {}
    optimizer = cls(
        bowl.params,
        population_size=members,
        reevaluate=reevaluate,
        generator=generator,
        **restless(cls, **settings),
    )
    for _ in range(9):
        before = bowl.calls
        optimizer.step(bowl)
        assert members <= bowl.calls - before <= members * (1 + swims)
        assert optimizer.evaluations == bowl.calls
    assert optimizer.population.shape == (members, 8)


def test_without_swimming_a_generation_that_must_sense_only_senses(
    make_bowl: Callable[..., Any], generator: torch.Generator
) -> None:
    bowl = make_bowl()
    optimizer = BFO(bowl.params, population_size=3, swim_length=0, generator=generator)
    start = optimizer.population
    optimizer.step(bowl)
    assert bowl.calls == 3
    assert torch.equal(optimizer.population, start)
    optimizer.step(bowl)
    assert bowl.calls == 6
    assert not torch.equal(optimizer.population, start)


@pytest.mark.parametrize("budget", [15, 44, 100])
def test_minimize_never_exceeds_its_budget(budget: int, make_bowl: Callable[..., Any]) -> None:
    bowl = make_bowl()
    result = BFO(bowl.params, population_size=3).minimize(bowl, max_evaluations=budget)
    assert bowl.calls == result.evaluations <= budget
    assert result.evaluations > budget - 15
    assert result.why == "budget"


def test_minimize_stops_at_its_target_and_refuses_a_budget_below_one_generation(make_bowl: Callable[..., Any]) -> None:
    bowl = make_bowl()
    optimizer = BFO(bowl.params, population_size=3)
    assert optimizer.minimize(bowl, max_evaluations=1000, target=1e9).generations == 1
    with pytest.raises(HyperparameterError, match="one generation may cost 15"):
        optimizer.minimize(bowl, max_evaluations=14)


# --- bounds ---


@pytest.mark.parametrize("cls", FAMILY)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_no_position_outside_the_bounds_is_ever_evaluated(
    cls: type[BFO], dtype: torch.dtype, make_bowl: Callable[..., Any], generator: torch.Generator
) -> None:
    bowl = make_bowl(dtype=dtype)
    settings = {"population_size": 6, "step_size_max": 1.0} if cls in SWIMMERS else {"step_size": 1.0}
    optimizer = cls(bowl.params, bounds=(-0.1, 0.3), generator=generator, **restless(cls, **settings))
    for _ in range(12):
        optimizer.step(bowl)
    seen = torch.stack(bowl.positions).double()
    assert len(seen) > 100
    assert seen.min() >= -0.1  # against the bounds as written, not rounded to the dtype
    assert seen.max() <= 0.3
    assert seen.max() > 0.25  # the optimum, 1, lies outside: the edge is reached


def test_bounds_that_are_narrowed_later_hold_from_the_next_step(make_bowl: Callable[..., Any]) -> None:
    bowl = make_bowl()
    for param in bowl.params:
        param.data.fill_(1.0)  # the optimum: its loss, 0, must not be believed any longer once it is out of bounds
    optimizer = BFO(bowl.params, population_size=5, bounds=(-3, 3))
    assert optimizer.step(bowl) == 0
    optimizer.param_groups[0]["bounds"] = (-0.5, 0.5)
    bowl.positions.clear()
    loss = optimizer.step(bowl)
    assert torch.stack(bowl.positions).abs().max() <= 0.5
    assert loss == pytest.approx(bowl.loss().item())


def test_bounds_that_were_narrowed_hold_though_the_step_that_saw_them_first_failed(
    make_bowl: Callable[..., Any],
) -> None:
    bowl = make_bowl()
    optimizer = BFO(bowl.params, population_size=5, bounds=(-3, 3))
    optimizer.step(bowl)
    optimizer.param_groups[0]["bounds"] = (-0.1, 0.1)
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)
    bowl.positions.clear()
    optimizer.step(bowl)
    assert torch.stack(bowl.positions).abs().max() <= 0.1
    assert all(bool((param.abs() <= 0.1).all()) for param in bowl.params)


# --- what the parameters hold ---


@pytest.mark.parametrize("swarming", [False, True])
def test_after_each_step_the_parameters_hold_the_best_position_of_all(
    swarming: bool, make_bowl: Callable[..., Any], generator: torch.Generator
) -> None:
    bowl = make_bowl()
    optimizer = BFO(
        bowl.params,
        population_size=7,
        chem_steps=2,
        repro_steps=1,
        elim_prob=0.7,
        use_swarming=swarming,
        swarming_params=(9.0, 0.1, 9.0, 10.0),
        generator=generator,
    )
    for _ in range(10):
        loss = optimizer.step(bowl)
        seen = torch.stack(bowl.positions)
        losses = ((seen - 1) ** 2).sum(dim=1)
        best = torch.cat([param.reshape(-1) for param in optimizer.best_params])
        assert torch.equal(best, torch.cat([param.detach().reshape(-1) for param in bowl.params]))
        assert torch.equal(best, seen[losses.argmin()])
        assert loss == optimizer.best_fitness == pytest.approx(losses.min().item())


@pytest.mark.parametrize("reevaluate", [False, True])
def test_the_best_never_rises_unless_losses_go_stale(
    reevaluate: bool, make_bowl: Callable[..., Any], generator: torch.Generator
) -> None:
    bowl = make_bowl()
    optimizer = BFO(
        bowl.params,
        population_size=4,
        step_size_max=2.0,
        step_size_min=2.0,
        chem_steps=2,
        repro_steps=1,
        elim_prob=1.0,
        reevaluate=reevaluate,
        generator=generator,
    )
    losses = []
    for _ in range(20):
        bowl.positions.clear()
        losses.append(optimizer.step(bowl))
        held = torch.cat([param.detach().reshape(-1) for param in bowl.params])
        if reevaluate:  # the best of this generation
            seen = torch.stack(bowl.positions)
            assert torch.equal(held, seen[((seen - 1) ** 2).sum(dim=1).argmin()])
        assert losses[-1] == optimizer.best_fitness == pytest.approx(((held - 1) ** 2).sum().item())
    assert (losses == sorted(losses, reverse=True)) is not reevaluate


def test_best_params_are_copies_in_the_shape_and_dtype_of_each_parameter() -> None:
    params = [torch.ones(2, 2, dtype=torch.bfloat16), torch.ones(())]
    optimizer = BFO(params, population_size=3)
    for _ in range(2):
        best = optimizer.best_params
        assert [(tensor.shape, tensor.dtype) for tensor in best] == [(param.shape, param.dtype) for param in params]
        before = optimizer.population
        best[0].fill_(9.0)
        best[1].fill_(9.0)
        assert torch.equal(optimizer.population, before)
        assert bool((params[1] != 9).all())
        optimizer.step(lambda: (params[0].float() ** 2).sum() + params[1] ** 2)


def test_a_loss_that_changes_is_measured_anew_only_where_that_is_asked_for() -> None:
    param = torch.zeros(2)
    shift = {"by": 0.0}

    def closure() -> Tensor:
        return (param**2).sum() + shift["by"]

    fresh = BFO([param], population_size=4, reevaluate=True)
    fresh.step(closure)
    shift["by"] = 100.0
    assert fresh.step(closure) >= 100
    stale = BFO([param], population_size=4)
    shift["by"] = 0.0
    stale.step(closure)
    shift["by"] = 100.0
    assert stale.step(closure) < 1


def test_parameters_changed_from_outside_are_taken_up_as_a_member(make_bowl: Callable[..., Any]) -> None:
    bowl = make_bowl()
    optimizer = BFO(bowl.params, population_size=4)
    optimizer.step(bowl)
    with torch.no_grad():
        for param in bowl.params:
            param.fill_(1.0)  # the optimum
    assert optimizer.step(bowl) == 0
    assert all(bool((param == 1).all()) for param in bowl.params)


# --- what goes wrong ---


@pytest.mark.parametrize("cls", FAMILY)
@pytest.mark.parametrize("at_call", [1, 4, 15])
def test_a_closures_exception_comes_out_unchanged_and_the_step_has_not_happened(
    cls: type[BFO], at_call: int, make_bowl: Callable[..., Any], generator: torch.Generator
) -> None:
    bowl, error = make_bowl(), KeyError("mine")
    members = 3 if cls in SWIMMERS else 15
    optimizer = cls(bowl.params, population_size=members, generator=generator, **generating(cls))
    optimizer.step(bowl)
    start = bowl.calls

    def closure() -> Tensor:
        loss = bowl()
        if bowl.calls - start == at_call:
            raise error
        return loss * 0 - bowl.calls  # every move pays, so that all 15 evaluations are made

    held, population, random = [param.clone() for param in bowl.params], optimizer.population, generator.get_state()
    with pytest.raises(KeyError) as caught:
        optimizer.step(closure)
    assert caught.value is error
    assert all(torch.equal(now, then) for now, then in zip(bowl.params, held, strict=True))
    assert torch.equal(optimizer.population, population)
    assert torch.equal(generator.get_state(), random)
    assert optimizer.evaluations == bowl.calls
    optimizer.step(bowl)


@pytest.mark.parametrize("cls", FAMILY)
def test_a_generation_without_a_finite_loss_raises_and_leaves_the_best_known(cls: type[BFO]) -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = cls([param], population_size=4)
    with pytest.raises(NonFiniteGenerationError, match=r"all \d+ losses evaluated in generation 1"):
        optimizer.step(lambda: (param * math.nan).sum())
    assert param.tolist() == [1, 1, 1]
    assert optimizer.nonfinite_evaluations == optimizer.evaluations > 0
    optimizer.step(lambda: (param**2).sum())
    best = param.detach().clone()
    with pytest.raises(NonFiniteGenerationError, match="generation 2"):
        optimizer.step(lambda: (param * math.inf).sum())
    assert torch.equal(param, best)
    assert optimizer.step(lambda: (param**2).sum()) <= float((best**2).sum())


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "returned None"),
        (torch.ones(2), r"shape \(2,\)"),
        (torch.tensor(1j), "complex"),
        ("0.5", "builtins.str"),
        ((1.0, {}), "builtins.tuple"),
    ],
)
def test_what_is_no_loss_is_named(value: object, words: str) -> None:
    with pytest.raises(LossTypeError, match=words) as caught:
        BFO([torch.zeros(1)], population_size=2).step(lambda: value)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize("value", [1, 1.0, torch.tensor(1), torch.ones(1, 1), torch.tensor(1.0, dtype=torch.bfloat16)])
def test_what_is_one_number_is_a_loss(value: object) -> None:
    assert BFO([torch.zeros(1)], population_size=2).step(lambda: value) == 1.0


def test_losses_keep_double_precision_whatever_the_parameters_are() -> None:
    param = torch.zeros(4, dtype=torch.bfloat16)
    tiny = iter(1 + 1e-12 * k for k in range(1000, 0, -1))
    optimizer = BFO([param], population_size=2, swim_length=3)
    assert optimizer.step(lambda: next(tiny)) == 1 + 1e-12 * (1000 - 8 + 1)


# --- the shell of torch.optim ---


def test_a_step_without_closure_initialises_once_and_then_asks_for_one(make_bowl: Callable[..., Any]) -> None:
    bowl = make_bowl()
    before = [param.clone() for param in bowl.params]
    optimizer = BFO(bowl.params, population_size=3)
    assert optimizer.step() is None
    assert all(torch.equal(now, then) for now, then in zip(bowl.params, before, strict=True))
    assert bowl.params[0] in optimizer.state
    with pytest.raises(ClosureRequiredError, match="needs a closure"):
        optimizer.step()


def test_bad_parameters_are_refused_by_name() -> None:
    param = nn.Parameter(torch.zeros(2))
    with pytest.raises(EmptyParametersError):
        BFO([])
    with pytest.raises(TiedParametersError):
        BFO([param, param])
    with pytest.raises(TiedParametersError):
        BFO([{"params": [param]}, {"params": [param]}])
    with pytest.raises(DeviceMismatchError, match="'meta'"):
        BFO([param], device="meta")
    assert BFO([param], device="cpu").vector.device.type == "cpu"
    with pytest.raises(TypeError):
        BFO(param)  # as torch says it
    with pytest.raises(TypeError):
        BFO([3.0])  # type: ignore[list-item]


def test_a_living_colony_takes_no_new_group_and_keeps_its_size(make_bowl: Callable[..., Any]) -> None:
    bowl = make_bowl()
    optimizer = BFO(bowl.params, population_size=3)
    extra = torch.zeros(2)
    with pytest.raises(HyperparameterError):
        optimizer.add_param_group({"params": [extra], "lr": -1.0})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [extra]})
    assert optimizer.population.shape == (3, 10)
    with pytest.raises(ParameterError, match="the colony is alive"):
        optimizer.add_param_group({"params": [torch.zeros(1)]})
    optimizer.param_groups[0]["population_size"] = optimizer.param_groups[1]["population_size"] = 4
    with pytest.raises(HyperparameterError, match="population_size is 4 and the living colony has 3"):
        optimizer.step(bowl)


def test_every_step_is_recorded_for_the_hooks(make_bowl: Callable[..., Any]) -> None:
    bowl, records = make_bowl(), list[StepRecord]()
    optimizer = BFO(bowl.params, population_size=4, chem_steps=2, repro_steps=2, elim_prob=1.0)
    optimizer.on_step.append(records.append)
    for _ in range(4):
        optimizer.step(bowl)
    assert [record.generation for record in records] == [1, 2, 3, 4]
    assert [record.reproduced for record in records] == [False, True, False, True]
    assert [record.dispersed for record in records] == [0, 0, 0, 4]  # the best member too
    assert sum(record.evaluations for record in records) == records[-1].evaluations_total == bowl.calls
    assert records[-1].best_loss == optimizer.best_fitness
    assert records[-1].diversity == optimizer.diversity() > 0
    assert not records[-1].used_gradient


@pytest.mark.parametrize("switched_off", [{"elim_prob": 0.0}, {"elim_steps": 0}])
def test_dispersal_and_reproduction_can_be_switched_off(
    switched_off: dict[str, Any], make_bowl: Callable[..., Any]
) -> None:
    bowl, records = make_bowl(), list[StepRecord]()
    optimizer = BFO(bowl.params, population_size=4, chem_steps=1, repro_steps=0, **switched_off)
    optimizer.on_step.append(records.append)
    for _ in range(3):
        optimizer.step(bowl)
    assert not any(record.reproduced or record.dispersed for record in records)


@pytest.mark.parametrize("cls", FAMILY)
def test_the_global_state_of_torch_is_as_it_was(cls: type[BFO], make_bowl: Callable[..., Any]) -> None:
    bowl = make_bowl()
    before = torch.get_rng_state()
    optimizer = cls(bowl.params, population_size=4, **restless(cls))
    for _ in range(3):
        optimizer.step(bowl)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.is_grad_enabled()


def test_the_global_seed_governs_an_optimizer_without_a_generator(make_bowl: Callable[..., Any]) -> None:
    def colony(seed: int) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return BFO(make_bowl().params, population_size=4).population

    assert torch.equal(colony(1), colony(1))
    assert not torch.equal(colony(1), colony(2))


@pytest.mark.parametrize("enabled", [True, False])
def test_the_closure_runs_in_the_callers_grad_mode(enabled: bool, make_bowl: Callable[..., Any]) -> None:
    bowl, modes = make_bowl(), set()

    def closure() -> Tensor:
        modes.add(torch.is_grad_enabled())
        return bowl()

    with torch.set_grad_enabled(enabled):
        BFO(bowl.params, population_size=2).step(closure)
    assert modes == {enabled}
