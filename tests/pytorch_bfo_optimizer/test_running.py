from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from pytorch_bfo_optimizer import GradientConfig, HybridBFO, NonFiniteGenerationError, StepRecord
from pytorch_bfo_optimizer.search import Phase


def rastrigin(x: Tensor) -> Tensor:
    return (x.square() - 10 * torch.cos(2 * math.pi * x) + 10).sum(dim=-1)


class Hills:
    """Rastrigin's function at a parameter; keeps every place that it was evaluated at, and can fail."""

    def __init__(self, size: int, seed: int, dtype: torch.dtype = torch.float32) -> None:
        source = torch.Generator().manual_seed(seed)
        self.param = (10.24 * torch.rand(size, generator=source) - 5.12).to(dtype).requires_grad_()
        self.places: list[Tensor] = []
        self.fails_at = -1

    def __call__(self) -> Tensor:
        self.places.append(self.param.detach().clone())
        if len(self.places) == self.fails_at:
            raise KeyError("mine")
        return rastrigin(self.param)

    def optimizer(self, **options: Any) -> HybridBFO:
        return HybridBFO(
            [self.param], **{"population_size": 6, "generator": torch.Generator().manual_seed(1), **options}
        )


def phase(optimizer: HybridBFO) -> int:
    return int(optimizer.state[optimizer.param_groups[0]["params"][0]]["run_phase"])


def until(optimizer: HybridBFO, hills: Hills, wanted: int, *, most: int = 400) -> None:
    for _ in range(most):
        if optimizer.initialised and phase(optimizer) == wanted:
            return
        optimizer.step(hills)
    raise AssertionError(f"phase {wanted} did not come in {most} steps")


# --- runs ---


def test_the_first_move_is_straight_down_and_one_step_long(make_bowl: Callable[..., Any]) -> None:
    bowl = make_bowl(dtype=torch.float64)
    start = torch.cat([param.detach().reshape(-1) for param in bowl.params])
    HybridBFO(bowl.params, population_size=1, lr=0.5, step_size_max=0.4).step(bowl)
    down = -(start - 1).sign() / 8**0.5  # Adam's first step has the sign of each slope
    assert torch.allclose(bowl.positions[-1], start + 0.2 * down, atol=1e-9)
    assert len(bowl.positions) == 2


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_tiny_and_huge_gradients_lead_as_far(scale: float) -> None:
    param = torch.ones(4)
    optimizer = HybridBFO([param], population_size=1)
    for _ in range(3):
        optimizer.step(lambda: (param * scale).sum())
    assert torch.allclose(param, torch.full((4,), float(param[0])))
    assert param[0] < 0.7


def test_groups_move_as_far_as_their_own_step_sizes_say() -> None:
    params = [torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)]
    optimizer = HybridBFO([{"params": [params[0]], "step_size_max": 0.01, "lr": 2.0}, {"params": [params[1]]}])
    optimizer.step(lambda: params[0] + params[1])
    first, second = (1 - param.item() for param in params)
    assert first / second == pytest.approx(0.2, rel=1e-5)


def test_moves_below_the_resolution_of_the_parameters_add_up() -> None:
    param = torch.full((4,), 100.0, dtype=torch.bfloat16, requires_grad=True)
    optimizer = HybridBFO([param], population_size=2, step_size_max=0.02)
    for _ in range(40):  # a bfloat16 at 100 has steps of 0.5
        optimizer.step(lambda: param.float().sum())
    assert param.max() < 99


def test_without_momentum_only_the_last_gradient_counts() -> None:
    param, along = torch.zeros(2, dtype=torch.float64), {"way": [1.0, 0.0]}

    def closure() -> Tensor:
        return -(param * torch.tensor(along["way"], dtype=torch.float64)).sum()

    moves = {}
    for use_momentum in (True, False):
        optimizer = HybridBFO([param], population_size=1, use_momentum=use_momentum)
        along["way"] = [1.0, 0.0]
        optimizer.step(closure)
        along["way"] = [0.0, 1.0]
        optimizer.step(closure)  # moves as the last gradient said, and feels another
        before = param.clone()
        optimizer.step(closure)
        moves[use_momentum] = (param - before).tolist()
    assert moves[True][0] > 0.1 * moves[True][1] > 0
    assert moves[False][0] == 0 < moves[False][1]


