from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from pytorch_bfo_optimizer import (
    BFO,
    FunctionObjective,
    GradientConfig,
    HybridBFO,
    ModelObjective,
    StepRecord,
)


def rosenbrock(x_PD: Tensor) -> Tensor:
    return (100 * (x_PD[:, 1:] - x_PD[:, :-1] ** 2) ** 2 + (1 - x_PD[:, :-1]) ** 2).sum(dim=1)


def accuracy_on_digits(cls: type[BFO], *, batched: bool, steps: int, **options: Any) -> float:
    data = load_digits()
    x, y = torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = cls(
        model.parameters(), population_size=8, generator=torch.Generator().manual_seed(0), reevaluate=True, **options
    )
    source = torch.Generator().manual_seed(1)
    for _ in range(steps):
        rows = torch.randint(1300, (128,), generator=source)
        objective = ModelObjective(model, nn.functional.cross_entropy, (x[rows], y[rows]))

        def closure(objective: ModelObjective = objective) -> float:
            optimizer.zero_grad()
            loss = objective()
            loss.backward()
            return loss.item()

        optimizer.step(objective if batched else closure)
    with torch.no_grad():
        return (model(x[1300:]).argmax(dim=1) == y[1300:]).float().mean().item()


@pytest.mark.parametrize("batched", [False, True])
def test_it_trains_a_network_on_mini_batches_of_digits(batched: bool) -> None:
    assert accuracy_on_digits(HybridBFO, batched=batched, steps=100) > 0.8  # of 497 held-out digits; chance is 0.1


def test_without_the_gradient_the_same_budget_gets_much_less_far() -> None:
    blind = accuracy_on_digits(HybridBFO, batched=True, steps=100, gradient_config=GradientConfig(mode="never"))
    assert blind < 0.5


def test_the_gradient_helps_on_rosenbrock_in_ten_dimensions() -> None:
    ends = {}
    for cls in (BFO, HybridBFO):
        param = torch.full((10,), -1.2, dtype=torch.float64)
        optimizer = cls([param], population_size=10, generator=torch.Generator().manual_seed(0))
        ends[cls] = optimizer.minimize(FunctionObjective(rosenbrock), max_evaluations=2000).best_loss
    assert ends[HybridBFO] < 1e-9  # it starts at 6316
    assert ends[BFO] > 100


GUIDED = GradientConfig(mode="hybrid", check_every=1)


# --- generations that a gradient guides ---


def test_guided_the_best_member_goes_straight_down_one_step_long(make_bowl: Callable[..., Any]) -> None:
    bowl = make_bowl(dtype=torch.float64)
    start = torch.cat([param.detach().reshape(-1) for param in bowl.params])
    optimizer = HybridBFO(bowl.params, population_size=1, swim_length=1, gradient_config=GUIDED)
    optimizer.step(bowl)
    assert torch.allclose(bowl.positions[-1], start - 0.1 * (start - 1).sign() / 8**0.5, atol=1e-9)
    assert len(bowl.positions) == 2


def test_hybrid_takes_a_gradient_now_and_then_and_coasts_between(make_bowl: Callable[..., Any]) -> None:
    bowl, records = make_bowl(), list[StepRecord]()
    for use_momentum in (True, False):
        optimizer = HybridBFO(
            bowl.params,
            population_size=3,
            use_momentum=use_momentum,
            gradient_config=GradientConfig(mode="hybrid", check_every=3),
        )
        optimizer.on_step.append(records.append)
        losses = [optimizer.step(bowl) for _ in range(7)]
        assert optimizer.gradient_evaluations == 3
        assert losses == sorted(losses, reverse=True)
    assert [record.used_gradient for record in records] == [True] * 7 + [True, False, False] * 2 + [True]
    assert sum(record.evaluations for record in records) == bowl.calls
    assert max(record.evaluations for record in records) <= 3 * 5


