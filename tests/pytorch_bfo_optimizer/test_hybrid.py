from __future__ import annotations

import logging
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
    NoGradientError,
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


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_gradient_helps_on_rosenbrock_in_ten_dimensions(seed: int) -> None:
    ends = {}
    for cls in (BFO, HybridBFO):
        param = torch.full((10,), -1.2, dtype=torch.float64)
        optimizer = cls([param], population_size=10, generator=torch.Generator().manual_seed(seed))
        ends[cls] = optimizer.minimize(FunctionObjective(rosenbrock), max_evaluations=20_000).best_loss
    assert ends[HybridBFO] < 10 < 6000  # it starts at 6316
    assert ends[HybridBFO] < ends[BFO]


def test_the_best_member_goes_straight_down_one_step_long(make_bowl: Callable[..., Any]) -> None:
    bowl = make_bowl(dtype=torch.float64)
    start = torch.cat([param.detach().reshape(-1) for param in bowl.params])
    optimizer = HybridBFO(bowl.params, population_size=1, swim_length=1)
    optimizer.step(bowl)
    slope = 2 * (start - 1)
    assert torch.allclose(bowl.positions[-1], start - 0.1 * slope / slope.norm(), atol=1e-12)


def test_momentum_averages_directions_and_gives_way_when_it_points_uphill() -> None:
    param = torch.zeros(2, dtype=torch.float64)
    optimizer = HybridBFO([param], population_size=1, momentum=0.5, swim_length=1, step_size_min=0.1)
    toward = {"by": torch.tensor([1.0, 0.0], dtype=torch.float64)}

    def step(x: float, y: float) -> list[float]:
        toward["by"] = torch.tensor([x, y], dtype=torch.float64)
        before = param.clone()
        optimizer.step(lambda: -(param * toward["by"]).sum())
        return ((param - before) / 0.1).tolist()

    assert step(1.0, 0.0) == pytest.approx([1, 0])
    diagonal = step(0.0, 1000.0)  # the size of a gradient does not count
    assert diagonal == pytest.approx([2**-0.5, 2**-0.5])
    assert step(-1.0, -1.0) == pytest.approx([-(2**-0.5), -(2**-0.5)])


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_tiny_and_huge_gradients_guide_as_well(scale: float) -> None:
    param = torch.ones(4)
    optimizer = HybridBFO([param], population_size=1)
    optimizer.step(lambda: (param * scale).sum())
    assert torch.allclose(param, torch.full((4,), float(param[0])))
    assert param[0] < 0.9


def test_the_gradient_call_stands_for_the_sensing_of_the_best_member(make_bowl: Callable[..., Any]) -> None:
    bowl = make_bowl()
    optimizer = HybridBFO(bowl.params, population_size=3, swim_length=2)
    for _ in range(8):
        before = bowl.calls
        optimizer.step(bowl)
        assert bowl.calls - before <= 9
        assert optimizer.evaluations == bowl.calls
    assert optimizer.gradient_evaluations == 8


def test_auto_says_what_it_decided_and_looks_again(caplog: pytest.LogCaptureFixture) -> None:
    param = torch.ones(2)
    optimizer = HybridBFO([param], population_size=2, gradient_config=GradientConfig(check_every=4))
    graph = {"there": False}

    def closure() -> Any:
        loss = (param**2).sum()
        return loss if graph["there"] else loss.item()

    caplog.set_level(logging.INFO, logger="pytorch_bfo_optimizer")
    tries = []
    for step in range(10):
        graph["there"] = step in (3, 4, 5, 6)
        optimizer.step(closure)
        tries.append(optimizer.gradient_evaluations)
    # tried at 0; from the check at 4 on while it works (4, 5, 6), and once more when it no longer does (7); at 8
    assert tries == [1, 1, 1, 1, 2, 3, 4, 5, 6, 6]
    decision = optimizer.gradient_decision
    assert decision is not None
    assert not decision.use_gradient
    assert "plain number" in decision.why
    assert decision.step == 7
    messages = [record.getMessage() for record in caplog.records]
    assert [message.split(",")[0] for message in messages] == [
        "generation 0: no gradient",
        "generation 4: gradient",
        "generation 7: no gradient",
    ]


def test_always_raises_without_a_gradient_unless_told_to_go_on(caplog: pytest.LogCaptureFixture) -> None:
    param = torch.ones(2)
    optimizer = HybridBFO([param], population_size=2, gradient_config=GradientConfig(mode="always"))
    with pytest.raises(NoGradientError, match="plain number"):
        optimizer.step(lambda: param.sum().item())
    assert param.tolist() == [1, 1]
    optimizer.gradient_config = GradientConfig(mode="always", fallback_on_error=True)
    optimizer.step(lambda: param.sum().item())
    assert "going on without" in caplog.text
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)


def test_an_objective_that_cannot_be_called_is_searched_without_a_gradient() -> None:
    class Rows:
        def bind(self, params: Any) -> None: ...

        def evaluate_population(self, pop_PD: Tensor) -> Tensor:
            return (pop_PD**2).sum(dim=1)

    param = torch.ones(2)
    optimizer = HybridBFO([param], population_size=4, swim_length=2)
    losses = [optimizer.step(Rows()) for _ in range(6)]  # type: ignore[call-overload]
    assert losses[-1] < losses[0]
    assert optimizer.evaluations == 6 * 4 * 3
    assert optimizer.gradient_evaluations == 0
    assert optimizer.gradient_decision is not None
    assert "cannot be called" in optimizer.gradient_decision.why
    optimizer.step(Rows(), lambda: (param**2).sum())  # type: ignore[arg-type]
    assert optimizer.gradient_evaluations == 0  # auto looks again at its next check
    optimizer.gradient_config = GradientConfig(mode="always")
    optimizer.step(Rows(), lambda: (param**2).sum())  # type: ignore[arg-type]
    assert optimizer.gradient_evaluations == 1


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
        for _ in range(7):
            optimizer.step(bowl)
        assert optimizer.gradient_evaluations == 3
    assert [record.used_gradient for record in records] == [True] * 7 + [True, False, False] * 2 + [True]


def test_a_gradient_that_is_not_finite_is_not_followed(make_bowl: Callable[..., Any]) -> None:
    param = torch.ones(2)

    def closure() -> Tensor:
        return (param**2).sum() + (param - 1).abs().sum().sqrt()  # its slope at 1 is NaN

    strict = HybridBFO([param], population_size=2, gradient_config=GradientConfig(mode="always"))
    with pytest.raises(NoGradientError, match="not finite in parameter 0") as caught:
        strict.step(closure)
    assert caught.value.reason == "non-finite"
    auto = HybridBFO([param], population_size=2)
    auto.step(closure)
    assert auto.gradient_decision is not None
    assert "not finite" in auto.gradient_decision.why
    assert bool(param.isfinite().all())


def test_at_a_stationary_point_the_colony_searches_on(generator: torch.Generator) -> None:
    param = torch.zeros(2, requires_grad=True)  # a saddle: the gradient is zero
    optimizer = HybridBFO([param], population_size=8, generator=generator)
    losses = [optimizer.step(lambda: param[0] ** 2 - param[1] ** 2) for _ in range(5)]
    assert losses[-1] < -0.01


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