def test_mini_batches_do_not_make_it_forage() -> None:
    data = load_digits()
    x, y = torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = HybridBFO(model.parameters(), population_size=8, generator=torch.Generator().manual_seed(0))
    source = torch.Generator().manual_seed(1)
    for _ in range(300):
        rows = torch.randint(len(x), (32,), generator=source)
        optimizer.step(lambda rows=rows: nn.functional.cross_entropy(model(x[rows]), y[rows]))  # type: ignore[misc]
    assert optimizer.evaluations == 301
    with torch.no_grad():
        assert nn.functional.cross_entropy(model(x), y) < 0.1


# --- foraging ---


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_leaves_the_basin_that_it_began_in(seed: int) -> None:
    hills = Hills(10, seed)
    optimizer = hills.optimizer()
    until(optimizer, hills, Phase.HUNGRY)
    first_minimum = optimizer.best_fitness
    assert first_minimum is not None
    assert first_minimum > 30
    while optimizer.evaluations < 4000:
        optimizer.step(hills)
    assert optimizer.best_fitness is not None
    assert optimizer.best_fitness < first_minimum / 2


def test_the_colony_looks_around_at_the_distance_of_a_hop() -> None:
    hills, records = Hills(3, 0), list[StepRecord]()
    optimizer = hills.optimizer(population_size=8)
    until(optimizer, hills, Phase.HUNGRY)
    record, came = hills.param.detach().clone(), hills.param.detach() - hills.places[0]
    optimizer.on_step.append(records.append)
    hills.places.clear()
    loss = optimizer.step(hills)
    places = torch.stack(hills.places)
    assert len(places) == 8
    assert torch.allclose((places - record).norm(dim=1), 2 * came.norm().expand(8), rtol=1e-4)
    assert torch.equal(hills.param, record)
    assert loss == optimizer.best_fitness == float(rastrigin(record))
    assert (records[0].evaluations, records[0].dispersed, records[0].used_gradient) == (8, 8, False)
    optimizer.step(hills)
    assert torch.equal(hills.places[8], places[rastrigin(places).argmin()])  # the next run begins at the best of them
    assert records[1].used_gradient


def test_while_a_run_strays_the_parameters_hold_the_record() -> None:
    hills = Hills(6, 0)
    optimizer = hills.optimizer()
    until(optimizer, hills, Phase.HUNGRY)
    record, losses = hills.param.detach().clone(), []
    while phase(optimizer) in (Phase.HUNGRY, Phase.STRAYS):
        held = hills.param.detach().clone()
        losses.append(optimizer.step(hills))
        if phase(optimizer) == Phase.STRAYS:
            assert torch.equal(hills.param, held)
    assert len(losses) > 3
    assert phase(optimizer) == Phase.LEADS  # and now the parameters are where that run is
    assert torch.equal(hills.places[-1], hills.param.detach())
    assert losses[-1] < losses[0] == float(rastrigin(record))


def test_where_losses_are_believed_the_parameters_hold_the_best_place_of_all() -> None:
    hills = Hills(6, 3, torch.float64)
    optimizer, losses = hills.optimizer(reevaluate=False), []
    for _ in range(300):
        losses.append(optimizer.step(hills))
        assert losses[-1] == float(rastrigin(hills.param.detach()))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == min(float(rastrigin(place)) for place in hills.places)


def test_a_constant_loss_and_a_saddle_send_the_colony_foraging() -> None:
    param = torch.zeros(2, requires_grad=True)
    saddle = HybridBFO([param], population_size=8, generator=torch.Generator().manual_seed(0))
    losses = [saddle.step(lambda: param[0] ** 2 - param[1] ** 2) for _ in range(5)]
    assert losses[-1] < -0.01
    flat = HybridBFO([torch.zeros(3, requires_grad=True)], population_size=4, swim_length=1)
    for _ in range(60):  # longer and longer hops that find nothing
        assert flat.step(lambda: flat.param_groups[0]["params"][0].sum() * 0 + 1) == 1


