"""Every scheduler of torch drives `lr`, and `BFOScheduler` the rest."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, lr_scheduler
from torch.optim.swa_utils import SWALR

from bfo_diag.cases.digits_mlp import digits
from pytorch_bfo_optimizer import BFO, AdaptiveBFO, HybridBFO, HyperparameterError, StateMismatchError
from pytorch_bfo_optimizer.schedulers import BFOScheduler, CosineSchedule, LinearSchedule


def chained(optimizer: Any) -> Any:
    constant, falling = lr_scheduler.ConstantLR(optimizer, total_iters=3), lr_scheduler.ExponentialLR(optimizer, 0.9)
    return lr_scheduler.ChainedScheduler([constant, falling], optimizer=optimizer)


def sequential(optimizer: Any) -> Any:
    constant, falling = lr_scheduler.ConstantLR(optimizer, total_iters=3), lr_scheduler.ExponentialLR(optimizer, 0.9)
    return lr_scheduler.SequentialLR(optimizer, [constant, falling], milestones=[4])


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "LambdaLR": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step),
    "MultiplicativeLR": lambda optimizer: lr_scheduler.MultiplicativeLR(optimizer, lambda step: 0.9),
    "StepLR": lambda optimizer: lr_scheduler.StepLR(optimizer, 3),
    "MultiStepLR": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [2, 5]),
    "ConstantLR": lambda optimizer: lr_scheduler.ConstantLR(optimizer, total_iters=3),
    "LinearLR": lambda optimizer: lr_scheduler.LinearLR(optimizer, total_iters=5),
    "ExponentialLR": lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.9),
    "SequentialLR": sequential,
    "PolynomialLR": lambda optimizer: lr_scheduler.PolynomialLR(optimizer, total_iters=6),  # ends at 0
    "CosineAnnealingLR": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 6),
    "ChainedScheduler": chained,
    "ReduceLROnPlateau": lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, patience=1),
    "CyclicLR": lambda optimizer: lr_scheduler.CyclicLR(optimizer, 0.1, 1.0, step_size_up=3, cycle_momentum=False),
    "CosineAnnealingWarmRestarts": lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 4),
    "OneCycleLR": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 2.0, total_steps=12, cycle_momentum=False),
    "SWALR": lambda optimizer: SWALR(optimizer, swa_lr=0.05, anneal_epochs=4),
}
FAMILY: list[tuple[Any, dict[str, Any]]] = [
    (BFO, {"population_size": 3}),
    (AdaptiveBFO, {"population_size": 4}),
    (HybridBFO, {"population_size": 3}),
]
CLASSES = [cls for cls, _ in FAMILY]


def driven(cls: Any, make: Callable[[Any], Any], **settings: Any) -> list[tuple[float, ...]]:
    """The lr, the scheduler's account of it, and the momentum if there is one, after each of ten steps."""
    weight = torch.tensor([1.0, -2.0], requires_grad=True)
    optimizer = cls([weight], lr=1.0, **settings)
    scheduler, found = make(optimizer), []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (weight**2).sum()
        if cls is SGD:
            loss.backward()
        return loss

    for _ in range(10):
        optimizer.step(closure)
        scheduler.step(1.0) if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else scheduler.step()
        (group,) = optimizer.param_groups
        found.append((group["lr"], scheduler.get_last_lr()[0]))
    return found


def test_no_scheduler_of_torch_is_forgotten_here() -> None:
    known = {
        name
        for name, cls in vars(lr_scheduler).items()
        if inspect.isclass(cls) and issubclass(cls, lr_scheduler.LRScheduler) and not name.endswith("LRScheduler")
    }
    assert known <= set(SCHEDULERS)
    assert len(known) == 15


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_rate_is_what_it_would_be_with_sgd(name: str) -> None:
    wanted = driven(SGD, SCHEDULERS[name])
    assert len(set(wanted)) > 1
    for cls, settings in FAMILY:
        assert driven(cls, SCHEDULERS[name], **settings) == wanted, cls


@pytest.mark.parametrize(
    "make",
    [
        lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 2.0, total_steps=12),
        lambda optimizer: lr_scheduler.CyclicLR(optimizer, 0.1, 1.0, step_size_up=3),
    ],
)
def test_momentum_is_cycled_where_there_is_one(make: Callable[[Any], Any]) -> None:
    """`HybridBFO` has it; the others want `cycle_momentum=False`."""
    weight = torch.ones(2, requires_grad=True)
    for cls in (BFO, AdaptiveBFO):
        with pytest.raises(ValueError, match="must support momentum or beta1 with `cycle_momentum`"):
            make(cls([weight]))
    hybrid, sgd = HybridBFO([weight]), SGD([weight], momentum=0.9)
    schedulers = make(hybrid), make(sgd)
    for _ in range(4):
        hybrid.step(lambda: (weight**2).sum())
        sgd.step()
        for scheduler in schedulers:
            scheduler.step()
        assert hybrid.param_groups[0]["momentum"] == sgd.param_groups[0]["momentum"]
    assert hybrid.param_groups[0]["momentum"] != 0.9


