"""What the ranks of a small job do in `test_distributed`, and the process that forks them: torch is imported once.

Reads an object of JSON a line, {"program", "size", "seconds", "stuck", ...options}, and forks that many ranks; writes a
list a line, an object for each rank: what the program returned, or that it is gone.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import signal
import socket
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # else each rank would import it, at its first step
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

import pytorch_bfo_optimizer as library
from pytorch_bfo_optimizer import BFO, FunctionObjective, ModelObjective
from pytorch_bfo_optimizer.distributed import distribute
from pytorch_bfo_optimizer.ranks import Ranks

Facts = dict[str, Any]


def classifier(*, norm: bool = False) -> nn.Module:
    torch.random.default_generator.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8) if norm else nn.Tanh(), nn.Linear(8, 3))


def batch(seed: int = 9) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(40, 6, generator=torch.Generator().manual_seed(seed))
    return inputs, inputs[:, :3].argmax(dim=1)


def facts_of(optimizer: BFO, losses: list[float]) -> Facts:
    return {
        "losses": losses,
        "population": optimizer.population.tolist(),
        "parameters": [param.tolist() for param in optimizer.vector.params],
        "best": [param.tolist() for param in optimizer.best_params],
        "evaluations": optimizer.evaluations,
        "random": optimizer.generator.get_state().tolist()[:64],
    }


def train(
    rank: int,
    *,
    cls: str,
    shared: bool = True,
    ddp: bool = False,
    norm: bool = False,
    batched: bool = False,
    steps: int = 6,
    own_data: bool = False,
    data: str = "same",
    as_is: bool = False,
    unlearnable: int = -1,
    collective: bool = False,
    population_size: int | None = 7,
    device: str = "cpu",
    rechunk: int | None = None,
    dtype: str = "float32",
    budget: int | None = None,
    **options: Any,
) -> Facts:
    """Train a small classifier; alone, or with the other ranks."""
    model = classifier(norm=norm).to(device, getattr(torch, dtype))
    called = DistributedDataParallel(model) if ddp else model
    batches = [batch(rank if own_data else 9)] if shared or not own_data else [batch(0), batch(1)]
    batches = [(x.to(device, getattr(torch, dtype)), y.to(device)) for x, y in batches]
    if as_is:
        options["gradient_config"] = None
    optimizer: BFO = getattr(library, cls)(
        model.parameters(),
        population_size=population_size,
        generator=torch.Generator(device).manual_seed(3 + rank),  # rank 0's is everybody's
        **options,
    )
    calls = 0

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        loss = torch.stack([nn.functional.cross_entropy(called(x), y) for x, y in batches]).mean()
        if collective:
            dist.all_reduce(loss.detach().clone())
        if rank == unlearnable:
            return loss.detach()
        if cls == "HybridBFO":
            optimizer.zero_grad()
            loss.backward()
        return loss

    objective = ModelObjective(model, nn.functional.cross_entropy, batches[0]) if batched else closure
    handle = distribute(optimizer, data=data, timeout=10) if shared else contextlib.nullcontext()
    forward = DistributedDataParallel.forward
    if rechunk is not None:
        optimizer.param_groups[0]["chunk_size"] = rechunk
    with handle:
        losses = [optimizer.step(objective) for _ in range(steps)]
        if budget is not None:
            losses.append(optimizer.minimize(objective, max_evaluations=budget).best_loss)
    assert DistributedDataParallel.forward is forward
    assert optimizer._shard is None
    assert "_advance" not in vars(optimizer)
    return {**facts_of(optimizer, losses), "calls": calls}


def swims(rank: int, *, shared: bool = True) -> Facts:
    """How many members each slot had, and how many of them were evaluated here."""
    param = torch.full((3,), 2.0)
    optimizer = BFO([param], population_size=9, swim_length=5, generator=torch.Generator().manual_seed(1))
    slots: list[int] = []

    def closure() -> float:
        slots[-1] += 1
        return float((param**2).sum())

    class Watched:
        """Stands between the optimizer and its evaluator, and begins a new count for each slot."""

        def __init__(self, evaluator: Any) -> None:
            self.evaluator = evaluator

        def __call__(self, position_PD: Tensor, active_P: Tensor) -> Tensor:
            slots.append(0)
            active.append(int(active_P.sum()))
            return self.evaluator(position_PD, active_P)

        @property
        def evaluations(self) -> int:
            return self.evaluator.evaluations

    active: list[int] = []
    handle = distribute(optimizer, timeout=10)
    optimizer._shard = lambda evaluator: Watched(handle(evaluator))
    for _ in range(8):
        optimizer.step(closure)
    return {"slots": slots, "active": active}


class CollectiveCounter(TorchDispatchMode):
    """Bytes of the tensors of each c10d operation that this thread begins."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            inputs = args[1] if "allgather" in func.name() else args[0]
            tensors = inputs if isinstance(inputs, (list, tuple)) else [inputs]
            self.seen.append((func.name(), sum(tensor.numel() * tensor.element_size() for tensor in tensors)))
        return func(*args, **(kwargs or {}))


