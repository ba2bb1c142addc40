"""The digits MLP trained without gradients: 19,200 evaluations, population 64; the loss at the end.

    run.py digits [--seeds 0-4] [--optimizers A,B]

Of the evolution strategies' settings three are tried for each, and the report takes the best.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from peers import results
from peers.digits_loss import BUDGET, DIMENSION, POPULATION, BestLoss, model, start
from peers.quality import chosen, numbers
from peers.runners import OURS_SOURCE, silence

FILE = results.FOLDER / "digits.jsonl"
BOX = 1.0
"""Where an optimizer needs bounds: +-1 (the initial weights are within +-0.18)."""


@dataclass(frozen=True)
class DigitsRun:
    """One training."""

    optimizer: str
    version: str
    setting: str
    seed: int
    loss: float
    evaluations: int
    cpu_s: float


def openes(loss: BestLoss, seed: int, *, lr: float, stdev: float) -> None:
    from evox.algorithms import OpenES

    searcher = OpenES(POPULATION, start(seed), lr, stdev, optimizer="adam")
    _evox(searcher, loss)
    loss.look_at(searcher.center)


def pso(loss: BestLoss, seed: int, *, box: float) -> None:
    from evox.algorithms import PSO

    high_D = torch.full((DIMENSION,), box)
    _evox(PSO(POPULATION, -high_D, high_D), loss)


def _evox(searcher: Any, loss: BestLoss) -> None:
    """What EvoX's StdWorkflow does, without the workflow: it binds `evaluate` and steps."""
    searcher.evaluate = loss
    searcher.init_step()
    while not loss.spent:
        searcher.step()


def _evotorch_problem(loss: BestLoss, seed: int) -> Any:
    from evotorch import Problem

    logging.getLogger("evotorch").setLevel(logging.ERROR)
    return Problem("min", loss, solution_length=DIMENSION, initial_bounds=(-BOX, BOX), vectorized=True, seed=seed)


def snes(loss: BestLoss, seed: int, *, stdev: float) -> None:
    from evotorch.algorithms import SNES

    searcher = SNES(_evotorch_problem(loss, seed), stdev_init=stdev, popsize=POPULATION, center_init=start(seed))
    while not loss.spent:
        searcher.step()
    loss.look_at(searcher.status["center"])


def pgpe(loss: BestLoss, seed: int, *, lr: float, stdev: float) -> None:
    """ClipUp, its speed at most twice the centre's learning rate; centred ranks; deviations learn at 0.1."""
    from evotorch.algorithms import PGPE

    searcher = PGPE(
        _evotorch_problem(loss, seed),
        popsize=POPULATION,
        center_learning_rate=lr,
        stdev_learning_rate=0.1,
        stdev_init=stdev,
        center_init=start(seed),
    )
    while not loss.spent:
        searcher.step()
    loss.look_at(searcher.status["center"])


def mealpy_bfo(loss: BestLoss, seed: int) -> None:
    from mealpy import BFO, FloatVar

    def single(x: Any) -> float:
        if loss.spent:
            raise StopIteration
        return float(loss(torch.as_tensor(x, dtype=torch.float32).reshape(1, -1)))

    box = FloatVar(lb=(-BOX,) * DIMENSION, ub=(BOX,) * DIMENSION)
    task = {"obj_func": single, "bounds": box, "minmax": "min", "log_to": None}
    with contextlib.suppress(StopIteration):
        BFO.OriginalBFO(epoch=100_000, pop_size=POPULATION).solve(task, seed=seed)


def ours(loss: BestLoss, seed: int, *, population_size: int | None) -> None:
    from pytorch_bfo_optimizer import AdaptiveBFO, FunctionObjective

    sized = {} if population_size is None else {"population_size": population_size}
    generator = torch.Generator().manual_seed(seed)
    optimizer = AdaptiveBFO(list(model(seed).parameters()), generator=generator, **sized)
    optimizer.minimize(FunctionObjective(loss), max_evaluations=BUDGET)


@dataclass(frozen=True)
class Trainer:
    """An optimizer with the settings to try on it."""

    distribution: str
    train: Callable[..., None]
    settings: tuple[dict[str, Any], ...]
    seeds: int | None = None
    """At most so many seeds, where one run takes minutes."""


TRAINERS: dict[str, Trainer] = {
    "AdaptiveBFO": Trainer(OURS_SOURCE, ours, ({"population_size": POPULATION}, {"population_size": None})),
    "EvoX OpenES": Trainer(
        "evox", openes, ({"lr": 0.02, "stdev": 0.02}, {"lr": 0.05, "stdev": 0.05}, {"lr": 0.1, "stdev": 0.1})
    ),
    "EvoX PSO": Trainer("evox", pso, ({"box": 0.2}, {"box": 0.5}, {"box": 1.0})),
    "EvoTorch SNES": Trainer("evotorch", snes, ({"stdev": 0.05}, {"stdev": 0.1}, {"stdev": 0.2})),
    "EvoTorch PGPE": Trainer(
        "evotorch", pgpe, ({"lr": 0.1, "stdev": 0.05}, {"lr": 0.2, "stdev": 0.1}, {"lr": 0.4, "stdev": 0.1})
    ),
    "mealpy BFO": Trainer("mealpy", mealpy_bfo, ({},), seeds=1),
}


def read() -> list[DigitsRun]:
    """The trainings that were made."""
    return [DigitsRun(**values) for values in results.read_lines(FILE)]


def version_of(name: str) -> str:
    """The version that results of this optimizer are filed under."""
    return results.version_of(TRAINERS[name].distribution)


def main(arguments: list[str]) -> None:
    """Make the trainings that are missing."""
    parser = argparse.ArgumentParser(prog="run.py digits", description=__doc__)
    parser.add_argument("--seeds", type=numbers, default=list(range(5)))
    parser.add_argument("--optimizers", type=chosen(list(TRAINERS), "optimizer"), default=list(TRAINERS))
    wanted = parser.parse_args(arguments)
    torch.set_num_threads(1)
    silence()
    done = {(run.optimizer, run.version, run.setting, run.seed) for run in read()}
    for name in wanted.optimizers:
        trainer, version = TRAINERS[name], version_of(name)
        for seed in wanted.seeds[: trainer.seeds]:
            for setting in trainer.settings:
                words = ", ".join(f"{key}={value}" for key, value in setting.items())
                if (name, version, words, seed) in done:
                    continue
                torch.manual_seed(seed)
                loss, began = BestLoss(), time.process_time()
                trainer.train(loss, seed, **setting)
                spent = round(time.process_time() - began, 2)
                run = DigitsRun(name, version, words, seed, loss.best, min(loss.evaluations, BUDGET), spent)
                print(f"{name} ({words}) seed {seed}: {loss.best:.4f}, {spent:.0f} s", file=sys.stderr, flush=True)
                results.append_line(FILE, asdict(run))


if __name__ == "__main__":
    main(sys.argv[1:])