@pytest.mark.parametrize("cls", [BFO, HybridBFO])
def test_a_rate_scales_the_first_move(cls: Any) -> None:
    def moved(rate: float) -> float:
        weight = torch.zeros(50, requires_grad=True)
        optimizer = cls([weight], population_size=1, swim_length=1, generator=torch.Generator().manual_seed(0))
        lr_scheduler.LambdaLR(optimizer, lambda step: rate)
        optimizer.step(lambda: ((weight - 5) ** 2).sum())
        return float((optimizer.population[0]).norm())

    assert moved(1.0) > 0
    assert moved(0.25) == pytest.approx(0.25 * moved(1.0), rel=1e-5)


def test_a_plateau_of_the_loss_lowers_the_rate_and_training_goes_on() -> None:
    images, labels = digits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
    optimizer = HybridBFO(model.parameters())
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5)  # asks for a half at each step
    losses = []
    for _ in range(12):
        losses.append(optimizer.step(lambda: nn.functional.cross_entropy(model(images[:256]), labels[:256])))
        scheduler.step(losses[-1])
    assert optimizer.param_groups[0]["lr"] < 1e-6
    assert losses[-1] < losses[0]


# --- BFOScheduler ---


def bowl(weight: Tensor) -> Callable[[], Tensor]:
    return lambda: (weight**2).sum()


def test_values_are_set_at_once_and_by_each_step() -> None:
    weight = torch.ones(2, requires_grad=True)
    optimizer = BFO([weight], population_size=3, swim_length=4)
    scheduler = BFOScheduler(
        optimizer, elim_prob=LinearSchedule(0.25, 0.0, steps=5), swim_length=lambda step: 3 if step < 2 else 1
    )
    found, evaluations = [], []
    for _ in range(7):
        (group,) = optimizer.param_groups
        found.append((round(group["elim_prob"], 12), group["swim_length"]))
        assert scheduler.get_last_values() == {"elim_prob": [group["elim_prob"]], "swim_length": [group["swim_length"]]}
        evaluations.append(optimizer.evaluations)
        optimizer.step(bowl(weight))
        scheduler.step()
    assert found == [(0.25, 3), (0.2, 3), (0.15, 1), (0.1, 1), (0.05, 1), (0.0, 1), (0.0, 1)]
    spent = [after - before for before, after in pairwise(evaluations)]
    assert max(spent[2:]) <= 3 * (1 + 1)  # a step that swims once at most


def test_a_step_size_that_falls_makes_shorter_moves() -> None:
    weight = torch.zeros(20, requires_grad=True)
    optimizer = BFO([weight], population_size=1, swim_length=1, elim_steps=0, step_size_min=0.0)
    scheduler = BFOScheduler(optimizer, step_size_max=lambda step: 0.1**step, chem_steps=lambda step: 10**6)
    lengths = []
    for _ in range(3):
        before = optimizer.population
        optimizer.step(lambda: weight.sum() * 0)
        lengths.append(float((optimizer.population - before).norm()))
        scheduler.step()
    assert lengths == pytest.approx([1.0, 0.1, 0.01], rel=1e-3)


@pytest.mark.parametrize("name", ["gradient_weight", "momentum"])
def test_what_hybrid_alone_has_is_scheduled_there(name: str) -> None:
    weight = torch.ones(2, requires_grad=True)
    optimizer = HybridBFO([weight], population_size=3)
    scheduler = BFOScheduler(optimizer, **{name: CosineSchedule(0.8, 0.2, steps=2)})
    optimizer.step(bowl(weight))
    scheduler.step()
    assert optimizer.param_groups[0][name] == pytest.approx(0.5)
    with pytest.raises(HyperparameterError, match=f"BFO has no hyperparameter '{name}'; it has bounds, "):
        BFOScheduler(BFO([weight]), **{name: lambda step: 0.5})


