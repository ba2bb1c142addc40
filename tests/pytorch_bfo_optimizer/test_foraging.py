from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pytorch_bfo_optimizer import foraging
from pytorch_bfo_optimizer.state import Colony

NOWHERE = torch.tensor([math.inf])


def colony_at(position_PD: Tensor, loss: list[float] | None = None, health: list[float] | None = None) -> Colony:
    """Members at these places; those whose loss is +inf, and all without `loss`, have not been evaluated there."""
    colony = Colony.fresh(position_PD)
    if loss is not None:
        loss_P = torch.tensor(loss, dtype=torch.float64)
        best = position_PD[loss_P.argmin()]
        colony = replace(colony, loss=loss_P, known=loss_P < math.inf, best=best, best_loss=loss_P.min())
    return colony if health is None else replace(colony, health=torch.tensor(health, dtype=torch.float64))


def rosenbrock(x_PD: Tensor) -> Tensor:
    return (100 * (x_PD[:, 1:] - x_PD[:, :-1] ** 2) ** 2 + (1 - x_PD[:, :-1]) ** 2).sum(dim=1)


@dataclass
class Counting:
    """Evaluates every row, as a batched objective does, and counts what each member was asked for."""

    fn: Any
    asked: list[Tensor] = field(default_factory=list)

    def __call__(self, position_PD: Tensor, active_P: Tensor) -> Tensor:
        self.asked.append(active_P.clone())
        return self.fn(position_PD)

    def per_member(self) -> list[int]:
        return torch.stack(self.asked).sum(dim=0).tolist()


# --- Lévy flights ---


def test_sigma_is_the_value_of_the_paper() -> None:
    assert foraging.mantegna_sigma(1.5) == pytest.approx(0.696575, abs=1e-6)  # Mantegna 1994, table I
    assert foraging.mantegna_sigma(1.0) == pytest.approx(1.0)  # alpha 1: x / y is Cauchy