# --- what it must never do ---


@pytest.mark.parametrize(("members", "swims"), [(1, 0), (1, 1), (2, 1), (2, 3), (6, 1)])
@pytest.mark.parametrize("wall", [False, True])
def test_no_step_costs_more_than_its_bound(members: int, swims: int, wall: bool) -> None:
    hills = Hills(4, 0)

    def closure() -> Tensor:
        loss = hills()
        return loss * math.nan if wall and hills.param.detach()[0] > hills.places[0][0] else loss

    optimizer = hills.optimizer(population_size=members, swim_length=swims, reevaluate=swims > 0)
    for _ in range(250):
        before = len(hills.places)
        optimizer.step(closure)
        assert len(hills.places) - before <= members * (1 + swims)
        assert optimizer.evaluations == len(hills.places)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_runs_and_hops_stay_within_the_bounds(dtype: torch.dtype) -> None:
    hills = Hills(5, 0, dtype)
    optimizer = hills.optimizer(bounds=(-1.3, 0.7))
    for _ in range(300):
        optimizer.step(hills)
    places = torch.stack(hills.places[1:]).double()
    assert places.min() >= -1.3
    assert places.max() <= 0.7
    assert places.min() < -1.2
    optimizer.param_groups[0]["bounds"] = (0.2, 0.6)
    hills.places.clear()
    for _ in range(100):
        optimizer.step(hills)
        assert 0.2 <= hills.param.min() <= hills.param.max() <= 0.6
    assert 0.2 <= torch.stack(hills.places).min() <= torch.stack(hills.places).max() <= 0.6


@pytest.mark.parametrize("wanted", [Phase.LEADS, Phase.HUNGRY, Phase.STRAYS])
def test_an_exception_of_the_closure_leaves_all_as_it_was(wanted: int) -> None:
    hills = Hills(4, 0)
    optimizer = hills.optimizer(population_size=3)
    optimizer.step(hills)
    until(optimizer, hills, wanted)
    hills.fails_at = len(hills.places) + 1 + (wanted == Phase.HUNGRY)
    before, held = optimizer.state_dict(), hills.param.detach().clone()
    with pytest.raises(KeyError, match="mine"):
        optimizer.step(hills)
    after = optimizer.state_dict()
    assert torch.equal(hills.param, held)
    for key, value in before["state"][0].items():
        now = after["state"][0][key]
        if key not in ("evaluations", "gradient_evaluations"):
            same = torch.equal(torch.nan_to_num(torch.as_tensor(now)), torch.nan_to_num(torch.as_tensor(value)))
            assert same, key
    assert optimizer.evaluations == len(hills.places)
    optimizer.step(hills)


@pytest.mark.parametrize("wanted", [Phase.LEADS, Phase.HUNGRY, Phase.STRAYS, Phase.RECALLED])
@pytest.mark.parametrize("reevaluate", [True, False])
def test_resuming_in_any_phase_is_bitwise_equal_to_going_on(wanted: int, reevaluate: bool) -> None:
    def trajectory(optimizer: HybridBFO, hills: Hills) -> list[Any]:
        return [(optimizer.step(hills), optimizer.population.tolist(), optimizer.evaluations) for _ in range(60)]

    hills = Hills(4, 0)
    optimizer = hills.optimizer(reevaluate=reevaluate)
    optimizer.step(hills)
    until(optimizer, hills, wanted)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    other = Hills(4, 0)
    other.param = hills.param.detach().clone().requires_grad_()
    resumed = other.optimizer(reevaluate=reevaluate, generator=torch.Generator().manual_seed(99))
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert trajectory(resumed, other) == trajectory(optimizer, hills)
    assert torch.equal(other.param, hills.param)