def test_groups_have_schedules_of_their_own_where_the_optimizer_lets_them_differ() -> None:
    groups = [{"params": [torch.ones(2)]}, {"params": [torch.ones(3)], "step_size_max": 0.3}]
    optimizer = BFO(groups, population_size=3, step_size_min=0.0)
    scheduler = BFOScheduler(optimizer, step_size_max=[lambda step: 0.1, LinearSchedule(0.3, 0.1, 2)])
    scheduler.step()
    assert scheduler.get_last_values() == {"step_size_max": [0.1, pytest.approx(0.2)]}
    assert optimizer.param_groups[1]["step_size_max"] == pytest.approx(0.2)

    message = r"at step 0 \(elim_prob=\[0\.1, 0\.2\]\): elim_prob is 0\.1 in group 0 and 0\.2 in group 1"
    with pytest.raises(HyperparameterError, match=message):
        BFOScheduler(optimizer, elim_prob=[lambda step: 0.1, lambda step: 0.2])
    assert [group["elim_prob"] for group in optimizer.param_groups] == [0.25, 0.25]
    with pytest.raises(HyperparameterError, match="list of 1, and there are 2 param groups"):
        BFOScheduler(optimizer, step_size_max=[lambda step: 0.1])


def test_a_value_that_the_optimizer_refuses_is_named_with_its_step_and_changes_nothing() -> None:
    weight = torch.ones(2, requires_grad=True)
    optimizer = BFO([weight], population_size=3)
    scheduler = BFOScheduler(optimizer, elim_prob=lambda step: 0.6 * step, step_size_max=LinearSchedule(0.1, 0.2, 2))
    scheduler.step()
    before = dict(optimizer.param_groups[0])
    for _ in range(2):  # it is not one step further the second time
        with pytest.raises(HyperparameterError, match=r"at step 2 \(elim_prob=1\.2, step_size_max=0\.2\): elim_prob"):
            scheduler.step()
        assert optimizer.param_groups[0] == before
        assert scheduler.last_step == 1
        assert scheduler.get_last_values() == {"elim_prob": [0.6], "step_size_max": [pytest.approx(0.15)]}
    optimizer.step(bowl(weight))


def test_a_value_that_does_not_go_with_another_is_refused_too() -> None:
    scheduler = BFOScheduler(BFO([torch.ones(2)], step_size_min=0.03), step_size_max=LinearSchedule(0.1, 0.0, 4))
    scheduler.step()
    scheduler.step()
    with pytest.raises(HyperparameterError, match=r"at step 3 \(step_size_max=0\.025\): step_size_min is 0\.03"):
        scheduler.step()
    together = BFOScheduler(
        BFO([torch.ones(2)]),
        step_size_max=LinearSchedule(0.1, 0.001, 10),
        step_size_min=LinearSchedule(0.01, 0.0001, 10),
    )
    for _ in range(12):
        together.step()
    assert together.get_last_values() == {"step_size_max": [0.001], "step_size_min": [0.0001]}


def test_what_a_schedule_raises_comes_through_and_nothing_changes() -> None:
    optimizer = BFO([torch.ones(2)])

    def fails(step: int) -> float:
        if step == 1:
            raise ZeroDivisionError("mine")
        return 0.1

    scheduler = BFOScheduler(optimizer, elim_prob=lambda step: 0.1 * step, step_size_max=fails)
    with pytest.raises(ZeroDivisionError, match=r"^mine$"):
        scheduler.step()
    assert (optimizer.param_groups[0]["elim_prob"], scheduler.last_step) == (0.0, 0)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"population_size": lambda step: 9}, "population_size is not for a BFOScheduler: it cannot change once"),
        ({"lr": lambda step: 0.1}, "lr is not for a BFOScheduler: torch.optim.lr_scheduler is for it"),
        ({"elim_prop": lambda step: 0.1}, "has no hyperparameter 'elim_prop'; it has bounds, reevaluate"),
        ({"elim_prob": 0.1}, r"the schedule of elim_prob is 0\.1: pass a function .*elim_prob=\.\.\."),
        ({"elim_prob": [0.1]}, r"the schedule of elim_prob is \[0\.1\]"),
        ({"swim_length": LinearSchedule(4, 1, 9)}, r"at step 0 \(swim_length=4\.0\): .* must be an integer"),
    ],
)
def test_what_is_no_schedule_is_refused_at_once(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(HyperparameterError, match=named):
        BFOScheduler(BFO([torch.ones(2)]), **settings)


def test_another_optimizer_is_refused() -> None:
    with pytest.raises(HyperparameterError, match="this is SGD"):
        BFOScheduler(SGD([torch.ones(2)], lr=0.1))  # type: ignore[arg-type]


def test_the_ready_made_schedules_go_from_end_to_end() -> None:
    line, curve = LinearSchedule(1.0, 0.2, steps=4), CosineSchedule(1.0, 0.2, steps=4)
    assert [line(step) for step in range(6)] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.2])
    half = math.sqrt(0.5)
    assert [curve(step) for step in range(6)] == pytest.approx([1.0, 0.6 + 0.4 * half, 0.6, 0.6 - 0.4 * half, 0.2, 0.2])
    for schedule in (line, curve):
        assert (schedule(0), schedule(4)) == (1.0, 0.2)  # exactly
    for make in (LinearSchedule, CosineSchedule):
        with pytest.raises(HyperparameterError, match="steps is 0"):
            make(1.0, 0.0, steps=0)
        with pytest.raises(HyperparameterError, match="end is nan"):
            make(1.0, math.nan, steps=3)


