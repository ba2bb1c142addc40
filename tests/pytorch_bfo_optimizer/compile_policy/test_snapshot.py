from __future__ import annotations

import random
from collections import OrderedDict, defaultdict, deque
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pytorch_bfo_optimizer import HybridBFO
from pytorch_bfo_optimizer.compile_policy import snapshot as snapshot_module
from pytorch_bfo_optimizer.compile_policy.snapshot import Snapshot

from .conftest import Net, same, training

steps_taken = 0
history: list[float] = []


@dataclass
class Plain:
    count: int = 0


@dataclass(frozen=True, slots=True)
class Slotted:
    count: int
    inner: list[int]


class Everything:
    """A trainer of the user's, with state of every kind."""

    def __init__(self) -> None:
        self.run = training()
        self.plain, self.slotted = Plain(), Slotted(0, [1])
        self.namespace = SimpleNamespace(count=0)
        self.log: list[Any] = ["begin"]
        self.ordered, self.by_name = OrderedDict(a=1, b=2), defaultdict(list)
        self.seen, self.last = {1}, deque([1, 2], maxlen=2)
        self.total, self.array = torch.zeros(3), np.zeros(3)
        self.generator, self.python = torch.Generator().manual_seed(3), random.Random(3)
        self.numpy, self.legacy = np.random.default_rng(3), np.random.RandomState(3)

    def step(self) -> None:
        global steps_taken
        steps_taken += 1
        history.append(1.0)
        self.run.step()
        self.plain.count += 1
        object.__setattr__(self.slotted, "count", 5)
        self.slotted.inner.append(2)
        self.namespace.count += 1
        self.log[0] = "changed"
        self.log.append(self.total)
        self.ordered.move_to_end("a")
        self.by_name["new"].append(1)
        self.seen |= {2}
        self.last.append(3)
        self.total += 1
        self.array += 1
        self.extra = "an attribute that was not there"
        torch.rand(1, generator=self.generator)
        self.python.random()
        self.numpy.random()
        self.legacy.rand()
        torch.rand(1)
        random.random()
        np.random.rand()

    def values(self) -> Any:
        plain = {k: v for k, v in vars(self).items() if k not in ("run", "generator", "python", "numpy", "legacy")}
        return (
            self.run.state(),
            {k: list(v.items()) if isinstance(v, dict) else v for k, v in plain.items() if k not in ("array", "total")},
            (self.array.tolist(), self.total.tolist()),
            (self.plain.count, self.slotted.count, list(self.slotted.inner), self.namespace.count),
            (list(self.log), list(self.seen), list(self.last), list(self.ordered.items()), dict(self.by_name)),
            (steps_taken, list(history)),
            (self.generator.get_state(), self.python.getstate(), str(self.numpy.bit_generator.state)),
            (str(self.legacy.get_state()), random.getstate(), str(np.random.get_state()), torch.get_rng_state()),
        )


