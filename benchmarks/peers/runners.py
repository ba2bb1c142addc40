"""Each optimizer behind one protocol: `RUNNERS[name].run(recorder, seed)` until it ends or the recorder stops it.

Imports stand inside the functions: an optimizer needs its own package alone.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from peers.recorder import SOLVED, Recorder
from peers.shade_mutation import current_to_pbest

SIGMA_SHARE = 0.3
"""The first standard deviation of CMA-ES, as a share of the width of the box."""


@dataclass(frozen=True)
class Runner:
    """An optimizer: its name in the tables, the distribution it comes from, and how it is run."""

    name: str
    distribution: str
    """Whose version stands beside its results; of ours the module, for they are known by their source."""
    run: Callable[[Recorder, int], None]
    settings: str
    """What the table says about its settings."""
    plans_its_budget: bool = False
    """It is told the budget and behaves by it, so that each budget is a run of its own."""
    not_in: tuple[int, ...] = ()
    """Dimensions in which it is not run."""

    def runs_in(self, dim: int) -> bool:
        """Whether it is run in this dimension."""
        return dim not in self.not_in


def niapy(recorder: Recorder, seed: int, name: str, **settings: Any) -> None:
    """An algorithm of NiaPy; it says nothing, and ends with `Stop`."""
    from niapy.algorithms.basic import BacterialForagingOptimization
    from niapy.algorithms.modified import shade
    from niapy.algorithms.modified.shade import LpsrSuccessHistoryAdaptiveDifferentialEvolution
    from niapy.problems import Problem
    from niapy.task import Task

    class Wrapped(Problem):  # type: ignore[misc]
        def _evaluate(self, x: Any) -> float:
            return recorder.single(x)

    shade.cross_curr2pbest1 = current_to_pbest
    known = {"L-SHADE": LpsrSuccessHistoryAdaptiveDifferentialEvolution, "BFO": BacterialForagingOptimization}
    problem = recorder.problem
    task = Task(problem=Wrapped(problem.dim, problem.low, problem.high), max_evals=recorder.budget)
    known[name](seed=seed, **settings).run(task)


def lshade(recorder: Recorder, seed: int) -> None:
    niapy(recorder, seed, "L-SHADE")


def lshade_paper(recorder: Recorder, seed: int) -> None:
    niapy(recorder, seed, "L-SHADE", population_size=18 * recorder.problem.dim)


def niapy_bfo(recorder: Recorder, seed: int) -> None:
    niapy(recorder, seed, "BFO")


def mealpy(recorder: Recorder, seed: int, name: str) -> None:
    """A bacterial foraging algorithm of mealpy, with room for any budget."""
    from mealpy import BFO, FloatVar

    logging.getLogger("mealpy").setLevel(logging.ERROR)
    problem = recorder.problem
    box = FloatVar(lb=(problem.low,) * problem.dim, ub=(problem.high,) * problem.dim)
    task = {"obj_func": recorder.single, "bounds": box, "minmax": "min", "log_to": None}
    getattr(BFO, name)(epoch=100_000).solve(task, seed=seed)


def mealpy_bfo(recorder: Recorder, seed: int) -> None:
    mealpy(recorder, seed, "OriginalBFO")


def mealpy_abfo(recorder: Recorder, seed: int) -> None:
    mealpy(recorder, seed, "ABFO")


def scipy_de(recorder: Recorder, seed: int) -> None:
    from scipy.optimize import differential_evolution

    box = [recorder.problem.bounds] * recorder.problem.dim
    differential_evolution(recorder.single, box, rng=np.random.default_rng(seed))


def pycma(recorder: Recorder, seed: int) -> None:
    import cma

    problem = recorder.problem
    random = np.random.default_rng(seed)
    options = {
        "bounds": [problem.low, problem.high],
        "seed": seed + 1,  # 0 would be the time of day
        "verbose": -9,
        "verb_log": 0,
        "verb_filenameprefix": "",
    }
    cma.fmin2(
        recorder.single,
        lambda: random.uniform(problem.low, problem.high, problem.dim),
        SIGMA_SHARE * (problem.high - problem.low),
        options,
        restarts=9,
    )


def evotorch_cmaes(recorder: Recorder, seed: int) -> None:
    """It knows no bounds: they say where it begins."""
    import torch
    from evotorch import Problem
    from evotorch.algorithms import CMAES
    from evotorch.algorithms.restarter import IPOP

    logging.getLogger("evotorch").setLevel(logging.ERROR)
    problem = recorder.problem
    task = Problem(
        "min",
        recorder.torch,
        solution_length=problem.dim,
        initial_bounds=problem.bounds,
        dtype=torch.float64,
        vectorized=True,
        seed=seed,
    )
    searcher = IPOP(task, CMAES, {"stdev_init": SIGMA_SHARE * (problem.high - problem.low)})
    while True:
        searcher.step()


def ours(recorder: Recorder, seed: int, name: str) -> None:
    """One of this library's optimizers with its defaults, float64, told the budget through `minimize` alone."""
    import torch

    import pytorch_bfo_optimizer

    problem = recorder.problem
    generator = torch.Generator().manual_seed(seed)
    start_D = torch.rand(problem.dim, dtype=torch.float64, generator=generator)
    params = [torch.nn.Parameter(problem.low + (problem.high - problem.low) * start_D)]
    optimizer = getattr(pytorch_bfo_optimizer, name)(params, bounds=problem.bounds, generator=generator)
    objective = pytorch_bfo_optimizer.FunctionObjective(recorder.torch)
    optimizer.minimize(objective, max_evaluations=recorder.budget, target=SOLVED)


def adaptive_bfo(recorder: Recorder, seed: int) -> None:
    ours(recorder, seed, "AdaptiveBFO")


def bfo(recorder: Recorder, seed: int) -> None:
    ours(recorder, seed, "BFO")


OURS = "AdaptiveBFO"
OURS_SOURCE = "pytorch_bfo_optimizer.adaptive"
RUNNERS: dict[str, Runner] = {
    runner.name: runner
    for runner in (
        Runner(OURS, OURS_SOURCE, adaptive_bfo, "defaults", plans_its_budget=True),
        Runner("BFO", "pytorch_bfo_optimizer.bfo", bfo, "defaults", plans_its_budget=True),
        Runner("NiaPy L-SHADE", "niapy", lshade, "defaults (population 540)", plans_its_budget=True),
        Runner(
            "NiaPy L-SHADE 18D",
            "niapy",
            lshade_paper,
            "population 18 D, as its paper sets it (at D = 30 that is the default)",
            plans_its_budget=True,
            not_in=(30,),
        ),
        Runner("pycma", "cma", pycma, "fmin2, restarts=9 (IPOP), first deviation 0.3 of the box, bounds"),
        Runner("SciPy DE", "scipy", scipy_de, "defaults; its polish counts"),
        Runner("NiaPy BFO", "niapy", niapy_bfo, "defaults"),
        Runner(
            "EvoTorch CMAES", "evotorch", evotorch_cmaes, "IPOP restarts, first deviation 0.3 of the box, no bounds"
        ),
        Runner("mealpy BFO", "mealpy", mealpy_bfo, "OriginalBFO, defaults"),
        Runner("mealpy ABFO", "mealpy", mealpy_abfo, "defaults"),
    )
}
BFO_PEERS = ("NiaPy BFO", "mealpy BFO", "mealpy ABFO")


def silence() -> None:
    """Peers warn about overflow on their way; what they reach is what counts."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    np.seterr(all="ignore")