class Halving:
    """A schedule with a state of its own."""

    def __init__(self, start: float) -> None:
        self.start = start

    def __call__(self, step: int) -> float:
        return self.start * 0.5**step


def test_a_run_goes_on_where_it_was_saved(tmp_path: Any) -> None:
    def make(start: float) -> tuple[Tensor, BFO, BFOScheduler]:
        weight = torch.ones(3, requires_grad=True)
        optimizer = BFO([weight], population_size=4, generator=torch.Generator().manual_seed(1))
        scheduler = BFOScheduler(
            optimizer,
            step_size_max=Halving(start),
            step_size_min=lambda step: 0.0,
            elim_prob=LinearSchedule(start, 0.0, 20),
            chem_steps=partial(max, 1),
        )
        return weight, optimizer, scheduler

    def steps(made: tuple[Tensor, BFO, BFOScheduler], count: int) -> list[Any]:
        weight, optimizer, scheduler = made
        found = []
        for _ in range(count):
            found.append((optimizer.step(bowl(weight)), scheduler.get_last_values()))
            scheduler.step()
        return found

    whole = steps(make(0.5), 8)
    first = make(0.5)
    assert steps(first, 4) == whole[:4]
    torch.save([first[0].detach(), first[1].state_dict(), first[2].state_dict()], tmp_path / "run.pt")

    weight, optimizer_state, scheduler_state = torch.load(tmp_path / "run.pt", weights_only=True)
    second = make(0.9)  # its objects' attributes come from the file
    with torch.no_grad():
        second[0].copy_(weight)
    second[1].load_state_dict(optimizer_state)
    second[2].load_state_dict(scheduler_state)
    assert steps(second, 4) == whole[4:]


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    optimizer = BFO([torch.ones(2)])
    scheduler = BFOScheduler(optimizer, elim_prob=Halving(0.5))
    scheduler.step()
    other = BFOScheduler(BFO([torch.ones(2)]), elim_prob=Halving(0.5), step_size_max=Halving(0.5))
    with pytest.raises(StateMismatchError, match="sets elim_prob, step_size_max, and this one elim_prob"):
        scheduler.load_state_dict(other.state_dict())
    with pytest.raises(HyperparameterError, match=r"at step 0 \(elim_prob=3\.0\)"):
        scheduler.load_state_dict({"last_step": 0, "schedules": {"elim_prob": [{"start": 3.0}]}})
    assert scheduler.last_step == 1
    assert scheduler.get_last_values() == {"elim_prob": [0.25]}
    assert optimizer.param_groups[0]["elim_prob"] == 0.25
    scheduler.step()
    assert scheduler.get_last_values() == {"elim_prob": [0.125]}


def test_it_goes_with_a_scheduler_of_torch() -> None:
    weight = torch.ones(2, requires_grad=True)
    optimizer = HybridBFO([weight], population_size=3)
    rate = lr_scheduler.ExponentialLR(optimizer, 0.5)
    foraging = BFOScheduler(optimizer, swim_length=lambda step: 1 + step)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            optimizer.step(bowl(weight))
            rate.step()
            foraging.step()
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["swim_length"]) == (0.125, 4)


def test_numbers_of_numpy_are_set_as_pythons_own_and_a_step_is_a_count() -> None:
    optimizer = BFO([torch.ones(2)])
    scheduler = BFOScheduler(optimizer, elim_prob=lambda step: np.float64(0.5) / (step + 1))
    assert type(optimizer.param_groups[0]["elim_prob"]) is float
    for wrong in (-5, 2.5):
        with pytest.raises(HyperparameterError, match="last_step"):
            scheduler.load_state_dict({**scheduler.state_dict(), "last_step": wrong})
    assert optimizer.param_groups[0]["elim_prob"] == 0.5