def counts_bytes(rank: int, *, batched: bool, dimension: int, steps: int = 5) -> Facts:
    param = torch.full((dimension,), 2.0)
    optimizer = BFO([param], population_size=64, swim_length=3)

    def fn(x_PD: Tensor) -> Tensor:
        return (x_PD**2).sum(dim=1)

    with CollectiveCounter() as begun, distribute(optimizer, timeout=10):
        at_start = len(begun.seen)
        for _ in range(steps):
            optimizer.step(FunctionObjective(fn) if batched else lambda: (param**2).sum())
    return {"start": begun.seen[:at_start], "steps": begun.seen[at_start:], "evaluations": optimizer.evaluations}


class QuarrelError(ValueError):
    """A closure's own kind of error."""


def raises(rank: int, *, where: str, error: str = "QuarrelError", who: int = 1, data: str = "same") -> Facts:
    """Step; step with an error on one rank, somewhere; then step again."""
    param = torch.full((4,), 2.0)
    cls = library.HybridBFO if where == "gradient" else BFO
    optimizer = cls([param], population_size=6, swim_length=2, generator=torch.Generator().manual_seed(1))
    handle = distribute(optimizer, data=data, timeout=5)
    calls, angry = 0, False
    kinds: dict[str, type[BaseException]] = {"QuarrelError": QuarrelError, "KeyboardInterrupt": KeyboardInterrupt}

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        if angry and rank == who and calls == {"gradient": 1, "first slot": 2, "second slot": 4}.get(where):
            raise kinds[error](f"no, says rank {rank}")
        return (param**2).sum() / (0 if angry and where == "everywhere" else 1)

    facts: Facts = {"first": optimizer.step(closure)}
    before, calls, angry = (param.tolist(), optimizer.population.tolist(), optimizer.generator.get_state()), 0, True
    started = time.monotonic()
    try:
        optimizer.step(closure)
    except BaseException as caught:  # noqa: BLE001 - that is the question
        facts["error"] = describe(caught)
    facts["seconds"] = time.monotonic() - started
    same_random = torch.equal(before[2], optimizer.generator.get_state())
    facts["unchanged"] = [before[0] == param.tolist(), before[1] == optimizer.population.tolist(), same_random]
    angry = False
    facts["evaluations"] = optimizer.evaluations
    try:
        facts["then"] = optimizer.step(closure)
        facts["population"] = optimizer.population.tolist()
    except Exception as caught:  # noqa: BLE001 - that is the question
        facts["then"] = describe(caught)
    handle.remove()
    facts["alone"] = optimizer.step(closure)
    return facts


def describe(error: BaseException) -> Facts:
    told = {name: getattr(error, name, None) for name in ("rank", "error_type", "error_message", "ranks")}
    return {"type": type(error).__name__, "text": str(error), "cause": type(error.__cause__).__name__, **told}


