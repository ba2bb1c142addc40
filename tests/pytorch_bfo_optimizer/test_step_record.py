"""What `on_step` hooks are told, in every kind of step of all three optimizers; and what comes of one that raises."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import weakref
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, field, fields
from typing import Any

import pytest
import torch
from torch import Tensor

from pytorch_bfo_optimizer import BFO, AdaptiveBFO, FunctionObjective, HybridBFO, StepRecord, foraging

FAMILY = [BFO, AdaptiveBFO, HybridBFO]


def hills(x_PD: Tensor) -> Tensor:
    """Rastrigin's function, which is not finite far out."""
    loss_P = (x_PD.square() - 10 * torch.cos(2 * math.pi * x_PD) + 10).sum(dim=1)
    return torch.where(x_PD.norm(dim=1) > 9, math.nan, loss_P)


@dataclass
class Course:
    """An optimizer on the hills, its records, and what the closure saw; `losses` are what `step` returned."""

    cls: type[BFO]
    settings: dict[str, Any]
    records: list[StepRecord] = field(default_factory=list)
    places: list[Tensor] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.param = torch.tensor([2.2, -1.3, 3.1], dtype=torch.float64, requires_grad=self.cls is HybridBFO)
        generator = torch.Generator().manual_seed(1)
        self.optimizer = self.cls([self.param], generator=generator, **self.settings)
        self.optimizer.on_step.append(self.records.append)

    def closure(self) -> Tensor:
        self.places.append(self.param.detach().clone())
        loss = hills(self.param.unsqueeze(0))[0]
        if loss.requires_grad:
            loss.backward()
        return loss

    def step(self) -> StepRecord:
        self.losses.append(self.optimizer.step(self.closure))
        return self.records[-1]


def course(cls: type[BFO], **settings: Any) -> Course:
    usual = {"population_size": 6} if cls is AdaptiveBFO else {"population_size": 6, "swim_length": 2}
    return Course(cls, {**usual, **settings})


def members(optimizer: BFO) -> Tensor:
    """The positions (P, D) that are kept, whatever runs."""
    return torch.cat([kept["position"].flatten(1) for kept in optimizer.state.values()], dim=1)


@pytest.mark.parametrize(
    ("cls", "settings", "phases"),
    [
        (BFO, {"chem_steps": 3, "repro_steps": 2, "step_size_max": 3.0}, {"generation"}),
        (AdaptiveBFO, {"bounds": (-9.0, 9.0)}, {"covariance", "differential"}),
        (HybridBFO, {"reevaluate": False}, {"run", "stray", "forage"}),
        (HybridBFO, {"reevaluate": True, "step_size_max": 5.0}, {"run", "stray", "forage", "generation"}),
    ],
)
def test_a_record_says_what_the_step_did(cls: type[BFO], settings: dict[str, Any], phases: set[str]) -> None:
    trial = course(cls, **settings)
    for _ in range(200):
        seen = len(trial.places)
        record = trial.step()
        assert record.generation == trial.optimizer.generation == len(trial.records)
        assert record.best_loss == trial.losses[-1] == trial.optimizer.best_fitness
        assert record.evaluations == len(trial.places) - seen
        found = hills(torch.stack(trial.places[seen:]))
        assert record.nonfinite == int(found.isnan().sum())
        assert record.diversity == float(foraging.diversity(members(trial.optimizer)))
        if record.phase in ("run", "stray"):
            assert record.losses is None
            assert record.loss == pytest.approx(float(found[-1].nan_to_num(nan=math.inf)))
        else:
            assert record.losses.dtype is torch.float64
            assert not record.losses.requires_grad
            assert record.losses.shape == (record.evaluations if record.phase != "generation" else 6,)
            assert record.loss == float(record.losses.min())
    assert {record.phase for record in trial.records} == phases
    assert [record.evaluations_total for record in trial.records][-1] == len(trial.places)
    assert trial.records[-1].nonfinite_total == sum(record.nonfinite for record in trial.records)
    assert trial.records[-1].nonfinite_total == trial.optimizer.nonfinite_evaluations


def test_the_step_size_of_a_run_and_of_its_hops_is_how_far_they_go() -> None:
    trial = course(HybridBFO, reevaluate=False)
    at = None
    for _ in range(80):
        held, seen = trial.param.detach().clone(), len(trial.places)
        record = trial.step()
        places = trial.places[seen:]
        if record.phase == "forage":
            assert torch.stack(places).sub(held).norm(dim=1).tolist() == pytest.approx([record.step_size] * 6)
            at = None
        else:
            start = places[-2] if len(places) > 1 else at
            if start is not None:
                assert float((places[-1] - start).norm()) == pytest.approx(record.step_size)
            at = places[-1]
    assert {record.phase for record in trial.records} == {"run", "stray", "forage"}


def test_a_run_that_stands_has_no_step_size() -> None:
    trial = course(HybridBFO, population_size=1, swim_length=0, reevaluate=False)
    assert trial.optimizer._generation_cost() == 1
    assert trial.step().step_size is None  # a step of one evaluation: the slope was felt, and that was all
    assert trial.step().step_size == pytest.approx(0.1)


