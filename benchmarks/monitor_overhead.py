"""What looking on costs, as a share of a step: each sink of `on_step`, and the record alone, beside no hook at all.

    python benchmarks/monitor_overhead.py [--rounds 100] [--block 0.05] [--only hybrid]

Digits, a 64-32-10 network, one thread, CPU time of this process with all its threads (the process in which W&B writes
is not in it). In each round every way of looking on trains for a block of steps, in an order that is shuffled anew, and
so do two without any hook: the step, and the A/A control. All blocks of a setting begin at one state, so that all make
the very same steps. Three figures each: the median of all steps against that of all steps without a hook; whole blocks
against the block without a hook in the same round, median and quartiles; and, in blocks of their own, the calls of the
hooks alone, on average, as a share of the median step; what an empty hook takes so is the clock's own, and is taken
off. The first has the making of the record in it, but no work that is done at few steps (a board's); the second has
everything, as far as the control lets it be seen; the third resolves a thousandth of a step.

Sinks have their defaults. What they leave out for the sake of time they leave out here: their clock stands still while
others are measured.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib.util
import itertools
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bfo_diag.cases.digits_mlp import digits
from pytorch_bfo_optimizer import BFO, AdaptiveBFO, HybridBFO, ModelObjective, StepRecord
from pytorch_bfo_optimizer.adapters.tensorboard import TensorBoardStepSink
from pytorch_bfo_optimizer.adapters.wandb import WandbStepSink
from pytorch_bfo_optimizer.monitors import JSONLinesSink, MetricsTracker, StepSink

NONE, CONTROL, EMPTY = "none", "none again (A/A)", "an empty hook: the record"
Hook = Callable[[StepRecord], object]


@dataclass
class Setting:
    """An optimizer on the way, its step, and the state at which every block begins."""

    name: str
    optimizer: Any
    step: Callable[[], object]

    def __post_init__(self) -> None:
        """Take the first steps."""
        for _ in range(3):
            self.step()
        self.state = copy.deepcopy(self.optimizer.state_dict())
        self.places = [param.detach().clone() for param in self.optimizer.vector.params]

    def block(self, hooks: list[Hook], steps: int) -> list[float]:
        """CPU seconds of each step, of so many from the one state on."""
        for param, place in zip(self.optimizer.vector.params, self.places, strict=True):
            param.data.copy_(place)
        self.optimizer.load_state_dict(self.state)
        self.optimizer.on_step[:] = hooks
        self.step()  # what is made anew after loading is no part of a step
        ends = [time.process_time()]
        for _ in range(steps):
            self.step()
            ends.append(time.process_time())
        return [end - start for start, end in itertools.pairwise(ends)]


class Timed:
    """A hook, and the CPU seconds spent in it."""

    def __init__(self, hook: Hook) -> None:
        self.hook, self.spent = hook, 0.0

    def __call__(self, record: StepRecord) -> None:
        """Call it."""
        began = time.process_time()
        self.hook(record)
        self.spent += time.process_time() - began


def settings() -> Iterator[Setting]:
    """Runs of `HybridBFO`, which are the lightest steps there are, and generations of the others."""
    images, labels = digits()

    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))

    for members, batch in ((32, 256), (64, 256), (32, 1797)):
        model = network()
        hybrid = HybridBFO(model.parameters(), population_size=members)

        def closure(model: nn.Module = model, hybrid: HybridBFO = hybrid, batch: int = batch) -> torch.Tensor:
            hybrid.zero_grad()
            loss = nn.functional.cross_entropy(model(images[:batch]), labels[:batch])
            loss.backward()
            return loss

        yield Setting(f"hybrid, P={members}, batch {batch}", hybrid, lambda o=hybrid, c=closure: o.step(c))
    for kind, members, batch in ((AdaptiveBFO, 32, 256), (AdaptiveBFO, 64, 256), (BFO, 32, 256)):
        model = network()
        optimizer = kind(model.parameters(), population_size=members)
        objective = ModelObjective(model, nn.functional.cross_entropy, (images[:batch], labels[:batch]))
        name = f"{kind.__name__.removesuffix('BFO').lower() or 'bfo'}, P={members}, batch {batch}"
        yield Setting(name, optimizer, lambda o=optimizer, c=objective: o.step(c))


@contextlib.contextmanager
def ways_of_looking() -> Iterator[dict[str, list[Hook]]]:
    """Every sink that can be had here, by what it is called."""
    with contextlib.ExitStack() as open_ones:
        folder = Path(open_ones.enter_context(tempfile.TemporaryDirectory()))
        ways: dict[str, list[Hook]] = {
            NONE: [],
            CONTROL: [],
            EMPTY: [lambda record: None],
            "tracker": [MetricsTracker()],
            "jsonl": [open_ones.enter_context(JSONLinesSink(folder / "steps.jsonl"))],
        }
        if importlib.util.find_spec("tensorboard") is not None:
            ways["tensorboard"] = [open_ones.enter_context(TensorBoardStepSink(folder / "events"))]
        if importlib.util.find_spec("wandb") is not None:
            ways["wandb offline"] = [open_ones.enter_context(WandbStepSink(open_ones.enter_context(_run(folder))))]
        ways["tracker, jsonl, tensorboard"] = [
            MetricsTracker(),
            open_ones.enter_context(JSONLinesSink(folder / "more.jsonl")),
            *([open_ones.enter_context(TensorBoardStepSink(folder / "more"))] if "tensorboard" in ways else []),
        ]
        yield ways


def _run(folder: Path) -> Any:
    import wandb

    os.environ.update(WANDB_SILENT="true")
    quiet = wandb.Settings(x_disable_stats=True, console="off", x_disable_machine_info=True)
    return wandb.init(project="overhead", mode="offline", dir=folder, settings=quiet)


def quartiles(values: list[float]) -> str:
    """Median and quartiles as text."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:7.2f} ({low:6.2f} to {high:6.2f})"