def goes(rank: int, *, how: str, who: int, timeout: float = 2.0, angry: int = -1) -> Facts:
    """Two steps; in the third, one rank goes in the middle of a slot, and another one may raise."""
    param = torch.full((4,), 2.0)
    optimizer = BFO([param], population_size=6, swim_length=2, generator=torch.Generator().manual_seed(1))
    handle = distribute(optimizer, timeout=timeout)
    calls = 0

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        if rank == who and optimizer.generation == 2 and how != "late":
            leave(how)
        if rank == angry and optimizer.generation == 2:
            raise QuarrelError("no")
        if rank == who and optimizer.generation == 2 and calls % 3 == 0:
            time.sleep(timeout + 1)
        return (param**2).sum()

    for _ in range(2):
        optimizer.step(closure)
    before = param.tolist(), optimizer.population.tolist(), optimizer.generator.get_state()
    facts: Facts = {}
    started = time.monotonic()
    try:
        optimizer.step(closure)
    except Exception as caught:  # noqa: BLE001 - that is the question
        facts["error"] = describe(caught)
    facts["seconds"] = time.monotonic() - started
    same_random = torch.equal(before[2], optimizer.generator.get_state())
    facts["unchanged"] = [before[0] == param.tolist(), before[1] == optimizer.population.tolist(), same_random]
    try:
        optimizer.step(closure)
    except Exception as caught:  # noqa: BLE001 - that is the question
        facts["then"] = describe(caught)
    handle.remove()
    facts["generation"] = optimizer.generation
    if rank != who:
        optimizer.step(lambda: (param**2).sum())
    return facts


def leave(how: str) -> None:
    if how == "exit":
        os._exit(7)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(600)


def disagrees(rank: int, *, what: str) -> Facts:
    """Something is not the same on rank 1."""
    odd = rank == 1
    param = torch.full((4,), 2.5 if odd and what == "parameters" else 2.0)
    optimizer = BFO(
        [param],
        population_size=6,
        swim_length=3 if odd and what == "settings" else 2,
        generator=torch.Generator().manual_seed(1),
    )

    def closure() -> Tensor:
        return (param**2).sum()

    if what in ("age", "colony"):
        for _ in range(2 if odd and what == "age" else 1):
            optimizer.step(closure)
        if odd and what == "colony":
            optimizer.state[param]["health"] += 1.0
        param.fill_(2.0)
    facts: Facts = {}
    try:
        with distribute(optimizer, timeout=5):
            optimizer.step(closure)
            if odd and what == "moved":
                param[0] += 1e-7
            if odd and what == "generator":
                torch.randn(1, generator=optimizer.generator)
            for _ in range(3):
                optimizer.step(closure)
                facts["steps"] = facts.get("steps", 0) + 1
    except Exception as caught:  # noqa: BLE001 - that is the question
        facts["error"] = describe(caught)
    return facts


def resumes(rank: int) -> Facts:
    """Train on, then again from a state of before; a copy of the optimizer is shared with nobody."""
    param = torch.full((4,), 2.0)
    optimizer = BFO([param], population_size=6, chem_steps=2, generator=torch.Generator().manual_seed(1))

    def closure() -> Tensor:
        return (param**2).sum()

    optimizer.step(closure)
    with distribute(optimizer, timeout=10):
        optimizer.step(closure)
        saved, place = optimizer.state_dict(), param.clone()
        losses = [optimizer.step(closure) for _ in range(4)]
        optimizer.load_state_dict(saved)
        param.copy_(place)
        again = [optimizer.step(closure) for _ in range(4)]
        if rank == 0:  # the other would wait for it
            copied = copy.deepcopy(optimizer)
            copied.step(lambda: (copied.vector.params[0] ** 2).sum())
        found = optimizer.minimize(closure, max_evaluations=100)
        try:
            distribute(optimizer)
        except library.BFOError as caught:
            twice = str(caught)
    return {"losses": losses, "again": again, "minimized": [found.best_loss, found.evaluations], "twice": twice}


def comes_alone(rank: int) -> Facts:
    """Rank 1 never calls `distribute`."""
    started = time.monotonic()
    if rank == 0:
        optimizer = BFO([torch.zeros(3)], population_size=4)
        try:
            distribute(optimizer, timeout=1)
        except library.BFOError as caught:
            optimizer.step(lambda: 0.0)
            return {"error": describe(caught), "seconds": time.monotonic() - started}
    return {}


