"""Runs the optimizers on the test functions, seed after seed, and appends what each run reached.

    run.py quality [--held-out] [--seeds 0-10] [--optimizers A,B] [--functions ...] [--variants ...] [--dims 2,10,30]
                   [--budgets 10000,50000] [--jobs 1]

What is in the results already is not run again.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import itertools
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from peers import results
from peers.functions import MAIN, VARIANTS, Function, Problem
from peers.held_out import HELD_OUT
from peers.recorder import Recorder, Stop
from peers.runners import RUNNERS, silence

SUITES: dict[str, dict[str, Function]] = {"main": MAIN, "held-out": HELD_OUT}
DIMS = (2, 10, 30)
BUDGETS = (10_000, 50_000)
SEEDS = tuple(range(11))


@dataclass(frozen=True)
class Task:
    """One run to make."""

    suite: str
    optimizer: str
    version: str
    function: str
    variant: str
    dim: int
    seed: int
    checkpoints: tuple[int, ...]


def perform(task: Task) -> results.Run:
    """Make the run, in this process."""
    import torch

    torch.set_num_threads(1)
    silence()
    problem = Problem(SUITES[task.suite][task.function], task.dim, task.variant)  # type: ignore[arg-type]
    recorder = Recorder(problem, task.checkpoints)
    began = time.process_time()
    with contextlib.suppress(Stop):
        RUNNERS[task.optimizer].run(recorder, task.seed)
    return results.Run(
        optimizer=task.optimizer,
        version=task.version,
        function=task.function,
        variant=task.variant,
        dim=task.dim,
        seed=task.seed,
        budget=recorder.budget,
        gaps={str(checkpoint): gap for checkpoint, gap in recorder.gaps().items()},
        evaluations=recorder.evaluations,
        solved_at=recorder.solved_at,
        cpu_s=round(time.process_time() - began, 3),
    )


def missing(wanted: argparse.Namespace) -> Iterator[Task]:
    """The runs to make, seeds outermost: a stop at any time leaves whole seeds."""
    suite = "held-out" if wanted.held_out else "main"
    versions = {name: results.version(RUNNERS[name]) for name in wanted.optimizers}
    have: dict[str, dict[tuple[str, str, str, int, int], set[int]]] = {}
    for name in wanted.optimizers:
        have[name] = {}
        for run in results.read(suite, name):
            have[name].setdefault(run.key(), set()).update(map(int, run.gaps))
    functions = wanted.functions or list(SUITES[suite])
    cells = list(itertools.product(functions, wanted.variants, wanted.dims))
    for seed, name in itertools.product(wanted.seeds, wanted.optimizers):
        for function, variant, dim in cells:
            done = have[name].get((versions[name], function, variant, dim, seed), set())
            left = sorted(set(wanted.budgets) - done)
            if not left or not RUNNERS[name].runs_in(dim):
                continue
            groups = [(budget,) for budget in left] if RUNNERS[name].plans_its_budget else [tuple(left)]
            for checkpoints in groups:
                yield Task(suite, name, versions[name], function, variant, dim, seed, checkpoints)


def numbers(text: str) -> list[int]:
    """Read "0-10" or "2,10,30"."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found.extend(range(int(first), int(last or first) + 1))
    return found


def chosen(known: list[str], what: str) -> Callable[[str], list[str]]:
    """A reader of comma-separated names, all of them known."""

    def read(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"no {what} {name!r}: there are {', '.join(known)}")
        return names

    return read


def options(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="run.py quality", description=__doc__)
    functions = [*MAIN, *HELD_OUT]
    parser.add_argument("--held-out", action="store_true", help="the ten functions that nothing was tuned on")
    parser.add_argument("--seeds", type=numbers, default=list(SEEDS))
    parser.add_argument("--optimizers", type=chosen(list(RUNNERS), "optimizer"), default=list(RUNNERS))
    parser.add_argument("--functions", type=chosen(functions, "function"), default=None)
    parser.add_argument("--variants", type=chosen(list(VARIANTS), "variant"), default=list(VARIANTS))
    parser.add_argument("--dims", type=numbers, default=list(DIMS))
    parser.add_argument("--budgets", type=numbers, default=list(BUDGETS))
    parser.add_argument("--jobs", type=int, default=1)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Make the runs that are missing; each is written as soon as it is done."""
    wanted = options(arguments)
    tasks = list(missing(wanted))
    began = time.monotonic()
    with (
        concurrent.futures.ProcessPoolExecutor(wanted.jobs, mp_context=multiprocessing.get_context("spawn"))
        if wanted.jobs > 1
        else _Here() as pool
    ):
        for done, run in enumerate(pool.map(perform, tasks), start=1):
            results.append(tasks[done - 1].suite, run)
            if done % 50 == 0 or done == len(tasks):
                print(f"{done} of {len(tasks)} runs, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


class _Here:
    """In this process, one after the other."""

    map = staticmethod(map)

    def __enter__(self) -> _Here:
        return self

    def __exit__(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    main(sys.argv[1:])
