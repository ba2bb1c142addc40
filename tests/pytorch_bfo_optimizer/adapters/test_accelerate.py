"""A raw loop of Accelerate, as its page in docs/integrations has it: digits, BatchNorm, dropout, micro-batches."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from bfo_diag.cases.digits_mlp import digits
from pytorch_bfo_optimizer import BFO, ClosureRequiredError, HybridBFO, distribute
from pytorch_bfo_optimizer.accumulation import accumulate
from pytorch_bfo_optimizer.steady import steady_step

accelerate = pytest.importorskip("accelerate", reason="pip install 'bfo-diag[accelerate]'")


@pytest.fixture(autouse=True)
def _own_state() -> Iterator[None]:
    """Accelerate keeps its settings for the whole process; a Trainer's too."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    with torch.random.fork_rng(devices=[]):
        yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def model_and_colony(cls: type[BFO] = HybridBFO, seed: int = 1, dropout: float = 0.2) -> tuple[nn.Sequential, BFO]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(dropout), nn.Linear(32, 10))
    return model, cls(model.parameters(), population_size=6, generator=torch.Generator().manual_seed(seed))


def loader_of(batch_size: int = 64, **options: Any) -> DataLoader:
    images, labels = digits()
    return DataLoader(TensorDataset(images[:640], labels[:640]), batch_size=batch_size, **options)


def halving(optimizer: BFO) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.5, total_iters=20)


def loss_of(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(x), y)


def epoch(model: nn.Module, colony: BFO, loader: Any, scheduler: Any) -> list[float]:
    """An epoch as the page has it."""
    losses, batches = [], list(loader)
    for pair in zip(batches[::2], batches[1::2], strict=True):
        closure = accumulate([partial(loss_of, model, x, y) for x, y in pair], weights=[len(y) for _, y in pair])
        losses.append(steady_step(colony, closure, model))
        scheduler.step()
    return losses


def values(model: nn.Module) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1).double() for tensor in model.state_dict().values()])


@pytest.mark.parametrize(("cls", "precision"), [(HybridBFO, "bf16"), (BFO, "no")])
def test_a_loop_of_accelerate_goes_the_way_of_one_in_plain_torch_to_the_bit(cls: type[BFO], precision: str) -> None:
    def in_half(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            scores = expected(x)
        return scores.float()

    expected, colony = model_and_colony(cls)
    losses, scheduler = [], halving(colony)
    accelerate.utils.set_seed(3)
    batches = list(loader_of())
    for pair in zip(batches[::2], batches[1::2], strict=True):

        def closure() -> Tensor:
            total = torch.zeros(())
            for x, y in pair:  # noqa: B023 - called in this turn of the loop
                loss = loss_of(in_half, x, y) / 2
                if loss.requires_grad:
                    loss.backward()
                total += loss.detach()
            return total

        with torch.set_grad_enabled(cls is HybridBFO):
            losses.append(steady_step(colony, closure, expected))
        scheduler.step()

    accelerator = accelerate.Accelerator(cpu=True, mixed_precision=precision)
    found, colony = model_and_colony(cls)
    prepared = accelerator.prepare(found, colony, loader_of(), halving(colony))
    accelerate.utils.set_seed(3)
    assert epoch(prepared[0], colony, *prepared[2:]) == losses
    assert torch.equal(values(found), values(expected))
    assert found[1].num_batches_tracked == 10
    assert losses[-1] < losses[0]
    assert prepared[3].get_last_lr() == scheduler.get_last_lr() == [0.875]


def test_a_run_from_a_saved_state_equals_one_without_a_break(tmp_path: Path) -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    model, colony = model_and_colony()
    model, optimizer, loader, scheduler = accelerator.prepare(model, colony, loader_of(shuffle=True), halving(colony))
    epoch(model, colony, loader, scheduler)
    accelerator.save_state(str(tmp_path))
    expected = [epoch(model, colony, loader, scheduler), values(model), optimizer.optimizer.population]
    expected_lr = scheduler.get_last_lr()

    accelerator = accelerate.Accelerator(cpu=True)
    model, colony = model_and_colony(seed=2)
    model, _, loader, scheduler = accelerator.prepare(model, colony, loader_of(shuffle=True), halving(colony))
    accelerator.load_state(str(tmp_path))
    assert epoch(model, colony, loader, scheduler) == expected[0]
    assert torch.equal(values(model), expected[1])
    assert torch.equal(colony.population, expected[2])
    assert scheduler.get_last_lr() == expected_lr


def test_what_the_prepared_optimizer_makes_of_a_closure() -> None:
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, colony = model_and_colony()
    model, optimizer = accelerator.prepare(model, colony)
    (x, y), *_ = loader_of()
    assert optimizer.step(partial(loss_of, model, x, y)) is None  # steady_step on the colony returns the loss
    assert colony.generation == 1
    called = []
    for index in range(4):
        with accelerator.accumulate(model):
            optimizer.step(lambda: called.append(index) or loss_of(model, x, y))  # noqa: B023
    assert set(called) == {1, 3}  # the others are not trained on
    with pytest.raises(ClosureRequiredError):
        optimizer.step()


def without_norm() -> tuple[nn.Module, BFO]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    return model, HybridBFO(model.parameters(), population_size=6, generator=torch.Generator().manual_seed(1))


def test_two_processes_train_one_colony_on_data_of_their_own(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-W",
        "error",
        str(Path(__file__).with_name("two_processes.py")),
        __file__,
        str(tmp_path),
    ]
    subprocess.run(command, check=True, timeout=120)
    one, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert one == other
    model, colony = without_norm()
    alone = [steady_step(colony, partial(loss_of, model, x, y), model) for x, y in loader_of(128)]
    assert one["losses"] == pytest.approx(alone, rel=1e-5)
    assert one["with_norm"][-1] < one["with_norm"][0]


def be_rank(rank: int, folder: Path) -> None:
    """What each of the two processes does."""
    accelerator = accelerate.Accelerator()
    assert accelerator.num_processes == 2
    model, colony = without_norm()
    model, _, loader = accelerator.prepare(model, colony, loader_of())
    with distribute(colony, data="own"):
        losses = [steady_step(colony, partial(loss_of, model, x, y), model) for x, y in loader]
    held = [parameter.tolist() for parameter in model.parameters()]

    model, colony = model_and_colony(seed=1 + rank)
    model, _, loader, scheduler = accelerator.prepare(model, colony, loader_of(32), halving(colony))
    with distribute(colony, data="own"):
        with_norm = epoch(model, colony, loader, scheduler)
    held += [parameter.tolist() for parameter in model.parameters()]
    (folder / f"{rank}.json").write_text(json.dumps({"losses": losses, "with_norm": with_norm, "held": held}))
    accelerator.end_training()
