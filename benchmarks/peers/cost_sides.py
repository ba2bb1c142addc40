"""The optimizers whose own cost is measured, on the sphere function or on any batched objective.

`BATCHED` are stepped generation by generation; `ONE_BY_ONE` call the function vector by vector, in loops of theirs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from peers.runners import OURS, OURS_SOURCE

POPULATION = 64
BLOCK = 100 * POPULATION
"""Evaluations in a block, rounded up to whole generations."""
START, BOX = 3.0, 5.0


class BlockDone(Exception):  # noqa: N818 - it is no error
    """The block's evaluations are made; raised through an optimizer that owns its loop."""


class Meter:
    """An objective that adds up its own CPU time and counts; the optimizer's time is the rest of the block's."""

    def __init__(self, value: Callable[[Any], Any], limit: float = float("inf")) -> None:
        self.value, self.limit = value, limit
        self.evaluations, self.seconds = 0, 0.0

    def batch(self, pop_PD: Tensor) -> Tensor:
        """Values (P,) of a population."""
        began = time.process_time()
        with torch.no_grad():
            values_P: Tensor = self.value(pop_PD)
        self.seconds += time.process_time() - began
        self.evaluations += len(pop_PD)
        return values_P

    def single(self, x: Any) -> float:
        """The value of one vector."""
        if self.evaluations >= self.limit:
            raise BlockDone
        began = time.process_time()
        value = float(self.value(x))
        self.seconds += time.process_time() - began
        self.evaluations += 1
        return value


def sphere(pop_PD: Tensor) -> Tensor:
    values_P: Tensor = (pop_PD * pop_PD).sum(1)
    return values_P


def numpy_sphere(x: Any) -> float:
    return float(x @ x)


Prepare = Callable[[Meter, int, int], Callable[[], None]]
"""(meter, dimension, seed) -> what makes a generation, or some."""


def _adaptive(dim: int, seed: int) -> Any:
    from pytorch_bfo_optimizer import AdaptiveBFO

    params = [torch.nn.Parameter(torch.full((dim,), START))]
    generator = torch.Generator().manual_seed(seed)
    return AdaptiveBFO(params, population_size=POPULATION, bounds=(-BOX, BOX), generator=generator)


def adaptive(meter: Meter, dim: int, seed: int) -> Callable[[], None]:
    """By `minimize`, ten generations a call."""
    from pytorch_bfo_optimizer import FunctionObjective

    optimizer, objective = _adaptive(dim, seed), FunctionObjective(meter.batch)

    def generations() -> None:
        optimizer.minimize(objective, max_evaluations=10 * POPULATION)

    return generations


def adaptive_by_step(meter: Meter, dim: int, seed: int) -> Callable[[], None]:
    from pytorch_bfo_optimizer import FunctionObjective

    optimizer, objective = _adaptive(dim, seed), FunctionObjective(meter.batch)

    def generation() -> None:
        optimizer.step(objective)

    return generation


def openes(meter: Meter, dim: int, seed: int) -> Callable[[], None]:
    """Without EvoX's workflow, which would only add to it."""
    from evox.algorithms import OpenES

    torch.manual_seed(seed)
    searcher = OpenES(POPULATION, torch.full((dim,), START), 0.01, 0.1, optimizer="adam")
    searcher.evaluate = meter.batch
    generation: Callable[[], None] = searcher.step
    return generation


def pso(meter: Meter, dim: int, seed: int) -> Callable[[], None]:
    from evox.algorithms import PSO

    torch.manual_seed(seed)
    high_D = torch.full((dim,), BOX)
    searcher = PSO(POPULATION, -high_D, high_D)
    searcher.evaluate = meter.batch
    searcher.init_step()
    generation: Callable[[], None] = searcher.step
    return generation


def bare(meter: Meter, dim: int, seed: int) -> Callable[[], None]:
    pop_PD = torch.rand(POPULATION, dim, generator=torch.Generator().manual_seed(seed))

    def generation() -> None:
        meter.batch(pop_PD)

    return generation


def scipy_de(meter: Meter, dim: int, seed: int) -> None:
    from scipy.optimize import differential_evolution

    random = np.random.default_rng(seed)
    first = random.uniform(-BOX, BOX, (POPULATION, dim))
    differential_evolution(meter.single, [(-BOX, BOX)] * dim, init=first, rng=random, polish=False, tol=0.0)


def niapy_bfo(meter: Meter, dim: int, seed: int) -> None:
    from niapy.algorithms.basic import BacterialForagingOptimization
    from niapy.problems import Problem
    from niapy.task import Task

    class Wrapped(Problem):  # type: ignore[misc]
        def _evaluate(self, x: Any) -> float:
            return meter.single(x)

    task = Task(problem=Wrapped(dim, -BOX, BOX), max_evals=2 * BLOCK)
    BacterialForagingOptimization(population_size=POPULATION, seed=seed).run(task)


def mealpy_bfo(meter: Meter, dim: int, seed: int) -> None:
    from mealpy import BFO, FloatVar

    logging.getLogger("mealpy").setLevel(logging.ERROR)
    box = FloatVar(lb=(-BOX,) * dim, ub=(BOX,) * dim)
    task = {"obj_func": meter.single, "bounds": box, "minmax": "min", "log_to": None}
    BFO.OriginalBFO(epoch=100_000, pop_size=POPULATION).solve(task, seed=seed)


@dataclass(frozen=True)
class Batched:
    """An optimizer that evaluates a population at once, and the distribution (ours: module) that it comes from."""

    distribution: str
    prepare: Prepare


@dataclass(frozen=True)
class OneByOne:
    """An optimizer that calls the function vector by vector, until `BlockDone`."""

    distribution: str
    run: Callable[[Meter, int, int], None]


BATCHED = {
    OURS: Batched(OURS_SOURCE, adaptive),
    f"{OURS}, step by step": Batched(OURS_SOURCE, adaptive_by_step),
    "EvoX OpenES": Batched("evox", openes),
    "EvoX PSO": Batched("evox", pso),
}
ONE_BY_ONE = {
    "SciPy DE": OneByOne("scipy", scipy_de),
    "NiaPy BFO": OneByOne("niapy", niapy_bfo),
    "mealpy BFO": OneByOne("mealpy", mealpy_bfo),
}