def copy_of(values: Any) -> Any:
    if isinstance(values, Tensor):
        return values.detach().clone()
    if isinstance(values, dict):
        return {key: copy_of(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return type(values)(copy_of(value) for value in values)
    return values


def test_all_that_a_step_reaches_is_put_back_as_often_as_wanted() -> None:
    trainer = Everything()
    before = copy_of(trainer.values())
    snapshot = Snapshot([trainer.step])
    for _ in range(2):
        trainer.step()
        changed = trainer.values()
        assert not any(same(now, then) for now, then in zip(changed, before, strict=True))
        snapshot.restore()
        assert same(trainer.values(), before)
    assert snapshot.notes() == ()


def test_parameters_grads_and_buffers_stay_the_same_objects_and_memory() -> None:
    run = training()
    run.step()
    grad = torch.full_like(run.model.first.weight, 7)
    run.model.first.weight.grad = grad
    objects = list(run.model.parameters()), list(run.model.buffers())
    memory = [tensor.data_ptr() for group in objects for tensor in group]
    before = copy_of(run.state())
    snapshot = Snapshot([run.step])
    assert not snapshot.parameters_moved()
    run.optimizer.zero_grad()
    run.step()
    run.model.first.weight.data = torch.zeros(3)
    run.model.norm.running_mean = torch.full((32,), 9.0)
    run.model.last.bias.requires_grad_(False)
    run.model.eval()
    assert snapshot.parameters_moved()
    snapshot.restore()
    assert same(run.state(), before)
    assert run.model.training
    assert all(param.requires_grad for param in run.model.parameters())
    assert [tensor.data_ptr() for group in objects for tensor in group] == memory
    assert all(a is b for a, b in zip(run.model.parameters(), objects[0], strict=True))
    assert run.model.first.weight.grad is grad
    assert grad.unique().tolist() == [7]


def test_tied_weights_and_views_are_kept_once_and_stay_tied() -> None:
    layer = nn.Linear(1000, 4, bias=False)
    other = nn.Linear(1000, 4, bias=False)
    other.weight = layer.weight
    row = layer.weight.detach()[1]
    snapshot = Snapshot([lambda: (layer, other, row)])
    kept = {copy.nbytes() for number, (_, copy) in snapshot._memory.items() if number in snapshot._trained}
    assert kept == {layer.weight.nbytes}
    before = layer.weight.detach().clone()
    assert not snapshot.parameters_moved()
    with torch.no_grad():
        row.fill_(3)
    assert snapshot.parameters_moved()  # wherever the memory was found first
    snapshot.restore()
    assert other.weight is layer.weight
    assert torch.equal(layer.weight, before)
    assert torch.equal(row, before[1])


def test_restoring_does_not_count_as_a_change_to_autograd() -> None:
    weight = torch.ones(3, requires_grad=True)
    loss = (weight**2).sum()
    Snapshot([lambda: weight]).restore()
    loss.backward()
    assert weight.grad is not None


@pytest.mark.parametrize("kind", ["sparse", "expanded", "integers", "bool", "empty", "inference", "complex"])
def test_tensors_of_every_kind_come_back(kind: str) -> None:
    def make() -> Tensor:
        if kind == "sparse":
            return torch.eye(3).to_sparse()
        if kind == "inference":
            with torch.inference_mode():
                return torch.ones(3)
        base = torch.arange(3)
        kinds = {"expanded": torch.ones(3, 1).expand(3, 4), "integers": base, "bool": base > 1, "empty": base[:0]}
        return {**kinds, "complex": torch.ones(3, dtype=torch.complex64)}[kind]

    holder = {"tensor": make()}
    snapshot = Snapshot([lambda: holder])
    with torch.inference_mode(kind == "inference"), torch.no_grad():
        if kind == "sparse":
            holder["tensor"].zero_()
        elif kind != "expanded":
            holder["tensor"].copy_(torch.zeros_like(holder["tensor"]))
        else:
            holder["tensor"]._base.zero_()
    snapshot.restore()
    assert torch.equal(holder["tensor"].to_dense(), make().to_dense())


def test_large_data_is_not_copied_and_the_notes_tell_if_it_was_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_module, "KEPT_BYTES", 64)
    data, array = torch.zeros(100), np.zeros(100)
    model = nn.Linear(100, 1)
    optimizer = torch.optim.Adam(model.parameters())
    model(data).backward()
    optimizer.step()
    snapshot = Snapshot([lambda: (data, array, model, optimizer)])
    state = optimizer.state[model.weight]
    before = copy_of([state["exp_avg"], model.weight, model.weight.grad])
    assert snapshot.notes() == ()
    data += 1
    array += 1
    model(data).backward()
    optimizer.step()
    snapshot.restore()
    assert data.unique().tolist() == [1]  # data, left alone
    assert len(snapshot.notes()) == 1
    assert "[100]" in snapshot.notes()[0]
    assert same([state["exp_avg"], model.weight, model.weight.grad], before)  # as large, but state


def test_an_iterator_is_named_because_nobody_can_turn_it_back() -> None:
    batches = iter(torch.utils.data.DataLoader(torch.arange(4)))
    assert Snapshot([lambda: next(batches)]).notes() == (
        "an iterator that the step can reach (_SingleProcessDataLoaderIter)",
    )


def test_optimizers_that_the_step_does_not_show_are_found_by_their_parameters() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    scaler = torch.amp.GradScaler("cpu")
    snapshot = Snapshot([model])
    scaler.scale(model(torch.ones(2, 64)).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()
    snapshot.restore()
    assert not optimizer.state
    assert (optimizer.param_groups[0]["lr"], scheduler.last_epoch, scheduler.get_last_lr()) == (0.1, 0, [0.1])
    assert scaler._scale is None
    assert all(param.grad is None for param in model.parameters())


def test_a_colony_is_put_back_too() -> None:
    """State in an object of the optimizer's own library, and a generator in it."""
    model = nn.Linear(2, 1)
    optimizer = HybridBFO(model.parameters(), population_size=4, generator=torch.Generator().manual_seed(0))

    def closure() -> Tensor:
        return (model.weight**2).sum()

    def trajectory() -> list[float]:
        return [float(optimizer.step(closure)) for _ in range(3)]

    snapshot = Snapshot([lambda: optimizer.step(closure)])
    first = trajectory()
    snapshot.restore()
    assert trajectory() == first


def test_free_variables_are_bound_as_before_or_not_at_all() -> None:
    count = 0
    late: int

    def step() -> int:
        nonlocal count, late
        count += 1
        late = count
        return late

    snapshot = Snapshot([step])
    assert step() == 1
    snapshot.restore()
    assert count == 0
    with pytest.raises(UnboundLocalError):
        late += 1  # noqa: F821 - the inner function binds it


def test_grad_mode_is_as_it_was() -> None:
    snapshot = Snapshot([Net()])
    torch.set_grad_enabled(False)
    snapshot.restore()
    assert torch.is_grad_enabled()