def test_weight_zero_leaves_the_other_members_blind_and_one_sends_all_downhill() -> None:
    moves = {}
    for weight in (0.0, 1.0):
        param = torch.zeros(50, dtype=torch.float64)
        optimizer = HybridBFO(
            [param],
            population_size=6,
            swim_length=1,
            gradient_weight=weight,
            levy_alpha=None,
            gradient_config=GUIDED,
            generator=torch.Generator().manual_seed(0),
        )
        seen: list[Tensor] = []

        def closure(param: Tensor = param, seen: list[Tensor] = seen) -> Tensor:
            seen.append(param.detach().clone())
            return -param.sum()

        start = optimizer.population
        optimizer.step(closure)
        moved = torch.stack(seen[6:]) - start  # after the gradient and five that sense: one move each
        moves[weight] = (moved @ torch.ones(50, dtype=torch.float64) / 50**0.5 / 0.1).tolist()
    assert moves[1.0] == pytest.approx([1] * 6)
    assert moves[0.0][0] == pytest.approx(1)
    assert max(abs(cosine) for cosine in moves[0.0][1:]) < 0.6


def test_a_second_closure_guides_by_its_gradient_alone(make_bowl: Callable[..., Any]) -> None:
    bowl = make_bowl()
    optimizer = HybridBFO(bowl.params, population_size=4, gradient_config=GUIDED)

    def another() -> Tensor:
        return sum(((param - 1) ** 2).sum() for param in bowl.params) * 1000

    losses = [optimizer.step(bowl, another) for _ in range(6)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]
    assert optimizer.evaluations == bowl.calls
    assert optimizer.gradient_evaluations == 6


# --- what a run is to the colony ---


def test_never_a_gradient_is_a_greedy_colony(make_bowl: Callable[..., Any]) -> None:
    class Greedy(BFO):
        greedy = True

    ends = []
    for cls in (Greedy, HybridBFO):
        bowl = make_bowl()
        options = {"population_size": 5, "reevaluate": True, "levy_alpha": 1.5, "chem_steps": 2, "repro_steps": 1}
        optimizer = cls(bowl.params, generator=torch.Generator().manual_seed(0), **options)
        if isinstance(optimizer, HybridBFO):
            optimizer.gradient_config = GradientConfig(mode="never")
        losses = [optimizer.step(bowl) for _ in range(12)]
        ends.append((losses, optimizer.population.tolist(), bowl.calls))
    assert ends[0] == ends[1]


def test_the_run_is_the_best_member_of_the_population(make_bowl: Callable[..., Any]) -> None:
    bowl = make_bowl()
    optimizer = HybridBFO(bowl.params, population_size=4)
    for _ in range(3):
        optimizer.step(bowl)
        assert any(torch.equal(place, bowl.positions[-1]) for place in optimizer.population)


def test_a_run_and_generations_take_turns_as_the_gradient_comes_and_goes() -> None:
    param, graph = torch.full((3,), 2.0), {"there": True}

    def closure() -> Any:
        loss = (param**2).sum()
        return loss if graph["there"] else loss.item()

    optimizer = HybridBFO(
        [param],
        population_size=5,
        gradient_config=GradientConfig(check_every=2),
        generator=torch.Generator().manual_seed(0),
    )
    losses, gradients = [], [0]
    for step in range(24):
        graph["there"] = step % 6 < 3
        losses.append(optimizer.step(closure))
        gradients.append(optimizer.gradient_evaluations)
    taken = [after - before for before, after in itertools.pairwise(gradients)]
    assert (
        taken[:12] == [2, 1, 1, 1, 1, 0] * 2
    )  # two where a run begins; the third is missed, tried at the check, and left
    assert losses[-1] < 0.1 * losses[0]
    assert losses[-1] == float((param**2).sum())


def test_at_a_stationary_point_the_colony_searches_on(generator: torch.Generator) -> None:
    param = torch.zeros(2, requires_grad=True)  # a saddle: the gradient is zero
    optimizer = HybridBFO([param], population_size=8, generator=generator)
    losses = [optimizer.step(lambda: param[0] ** 2 - param[1] ** 2) for _ in range(5)]
    assert losses[-1] < -0.01