def measure(setting: Setting, ways: dict[str, list[Hook]], *, rounds: int, block: float) -> None:
    """Train in all ways, round by round, and print what each costs."""
    steps = max(2, round(block / statistics.fmean(setting.block([], 3))))
    rested = {way: time.perf_counter() for way in ways}
    blocks: dict[str, list[float]] = {way: [] for way in ways}
    every: dict[str, list[float]] = {way: [] for way in ways}
    calls: dict[str, list[float]] = {way: [] for way in ways}
    order, shuffled = list(ways), random.Random(0)
    for number in range(rounds):
        shuffled.shuffle(order)
        for way in order:
            for hook in ways[way]:
                if isinstance(hook, StepSink):
                    hook._rest_until += time.perf_counter() - rested[way]
            took = setting.block(ways[way], steps)
            blocks[way].append(statistics.fmean(took))
            every[way] += took
            if number % 2 == 0:
                timed = [Timed(hook) for hook in ways[way]]
                setting.block(timed, steps)
                calls[way].append(sum(hook.spent for hook in timed) / (steps + 1))
            rested[way] = time.perf_counter()
    base = blocks[NONE]
    usual = statistics.median(base)
    empty = statistics.fmean(calls[EMPTY])
    print(f"\n{setting.name}: a step takes {quartiles([value * 1e3 for value in base])} ms; blocks of {steps}")
    for way, seconds in blocks.items():
        if way != NONE:
            longer = [100 * (with_it / without - 1) for with_it, without in zip(seconds, base, strict=True)]
            call = max(statistics.fmean(calls[way]) - len(ways[way]) * empty, 0.0)
            step = 100 * (statistics.median(every[way]) / statistics.median(every[NONE]) - 1)
            told = f"blocks {quartiles(longer)} %; calls {1e6 * call:6.1f} us = {call / usual:.2%}"
            print(f"  {way:28} the median step is {step:5.2f} % longer; {told}")


def main() -> None:
    """Measure all settings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--block", type=float, default=0.05, help="CPU seconds")
    parser.add_argument("--only", default="", help="settings whose names begin like this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with ways_of_looking() as ways:
        for setting in settings():
            if setting.name.startswith(options.only):
                measure(setting, ways, rounds=options.rounds, block=options.block)


if __name__ == "__main__":
    main()
