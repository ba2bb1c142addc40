from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytorch_bfo_optimizer import (
    BFO,
    AdaptiveBFO,
    BatchedObjective,
    FunctionObjective,
    GradientConfig,
    HybridBFO,
    LossTypeError,
    ModelObjective,
    ObjectiveError,
)
from pytorch_bfo_optimizer.objective import as_batched

FAMILY = [BFO, AdaptiveBFO, HybridBFO]


def classifier(seed: int = 0, *, norm: bool = False, dropout: float = 0.0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        middle: list[nn.Module] = [nn.BatchNorm1d(5)] if norm else [nn.Tanh()]
        return nn.Sequential(nn.Linear(4, 5), *middle, nn.Dropout(dropout), nn.Linear(5, 3)).double()


def batch(size: int = 16) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(9)
    inputs = torch.randn(size, 4, generator=source, dtype=torch.float64)
    return inputs, inputs[:, :3].argmax(dim=1)


class Wrapped:
    """Lets the optimizer see a closure alone, and counts its calls."""

    def __init__(self, objective: Callable[[], Tensor]) -> None:
        self.objective, self.calls = objective, 0

    def __call__(self) -> Tensor:
        self.calls += 1
        return self.objective()


@pytest.mark.parametrize("cls", FAMILY)
@pytest.mark.parametrize("norm", [False, True])
def test_member_by_member_and_all_at_once_give_the_same_colony(cls: type[BFO], norm: bool) -> None:
    trails = []
    for batched in (False, True):
        model = classifier(norm=norm)
        objective = ModelObjective(model, nn.functional.cross_entropy, batch())
        closure = objective if batched else Wrapped(objective)
        settings = {"chem_steps": 2, "repro_steps": 1, "elim_prob": 0.4, "use_swarming": True}
        optimizer = cls(
            model.parameters(),
            population_size=5,
            generator=torch.Generator().manual_seed(4),
            **({} if cls is AdaptiveBFO else settings),
        )
        losses = [optimizer.step(closure) for _ in range(8)]
        trails.append((losses, optimizer.population))
    assert trails[0][0] == pytest.approx(trails[1][0], rel=1e-12)
    assert torch.allclose(trails[0][1], trails[1][1], rtol=1e-9, atol=1e-12)


def test_a_function_of_positions_gives_the_same_bits_either_way() -> None:
    trails = []
    for batched in (False, True):
        param = torch.full((3,), 2.0, dtype=torch.float64)
        objective = FunctionObjective(lambda x: (x[:, 0] - x[:, 1]) ** 2 + x[:, 2] ** 2, [param])
        optimizer = BFO([param], population_size=6, generator=torch.Generator().manual_seed(4))
        closure = objective if batched else Wrapped(objective)
        trails.append(([optimizer.step(closure) for _ in range(20)], optimizer.population.tolist()))
    assert trails[0] == trails[1]


@pytest.mark.parametrize("cls", FAMILY)
def test_all_at_once_means_one_call_a_slot_and_counts_every_row(cls: type[BFO]) -> None:
    rows = []

    def fn(x_PD: Tensor) -> Tensor:
        rows.append(len(x_PD))
        return (x_PD**2).sum(dim=1)

    param = torch.ones(3, requires_grad=True)
    generations: dict[type[BFO], dict[str, Any]] = {
        BFO: {"swim_length": 2},
        AdaptiveBFO: {},
        HybridBFO: {"swim_length": 2, "gradient_config": GradientConfig(mode="hybrid", check_every=1)},
    }
    slots = 1 if cls is AdaptiveBFO else 3
    optimizer = cls([param], population_size=6, **generations[cls])
    for _ in range(4):
        rows.clear()
        before = optimizer.evaluations
        optimizer.step(FunctionObjective(fn))
        assert sum(rows) == optimizer.evaluations - before == 6 * slots  # the gradient's own call among them
        assert len(rows) == slots + (cls is HybridBFO)


def test_the_losses_of_a_population_are_those_of_the_model_at_each_position() -> None:
    model = classifier()
    objective = ModelObjective(model, nn.functional.cross_entropy, batch())
    objective.bind(list(model.parameters()))
    assert objective.vector is not None
    pop_PD = torch.randn(3, objective.vector.dimension, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    before = objective.vector.read()
    at_once = objective.evaluate_population(pop_PD)
    one_by_one = []
    for row_D in pop_PD:
        objective.vector.write_(row_D)
        inputs, target = batch()
        one_by_one.append(nn.functional.cross_entropy(model(inputs), target).item())
    assert at_once.tolist() == pytest.approx(one_by_one)
    objective.vector.write_(before)
    small = ModelObjective(model, nn.functional.cross_entropy, batch(), chunk_size=2)
    assert small.evaluate_population(pop_PD).tolist() == pytest.approx(one_by_one)


def test_groups_in_another_order_than_the_model_and_frozen_parts_are_matched_by_identity() -> None:
    model = classifier()
    first, last = model[0], model[3]
    objective = ModelObjective(model, nn.functional.cross_entropy, batch())
    optimizer = BFO([{"params": [last.bias]}, {"params": [first.weight], "lr": 2.0}], population_size=5)
    frozen = last.weight.clone()
    losses = [optimizer.step(objective) for _ in range(15)]
    assert losses[-1] < losses[0]
    assert losses[-1] == pytest.approx(objective().item())
    assert torch.equal(last.weight, frozen)
    with pytest.raises(ObjectiveError, match="not a parameter of Sequential"):
        BFO([torch.zeros(2)], population_size=2).step(objective)


@pytest.mark.parametrize("batched", [False, True])
def test_buffers_are_never_touched(batched: bool) -> None:
    model = classifier(norm=True).train()
    objective = ModelObjective(model, nn.functional.cross_entropy, batch())
    before = [buffer.clone() for buffer in model.buffers()]
    objective()
    optimizer = HybridBFO(model.parameters(), population_size=3)
    for _ in range(2):
        optimizer.step(objective if batched else Wrapped(objective))
    assert len(before) == 3
    assert all(torch.equal(now, then) for now, then in zip(model.buffers(), before, strict=True))


def test_dropout_differs_between_members_or_does_not_as_told() -> None:
    model = classifier(dropout=0.5).train()
    pop_PD = torch.ones(6, sum(param.numel() for param in model.parameters()), dtype=torch.float64)
    pop_PD = pop_PD * torch.linspace(0.1, 1, pop_PD.shape[1], dtype=torch.float64)
    with torch.random.fork_rng():
        different = ModelObjective(model, nn.functional.cross_entropy, batch()).evaluate_population(pop_PD)
        same = ModelObjective(model, nn.functional.cross_entropy, batch(), randomness="same").evaluate_population(
            pop_PD
        )
    assert different.unique().numel() > 1
    assert same.unique().numel() == 1


def test_a_new_batch_is_used_from_the_next_evaluation() -> None:
    model = classifier()
    objective = ModelObjective(model, nn.functional.cross_entropy, batch())
    before = objective().item()
    inputs, target = batch()
    objective.batch = (inputs * 3, (target + 1) % 3)
    assert objective().item() != before
    assert objective().item() == nn.functional.cross_entropy(model(inputs * 3), (target + 1) % 3).item()


def test_training_a_model_all_at_once_needs_no_gradient() -> None:
    model = classifier()
    for param in model.parameters():
        param.requires_grad_(False)
    objective = ModelObjective(model, nn.functional.cross_entropy, batch(64))
    optimizer = BFO(model.parameters(), population_size=20, generator=torch.Generator().manual_seed(0))
    losses = [optimizer.step(objective) for _ in range(60)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("answer", [torch.ones(3), torch.ones(4, 1), torch.ones(4, dtype=torch.complex64), 1.0])
def test_a_batched_objective_that_answers_in_another_shape_is_refused(answer: Any) -> None:
    with pytest.raises(LossTypeError, match=r"shape \(4,\)"):
        BFO([torch.zeros(2)], population_size=4).step(FunctionObjective(lambda x: answer))


def test_what_counts_as_batched() -> None:
    objective = FunctionObjective(lambda x: x.sum(dim=1))
    assert isinstance(objective, BatchedObjective)
    assert as_batched(objective) is objective
    assert as_batched(lambda: 0.0) is None
    with pytest.raises(ObjectiveError, match="no parameters yet"):
        objective()


class Limited:
    """A batched objective with room for so many rows: beyond that it raises; it notes the rows of each call."""

    def __init__(self, room: int, error: Callable[[], Exception]) -> None:
        self.room, self.error = room, error
        self.rows: list[int] = []

    def bind(self, params: Any) -> None:
        pass

    def evaluate_population(self, pop_PD: Tensor) -> Tensor:
        self.rows.append(len(pop_PD))
        if len(pop_PD) > self.room:
            raise self.error()
        return (pop_PD**2).sum(dim=1)


def no_memory() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize("cls", FAMILY)
def test_a_chunk_size_bounds_the_rows_of_a_call_and_changes_nothing(cls: type[BFO]) -> None:
    trails = []
    for chunk_size in (None, 4, 100):
        objective = Limited(10, no_memory)
        param = torch.full((3,), 2.0)
        optimizer = cls([param], population_size=10, chunk_size=chunk_size, generator=torch.Generator().manual_seed(4))
        losses = [optimizer.step(objective) for _ in range(5)]
        trails.append((losses, optimizer.population.tolist(), optimizer.evaluations))
        assert max(objective.rows) == (4 if chunk_size == 4 else 10)
    assert trails[0] == trails[1] == trails[2]


def test_the_member_that_the_gradient_sensed_is_in_no_chunk() -> None:
    rows = []

    def fn(x_PD: Tensor) -> Tensor:
        rows.append(len(x_PD))
        return (x_PD**2).sum(dim=1)

    optimizer = HybridBFO(
        [torch.ones(3, requires_grad=True)],
        population_size=8,
        swim_length=1,
        chunk_size=3,
        gradient_config=GradientConfig(mode="hybrid"),
    )
    optimizer.step(FunctionObjective(fn))
    assert rows == [1, 3, 3, 1, 3, 3, 2]
    assert optimizer.evaluations == 16


def test_when_memory_runs_out_half_as_many_are_tried_and_that_is_remembered(caplog: pytest.LogCaptureFixture) -> None:
    objective = Limited(3, no_memory)
    optimizer = BFO([torch.full((3,), 2.0)], population_size=10, swim_length=1)
    with caplog.at_level(logging.WARNING, "pytorch_bfo_optimizer"):
        optimizer.step(objective)
        assert objective.rows == [10, 5, 3, 3, 3, 1, *[3, 3, 3, 1]]
        assert optimizer.evaluations == 20
        objective.rows.clear()
        optimizer.step(objective)
        assert set(objective.rows) == {3, 1}
    (record,) = caplog.records
    assert "from here on 3 of its members are evaluated at a time" in record.getMessage()
    plenty, usual = Limited(10, no_memory), BFO([torch.full((3,), 2.0)], population_size=10)
    usual.step(plenty)  # another optimizer knows nothing of it
    assert set(plenty.rows) == {10}


def test_where_one_member_alone_does_not_fit_the_error_reaches_the_user() -> None:
    objective = Limited(0, no_memory)
    with pytest.raises(torch.OutOfMemoryError, match=r"2\.00 GiB"):
        BFO([torch.ones(3)], population_size=4).step(objective)
    assert objective.rows == [4, 2, 1]


@pytest.mark.parametrize("chunk_size", [None, 3])
def test_a_chunk_size_that_was_asked_for_is_kept_to(chunk_size: int | None) -> None:
    objective = Limited(2, no_memory)
    with pytest.raises(torch.OutOfMemoryError):
        BFO([torch.ones(3)], population_size=4, chunk_size=chunk_size).step(objective)
    assert objective.rows == [chunk_size or 4]


class OwnError(RuntimeError):
    pass


@pytest.mark.parametrize(
    "error",
    [
        lambda: RuntimeError("the simulator is out of memory"),
        lambda: OwnError("DefaultCPUAllocator: can't allocate memory"),
        lambda: ValueError("DefaultCPUAllocator: can't allocate memory"),
        MemoryError,
    ],
)
def test_an_error_of_the_users_own_is_never_tried_again(error: Callable[[], Exception]) -> None:
    objective = Limited(2, error)
    with pytest.raises(type(error())):
        BFO([torch.ones(3)], population_size=4).step(objective)
    assert objective.rows == [4]


ALLOCATES = """
import json, resource
import torch
from pytorch_bfo_optimizer import BFO, FunctionObjective
rows = []
def fn(x_PD):
    rows.append(len(x_PD))
    work = torch.empty(len(x_PD), 100 * 2**20, dtype=torch.uint8)
    return (x_PD**2).sum(dim=1)
def optimizer(**options):
    param = torch.full((3,), 2.0)
    return BFO([param], population_size=16, swim_length=1, generator=torch.Generator().manual_seed(0), **options)
free, short, told = optimizer(), optimizer(), optimizer(chunk_size=None)
roomy = [free.step(FunctionObjective(fn)) for _ in range(2)]
with open("/proc/self/statm") as sizes:
    used = int(sizes.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 500 * 2**20,) * 2)
rows.clear()
found = [short.step(FunctionObjective(fn)) for _ in range(2)]
try:
    told.step(FunctionObjective(fn))
except RuntimeError as error:
    text = str(error)
print(json.dumps([roomy, found, rows, text]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is Linux's")
def test_a_real_allocation_that_fails_on_the_cpu_is_met_with_smaller_chunks() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", ALLOCATES], capture_output=True, text=True, timeout=100, env=environment
    )
    assert ran.returncode == 0, ran.stderr
    roomy, found, rows, text = json.loads(ran.stdout)
    assert found == roomy
    assert rows == [16, 8] + [4] * 16 + [16]
    assert "DefaultCPUAllocator" in text