def test_flights_of_alpha_one_are_cauchy(generator: torch.Generator) -> None:
    noise = torch.randn(40_000, 2, generator=generator, dtype=torch.float64)
    length = foraging.levy_length(noise, torch.tensor([1.0]), torch.tensor([1.0]))
    # |Cauchy| has quartiles tan(pi/8), 1 and tan(3 pi/8)
    wanted = torch.tensor([math.tan(math.pi / 8), 1.0, math.tan(3 * math.pi / 8)], dtype=torch.float64)
    quartiles = torch.quantile(length[:, 0], torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
    assert torch.allclose(quartiles, wanted, rtol=0.03)
    assert length.max() == foraging.LEVY_CUTOFF  # the tail is cut, and some of 40 000 flights reach it


def test_flights_are_off_where_alpha_is_nan_and_finite_where_a_draw_is_zero() -> None:
    noise = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    length = foraging.levy_length(noise, torch.tensor([math.nan, 1.5]), torch.tensor([1.0, 0.7]))
    assert length[:, 0].tolist() == [1, 1]
    assert length[:, 1].tolist() == [foraging.LEVY_CUTOFF, 0]


# --- tumble, swim, swarm ---


def test_tumbles_have_unit_length_and_no_preferred_direction(generator: torch.Generator) -> None:
    direction = foraging.tumble(torch.randn(20_000, 3, generator=generator, dtype=torch.float64))
    assert torch.allclose(direction.norm(dim=1), torch.ones(20_000, dtype=torch.float64))
    assert direction.mean(dim=0).abs().max() < 0.02
    assert torch.allclose(direction.T @ direction / 20_000, torch.eye(3, dtype=torch.float64) / 3, atol=0.01)
    assert foraging.tumble(torch.zeros(1, 3)).tolist() == [[0, 0, 0]]


def test_swarm_cost_is_the_equation_of_the_paper() -> None:
    at, colony = torch.tensor([[0.3, -0.2]]), torch.tensor([[0.0, 0.0], [1.0, 0.5]])
    d, w, h, v = 0.2, 0.1, 0.3, 10.0
    wanted = 0.0
    for cell in colony.tolist():
        squared = sum((a - c) ** 2 for a, c in zip(at[0].tolist(), cell, strict=True))
        wanted += -d * math.exp(-w * squared) + h * math.exp(-v * squared)
    assert foraging.swarm_cost(at, colony, (d, w, h, v)).item() == pytest.approx(wanted, rel=1e-5)


def test_swarming_changes_what_a_member_prefers() -> None:
    """A flat loss: only the signal of the other cell can make the tumble toward it worthwhile."""
    start = colony_at(torch.tensor([[0.0], [3.0], [3.1]]), loss=[1.0, 0.5, 1.0])
    toward = torch.tensor([[1.0], [0.0], [0.0]])

    def evaluate(x: Tensor, active: Tensor) -> Tensor:
        return torch.tensor([1.0, 0.5, 1.0], dtype=torch.float64)

    plain = foraging.generation(start, toward, -NOWHERE, NOWHERE, evaluate, swim_length=0)
    swarming = foraging.generation(
        start, toward, -NOWHERE, NOWHERE, evaluate, swim_length=0, swarming=(0.2, 0.1, 0.0, 10.0)
    )
    assert plain.improved.tolist() == [False, False, False]
    assert swarming.improved.tolist() == [True, False, False]


def test_with_swarming_a_greedy_colony_still_never_loses_its_lowest_loss(generator: torch.Generator) -> None:
    position = torch.randn(9, 3, generator=generator, dtype=torch.float64)
    colony, best = colony_at(position), math.inf
    for _ in range(40):
        moves = 0.3 * foraging.tumble(torch.randn(9, 3, generator=generator, dtype=torch.float64))
        result = foraging.generation(
            colony,
            moves,
            -NOWHERE,
            NOWHERE,
            lambda x, active: rosenbrock(x),
            swim_length=2,
            swarming=(5.0, 0.5, 5.0, 10.0),  # a signal that outweighs the loss
            greedy=True,
        )
        colony = result.colony
        assert colony.loss.min() <= best
        best = float(colony.loss.min())
        assert torch.equal(colony.loss, rosenbrock(colony.position))


# --- the generation ---


@pytest.mark.parametrize("swim_length", [0, 1, 4])
def test_no_member_spends_more_than_one_evaluation_a_slot(swim_length: int, generator: torch.Generator) -> None:
    colony = colony_at(torch.randn(7, 4, generator=generator))
    seen = []
    for round_ in range(6):
        if round_ == 3:
            colony = foraging.disperse(colony, torch.ones(7, dtype=torch.bool), torch.randn(7, 4, generator=generator))
        evaluate = Counting(rosenbrock)
        moves = 0.05 * foraging.tumble(torch.randn(7, 4, generator=generator))
        colony = foraging.generation(colony, moves, -NOWHERE, NOWHERE, evaluate, swim_length=swim_length).colony
        assert max(evaluate.per_member()) <= 1 + swim_length
        assert min(evaluate.per_member()) >= 1
        seen += evaluate.per_member()
    if swim_length == 4:
        assert {2, 5} <= set(seen)  # some stopped early, some swam all the way


@pytest.mark.parametrize("greedy", [False, True])
def test_a_member_swims_on_while_it_pays_and_only_a_greedy_one_takes_back_the_move_that_does_not(greedy: bool) -> None:
    start = colony_at(torch.tensor([[0.0], [0.0]]), loss=[2.5**2, 2.5**2])
    evaluate = Counting(lambda x: (x[:, 0].double() - 2.5) ** 2)
    moves = torch.tensor([[1.0], [-1.0]])
    result = foraging.generation(start, moves, -NOWHERE, NOWHERE, evaluate, swim_length=6, greedy=greedy)
    # 3 is as far from 2.5 as 2: not lower
    assert result.colony.position.flatten().tolist() == ([2.0, 0.0] if greedy else [3.0, -1.0])
    assert result.colony.loss.tolist() == ([0.25, 6.25] if greedy else [0.25, 12.25])
    assert result.improved.tolist() == [True, False]
    assert evaluate.per_member() == [3, 1]
    assert (result.colony.best.tolist(), result.colony.best_loss.item()) == ([2.0], 0.25)


def test_a_swim_ends_after_its_length_though_it_pays() -> None:
    start = colony_at(torch.tensor([[0.0]]), loss=[0.0])
    evaluate = Counting(lambda x: -x[:, 0].double())
    result = foraging.generation(start, torch.ones(1, 1), -NOWHERE, NOWHERE, evaluate, swim_length=4)
    assert result.colony.position.item() == 5
    assert evaluate.per_member() == [5]


def test_health_is_the_sum_of_the_costs_where_chemotactic_steps_begin_and_end() -> None:
    colony = colony_at(torch.tensor([[4.0], [1.0], [0.0]]), loss=[4.0, 1.0, math.inf])
    for _ in range(3):  # the first two walk to 1 and to -2, the third senses, then walks to -2
        colony = foraging.generation(
            colony, -torch.ones(3, 1), -NOWHERE, NOWHERE, lambda x, active: x[:, 0].double(), swim_length=0
        ).colony
    assert colony.health.tolist() == [4 + 3 + 2 + 1, 1 + 0 - 1 - 2, 0 + 0 - 1 - 2]
    assert foraging.reproduce(colony).health.isnan().all()


def test_the_best_is_remembered_when_all_have_left_it(generator: torch.Generator) -> None:
    colony = colony_at(torch.randn(5, 3, generator=generator, dtype=torch.float64))
    seen: list[Tensor] = []

    def evaluate(x: Tensor, active: Tensor) -> Tensor:
        seen.append(torch.where(active.unsqueeze(1), x, math.nan))
        return rosenbrock(x)

    left = 0
    for _ in range(30):
        moves = 0.3 * foraging.tumble(torch.randn(5, 3, generator=generator, dtype=torch.float64))
        colony = foraging.generation(colony, moves, -NOWHERE, NOWHERE, evaluate, swim_length=2).colony
        losses = rosenbrock(torch.cat(seen))
        assert colony.best_loss == losses.nan_to_num(math.inf).min()
        assert torch.equal(colony.best, torch.cat(seen)[losses.nan_to_num(math.inf).argmin()])
        left += int(colony.loss.min() > colony.best_loss)
    assert left > 10


def walk_of_the_paper(
    colony: Colony, moves: list[list[float]], loss: Any, *, swims: int, signal: Any
) -> tuple[list[list[float]], list[float], list[float], int]:
    """One chemotactic step of Passino 2002, p. 61, member by member, over floats: places, losses, costs, evaluations.

    Where the loss is unknown, sensing takes the place of one swim.
    """
    start: list[list[float]] = colony.position.tolist()
    d, w, h, v = signal

    def cost(place: list[float], value: float) -> float:
        squares = [sum((a - b) ** 2 for a, b in zip(place, cell, strict=True)) for cell in start]
        return value + sum(h * math.exp(-v * square) - d * math.exp(-w * square) for square in squares)

    places, losses, costs, evaluations = [], [], [], 0
    for i, (place, value) in enumerate(zip(start, colony.loss.tolist(), strict=True)):
        budget = 1 + swims
        if not colony.known[i]:
            value, budget, evaluations = loss(place), budget - 1, evaluations + 1
        last = cost(place, value)
        while budget:
            there = [a + b for a, b in zip(place, moves[i], strict=True)]
            value_there, budget, evaluations = loss(there), budget - 1, evaluations + 1
            falls = cost(there, value_there) < last
            place, value, last = there, value_there, cost(there, value_there)
            if not falls:
                break
        places.append(place), losses.append(value), costs.append(last)
    return places, losses, costs, evaluations


@pytest.mark.parametrize("swims", [0, 1, 5])
def test_a_generation_walks_as_the_paper_says(swims: int, generator: torch.Generator) -> None:
    """With swarming, unknown members, and a region without a finite loss."""
    signal = (0.6, 0.3, 0.5, 2.0)

    def loss(place: list[float]) -> float:
        return math.inf if place[0] > 1.2 else sum(x * x for x in place)

    def evaluate(x: Tensor, active: Tensor) -> Tensor:
        return torch.tensor([loss(place) for place in x.tolist()], dtype=torch.float64)

    colony = colony_at(torch.randn(9, 3, generator=generator, dtype=torch.float64))
    ended_outside = 0
    for round_ in range(12):
        moves = 0.4 * foraging.tumble(torch.randn(9, 3, generator=generator, dtype=torch.float64))
        colony = foraging.forget(colony, torch.arange(9) == round_ % 9)
        places, losses, costs, evaluations = walk_of_the_paper(colony, moves.tolist(), loss, swims=swims, signal=signal)
        before = replace(colony, health=torch.zeros(9, dtype=torch.float64))
        result = foraging.generation(before, moves, -NOWHERE, NOWHERE, evaluate, swim_length=swims, swarming=signal)
        colony = result.colony
        assert torch.allclose(colony.position, torch.tensor(places, dtype=torch.float64), rtol=0, atol=1e-12)
        assert torch.allclose(colony.loss, torch.tensor(losses, dtype=torch.float64), rtol=0, atol=1e-12)
        assert torch.allclose(colony.health, torch.tensor(costs, dtype=torch.float64), rtol=0, atol=1e-9)
        assert int(result.finite_count + result.nonfinite_count) == evaluations
        ended_outside += losses.count(math.inf)
    assert ended_outside > 3


def test_sensing_takes_the_place_of_one_swim() -> None:
    evaluate = Counting(lambda x: x[:, 0].double())
    result = foraging.generation(
        colony_at(torch.tensor([[0.0]])), torch.tensor([[-1.0]]), -NOWHERE, NOWHERE, evaluate, swim_length=3
    )
    assert result.colony.position.item() == -3  # 4 evaluations: one senses, three move
    only_sensing = foraging.generation(
        colony_at(torch.tensor([[0.0]])), torch.tensor([[-1.0]]), -NOWHERE, NOWHERE, evaluate, swim_length=0
    )
    assert only_sensing.colony.position.item() == 0
    assert only_sensing.colony.loss.item() == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_loses_every_comparison_and_is_counted(bad: float) -> None:
    start = colony_at(torch.tensor([[0.0], [0.0]]), loss=[5.0, math.inf])
    moves = torch.tensor([[1.0], [1.0]])

    def evaluate(x: Tensor, active: Tensor) -> Tensor:
        return torch.tensor([bad, 1e300], dtype=torch.float64)

    greedy = foraging.generation(start, moves, -NOWHERE, NOWHERE, evaluate, swim_length=0, greedy=True)
    assert greedy.colony.loss.tolist() == [5.0, 1e300]
    result = foraging.generation(start, moves, -NOWHERE, NOWHERE, evaluate, swim_length=0)
    assert result.colony.loss.tolist() == [math.inf, 1e300]
    assert result.colony.best_loss == 5.0
    assert (int(result.nonfinite_count), int(result.finite_count)) == (1, 1)


def test_positions_are_clamped_before_they_are_evaluated() -> None:
    seen = []

    def evaluate(x: Tensor, active: Tensor) -> Tensor:
        seen.append(x.clone())
        return -x.sum(dim=1).double()

    foraging.generation(
        colony_at(torch.zeros(3, 2)), torch.full((3, 2), 0.7), -torch.ones(1), torch.ones(1), evaluate, swim_length=4
    )
    assert torch.cat(seen).max() == 1.0


# --- reproduction and dispersal ---


def test_the_healthier_half_splits_and_the_middle_of_an_odd_colony_survives() -> None:
    colony = colony_at(
        torch.arange(5.0).unsqueeze(1), loss=[5.0, 1.0, 4.0, 3.0, 2.0], health=[10.0, 30.0, 50.0, 20.0, 40.0]
    )
    children = foraging.reproduce(colony)
    # by health: 0, 3, 1, 4, 2: of these 0 and 3 split, 1 survives
    assert children.position.flatten().tolist() == [0, 3, 0, 3, 1]
    assert children.loss.tolist() == [5, 3, 5, 3, 1]
    spared = foraging.reproduce(colony, foraging.holds_best(colony))
    assert spared.position.flatten().tolist() == [1, 0, 1, 0, 3]


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_reproduction_keeps_the_count_and_the_best(count: int, generator: torch.Generator) -> None:
    loss = torch.rand(count, generator=generator).tolist()
    health = [-value for value in loss]  # the best loss has the worst health
    colony = colony_at(torch.arange(float(count)).unsqueeze(1), loss=loss, health=health)
    children = foraging.reproduce(colony)
    assert children.position.shape == (count, 1)
    assert children.best_loss == colony.loss.min()
    assert children.loss.min() > min(loss) or count in (1, 3)  # where nobody, or only the sickest of all, dies
    assert foraging.reproduce(colony, foraging.holds_best(colony)).loss.min() == colony.loss.min()


def test_dispersal_forgets_what_it_moves_and_keeps_the_record_of_the_best() -> None:
    colony = colony_at(torch.zeros(3, 2), loss=[2.0, 1.0, 3.0], health=[1.0, 1.0, 1.0])
    moved = foraging.disperse(colony, torch.tensor([True, True, False]), torch.full((3, 2), 9.0))
    assert moved.position.tolist() == [[9, 9], [9, 9], [0, 0]]
    assert moved.known.tolist() == [False, False, True]
    assert moved.loss.tolist() == [math.inf, math.inf, 3]
    assert moved.health.isnan().tolist() == [True, True, False]
    assert (moved.best.tolist(), moved.best_loss) == ([0, 0], 1)


# --- what happens to a colony between steps ---


def test_confining_forgets_only_what_it_moves() -> None:
    colony = colony_at(torch.tensor([[0.0, 3.0], [1.0, 1.0]]), loss=[1.0, 2.0])
    inside = foraging.confine(colony, -torch.ones(1), torch.ones(1))
    assert inside.position.tolist() == [[0, 1], [1, 1]]
    assert inside.known.tolist() == [False, True]
    assert inside.loss.tolist() == [math.inf, 2]
    assert inside.best_loss == math.inf  # found at (0, 3)
    wide = foraging.confine(colony, -torch.ones(1), torch.full((1,), 3.0))
    assert wide.known.tolist() == [True, True]
    assert wide.best_loss == 1


def test_a_newcomer_takes_the_place_of_the_worst() -> None:
    colony = foraging.adopt(colony_at(torch.zeros(3, 2), loss=[1.0, 3.0, 2.0]), torch.full((2,), 7.0))
    assert colony.position.tolist() == [[0, 0], [7, 7], [0, 0]]
    assert colony.known.tolist() == [True, False, True]
    assert (colony.loss.tolist(), colony.best_loss) == ([1, math.inf, 2], 1)


def test_forgetting_all_forgets_the_best_too() -> None:
    colony = foraging.forget_all(colony_at(torch.zeros(3, 2), loss=[1.0, 3.0, 2.0]))
    assert not colony.known.any()
    assert colony.loss.tolist() == [math.inf] * 3
    assert colony.best_loss == math.inf


def test_diversity_is_the_mean_distance_from_the_centroid() -> None:
    assert foraging.diversity(torch.tensor([[0.0, 0.0], [6.0, 8.0]])).item() == 5


# --- torch.compile ---


@pytest.fixture
def trace_events() -> Iterator[list[str]]:
    """Names of the structured events of torch's trace logger; the logger is put back as it was."""
    events: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            events.extend(getattr(record, "metadata", None) or {})

    logger, listener = logging.getLogger("torch.__trace"), Listener()
    level = logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.DEBUG)
    try:
        yield events
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)