def test_the_step_size_of_a_generation_is_the_length_of_its_moves() -> None:
    trial = course(BFO, population_size=1, swim_length=0, lr=0.5, chem_steps=1, repro_steps=2, elim_steps=2)
    trial.step()
    before = trial.places[-1]
    for expected in (0.035, 0.02, 0.005, 0.05):  # C falls from 0.1 to 0.01 over a life cycle of four generations
        record = trial.step()
        assert record.step_size == pytest.approx(expected)
        assert float((trial.places[-1] - before).norm()) == pytest.approx(expected) or record.dispersed
        before = trial.places[-1]


def test_the_step_size_of_a_season_is_its_sigma() -> None:
    trial = course(AdaptiveBFO, bounds=(-9.0, 9.0))
    trial.step()
    for _ in range(190):
        sigma = trial.optimizer.state[trial.param].get("scale")
        assert trial.step().step_size == (None if sigma is None else float(sigma))
    assert {record.step_size is None for record in trial.records} == {True, False}


def test_a_momentum_season_is_told_too() -> None:
    param, records = torch.ones(70), list[StepRecord]()
    optimizer = AdaptiveBFO([param], population_size=4, reevaluate=True)
    optimizer.on_step.append(records.append)
    objective = FunctionObjective(lambda x_PD: (x_PD - torch.arange(70)).square().sum(dim=1))
    returned = optimizer.step(objective)
    for _ in range(5):
        optimizer.step(objective)
    assert (records[0].phase, records[0].best_loss, records[0].step_size) == ("momentum", returned, pytest.approx(0.1))
    assert [record.best_loss for record in records] == [float(record.losses[0]) for record in records]
    assert [record.loss for record in records] == [float(record.losses.min()) for record in records]
    assert any(record.loss < record.best_loss for record in records)  # the centre's, which is what is trained


def test_as_long_as_a_run_goes_on_the_members_rest() -> None:
    trial = course(HybridBFO, reevaluate=False)
    diversity = float(foraging.diversity(trial.optimizer.population))
    while trial.step().phase == "run":
        assert trial.records[-1].diversity == diversity
    assert len(trial.records) > 5
    assert trial.records[-1].phase == "forage"
    assert trial.records[-1].diversity != diversity


@pytest.mark.parametrize("cls", FAMILY)
def test_what_a_record_refers_to_is_never_changed_in_place(cls: type[BFO]) -> None:
    trial = course(cls, reevaluate=False)
    for _ in range(60):
        trial.step()
    while trial.records[-1].losses is None:
        trial.step()
    losses = [record.losses for record in trial.records if record.losses is not None]
    assert losses
    copies = [values.clone() for values in losses]
    for _ in range(60):
        trial.step()
        trial.optimizer.load_state_dict(copy.deepcopy(trial.optimizer.state_dict()))
    assert all(map(torch.equal, losses, copies))


def test_a_record_that_is_kept_keeps_no_positions() -> None:
    trial = course(BFO)
    trial.step()
    position = weakref.ref(trial.optimizer.state[trial.param]["position"])
    assert position() is not None
    trial.step()
    gc.collect()
    assert position() is None
    assert len(trial.records) == 2


def test_a_record_is_frozen_and_its_plain_values_are_all_but_the_losses() -> None:
    record = course(BFO).step()
    with pytest.raises(FrozenInstanceError):
        record.loss = 0.0
    plain = record.plain()
    assert list(plain) == [item.name for item in fields(record) if item.name != "losses"]
    assert all(type(value) in (int, float, bool, str) for value in plain.values())
    plain["loss"] = 0.0
    assert record.loss > 0
    assert record == copy.copy(record)  # compared without its tensor


@pytest.mark.parametrize("cls", FAMILY)
def test_what_a_hook_raises_arrives_after_a_whole_step(cls: type[BFO]) -> None:
    trial, twin = course(cls), course(cls)
    error, called = KeyError("mine"), list[int]()

    def raising(record: StepRecord) -> None:
        if record.generation == 4:
            raise error

    trial.optimizer.on_step += [raising, lambda record: called.append(record.generation)]
    for _ in range(3):
        trial.step()
    with pytest.raises(KeyError) as caught:
        trial.step()
    assert caught.value is error
    assert torch.is_grad_enabled()
    assert called == [1, 2, 3]  # those after it are not called
    for _ in range(4):
        twin.step()
    assert torch.equal(trial.param, twin.param)
    assert trial.optimizer.generation == 4
    assert trial.records[-1] == twin.records[-1]
    for _ in range(10):  # and it goes on as if nothing had been
        assert trial.step() == twin.step()
    assert torch.equal(trial.param, twin.param)


def test_a_hook_that_raises_ends_minimize() -> None:
    trial = course(AdaptiveBFO)
    trial.optimizer.on_step.append(lambda record: 1 // (3 - record.generation))
    with pytest.raises(ZeroDivisionError):
        trial.optimizer.minimize(trial.closure, max_evaluations=1000)
    assert trial.optimizer.generation == 3
    assert trial.optimizer.evaluations == len(trial.places)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
@pytest.mark.parametrize("cls", FAMILY)
def test_a_copy_has_no_hooks_and_a_loaded_state_leaves_them(cls: type[BFO], copied: Callable[[Any], Any]) -> None:
    trial = course(cls)
    hooks = list(trial.optimizer.on_step)
    trial.step()
    twin = copied(trial.optimizer)
    assert twin.on_step == []
    twin.on_step.append(print)
    trial.optimizer.load_state_dict(twin.state_dict())
    assert trial.optimizer.on_step == hooks
    trial.step()
    assert len(trial.records) == 2