# --- losses that are not finite, and interference ---


def test_a_run_goes_along_a_wall_and_never_ends_behind_it() -> None:
    param = torch.tensor([2.0, -1.0, 3.0], requires_grad=True)

    def closure() -> Tensor:  # a bowl whose bottom lies where there is no loss
        outside = param.detach()[0] < 1
        return param.square().sum() * (math.nan if outside else 1.0)

    records: list[StepRecord] = []
    optimizer = HybridBFO([param], population_size=6, generator=torch.Generator().manual_seed(0))
    optimizer.on_step.append(records.append)
    losses = [optimizer.step(closure) for _ in range(150)]
    assert all(math.isfinite(loss) for loss in losses)
    generations = [record for record in records if record.evaluations > 6]
    assert generations
    assert all(record.used_gradient for record in generations)
    assert param[0] >= 1
    assert min(losses) < 1.3  # 1 is the least there is
    assert optimizer.nonfinite_evaluations > 0


def test_finds_without_a_finite_loss_make_the_hop_shorter() -> None:
    param = torch.zeros(3, requires_grad=True)
    optimizer = HybridBFO([param], population_size=4, generator=torch.Generator().manual_seed(0))

    def closure() -> Tensor:  # finite in a small ball around its minimum
        return (param.square() + 1).sum() + (math.nan if param.detach().norm() > 0.05 else 0.0)

    losses = [optimizer.step(closure) for _ in range(60)]
    assert losses == [3.0] * 60
    assert optimizer.nonfinite_evaluations > 4
    assert optimizer.state[param]["run_hop"] < 1


def test_where_no_loss_is_finite_any_more_it_says_so() -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = HybridBFO([param], population_size=4)
    optimizer.step(lambda: (param**2).sum())
    held = param.detach().clone()
    with pytest.raises(NonFiniteGenerationError, match="generation 2"):
        optimizer.step(lambda: (param * math.nan).sum())
    assert torch.equal(param, held)
    assert optimizer.step(lambda: (param**2).sum()) < float((held**2).sum())


@pytest.mark.parametrize("wanted", [Phase.LEADS, Phase.STRAYS])
@pytest.mark.parametrize("place", [0.05, 4.4])
def test_parameters_changed_from_outside_are_where_the_run_goes_on(wanted: int, place: float) -> None:
    hills = Hills(4, 0)
    optimizer = hills.optimizer()
    optimizer.step(hills)
    until(optimizer, hills, wanted)
    with torch.no_grad():
        hills.param.fill_(place)
    optimizer.step(hills)
    assert phase(optimizer) == Phase.LEADS  # better or worse than the record: it is what the user wants
    assert torch.equal(hills.param.detach(), hills.places[-1])
    for _ in range(80):
        optimizer.step(hills)
    assert optimizer.best_fitness is not None
    assert optimizer.best_fitness < (0.01 if place < 1 else 90)


def test_a_step_is_recorded(make_bowl: Callable[..., Any]) -> None:
    bowl, records = make_bowl(), list[StepRecord]()
    optimizer = HybridBFO(bowl.params, population_size=4)
    optimizer.on_step.append(records.append)
    for _ in range(3):
        optimizer.step(bowl)
    assert [record.generation for record in records] == [1, 2, 3]
    assert [record.evaluations for record in records] == [2, 1, 1]
    assert all(record.used_gradient and record.improved == 1 for record in records)
    assert records[-1].best_loss == optimizer.best_fitness


def test_a_generation_without_a_gradient_counts_the_attempt_in_its_record() -> None:
    param, records = torch.ones(2), list[StepRecord]()
    optimizer = HybridBFO([param], population_size=3, swim_length=1, gradient_config=GradientConfig(check_every=2))
    optimizer.on_step.append(records.append)
    for _ in range(4):
        optimizer.step(lambda: (param**2).sum().item())
    assert sum(record.evaluations for record in records) == optimizer.evaluations
    assert max(record.evaluations for record in records) <= 6