def part_of_a_job(rank: int) -> Facts:
    """Ranks 1 and 2 share a colony, rank 0 has none; twice, one after the other."""
    group = dist.new_group([1, 2])
    param = torch.full((4,), 2.0)
    optimizer = BFO([param], population_size=6, generator=torch.Generator().manual_seed(1 + rank))
    found = []
    if rank == 0:
        try:
            distribute(optimizer, group)
        except library.BFOError as caught:
            return {"error": describe(caught)}
    for _ in range(2):
        with distribute(optimizer, group, timeout=5) as handle:
            found.append([handle.rank, handle.world_size, optimizer.step(lambda: (param**2).sum())])
    return {"found": found, "population": optimizer.population.tolist()}


def means(rank: int) -> Facts:
    """The mean of what each rank brings."""
    values = torch.tensor([1.0, 10.0]) * (rank + 1)
    ranks = Ranks(None, timeout=10)
    ranks.mean_(values)
    ranks.close()
    return {"mean": values.tolist()}


def hooked(rank: int) -> Facts:
    """On rank 0 a hook fails after the third of five steps."""
    param = torch.full((4,), 2.0)
    optimizer = BFO([param], population_size=6, generator=torch.Generator().manual_seed(1))

    def sink(record: library.StepRecord) -> None:
        if rank == 0 and record.generation == 3:
            raise OSError("no space left")

    optimizer.on_step.append(sink)
    facts: Facts = {"losses": [], "error": None}
    started = time.monotonic()
    with distribute(optimizer, timeout=10):
        for _ in range(5):
            try:
                optimizer.step(lambda: (param**2).sum())
            except OSError as caught:
                facts["error"] = type(caught).__name__
            facts["losses"].append(optimizer.best_fitness)
    return {**facts, "seconds": time.monotonic() - started}


def sharded(rank: int, *, how: str) -> Facts:
    """What an optimizer says to the parameters of FSDP."""
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    model = classifier()
    if how == "fsdp2":
        fully_shard(model)
    else:
        cpu = torch.device("cpu")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is for accelerators
            model = FullyShardedDataParallel(model, use_orig_params=how == "fsdp1-orig", device_id=cpu)
    try:
        BFO(model.parameters())
    except library.BFOError as caught:
        return describe(caught)
    return {}


_ALL = (
    *(train, swims, counts_bytes, raises, goes, disagrees),
    *(resumes, comes_alone, part_of_a_job, means, hooked, sharded),
)
PROGRAMS: dict[str, Callable[..., Facts]] = {program.__name__: program for program in _ALL}


def run_rank(rank: int, size: int, stuck: list[int], into: Path, program: str, options: Facts) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size))
    try:
        dist.init_process_group(options.pop("backend", "gloo"))
        facts = PROGRAMS[program](rank, **options)
    except BaseException:  # noqa: BLE001 - for the test that asked
        facts = {"failed": traceback.format_exc()}
    written = into / f"writing-{rank}"
    written.write_text(json.dumps(facts), "utf-8")
    written.rename(into / f"rank-{rank}")
    if rank == 0:  # it has the store of the job, which the others may still ask
        end = time.monotonic() + 5
        while time.monotonic() < end and len(list(into.glob("rank-*"))) < size - len(stuck):
            time.sleep(0.02)
    os._exit(0)


def run_job(program: str, size: int, seconds: float, stuck: list[int], **options: Any) -> list[Facts]:
    """Run it on forked ranks, which have so many seconds; the `stuck` ones end when all others have."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free.getsockname()[1]))
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        pids = {}
        for rank in range(size):
            pid = os.fork()
            if pid == 0:
                run_rank(rank, size, stuck, Path(folder), program, options)
            pids[rank] = pid
        wait_or_kill(set(pids.values()), {pids[rank] for rank in stuck}, end=started + seconds)
        return [
            json.loads(file.read_text("utf-8")) if file.exists() else {"gone": True}
            for file in (Path(folder, f"rank-{rank}") for rank in range(size))
        ]


def wait_or_kill(pids: set[int], stuck: set[int], *, end: float) -> None:
    while pids - stuck and time.monotonic() < end:
        pids = {pid for pid in pids if not os.waitpid(pid, os.WNOHANG)[0]}
        time.sleep(0.01)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(run_job(**json.loads(line))), flush=True)