@pytest.mark.compile
@pytest.mark.parametrize(("swarming", "greedy"), [(None, False), (None, True), ((0.2, 0.1, 0.2, 10.0), False)])
def test_a_whole_generation_is_one_graph_without_breaks(
    swarming: Any, greedy: bool, generator: torch.Generator, trace_events: list[str]
) -> None:
    torch.compiler.reset()

    def batched(x_PD: Tensor, active_P: Tensor) -> Tensor:
        return rosenbrock(x_PD)

    compiled = torch.compile(foraging.generation, fullgraph=True, backend="aot_eager")
    colony = colony_at(torch.randn(8, 6, generator=generator))
    bound = torch.tensor([2.0])
    for _ in range(3):
        moves = 0.1 * foraging.tumble(torch.randn(8, 6, generator=generator))
        kwargs = {"swim_length": 4, "swarming": swarming, "greedy": greedy}
        fast = compiled(colony, moves, -bound, bound, batched, **kwargs)
        plain = foraging.generation(colony, moves, -bound, bound, batched, **kwargs)
        for name in Colony.names():
            assert torch.equal(getattr(fast.colony, name), getattr(plain.colony, name)), name
        assert torch.equal(fast.improved, plain.improved)
        colony = plain.colony
    graphs = [event for event in trace_events if event in ("aot_inference_graph", "aot_forward_graph")]
    assert len(graphs) == 1
    assert trace_events.count("dynamo_start") == 1
    assert "dynamo_graph_break_reason" not in trace_events
    torch.compiler.reset()
