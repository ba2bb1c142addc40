"""What a step of each optimizer costs: for comparisons with earlier versions of ours, by pytest-benchmark.

    python -m pytest benchmarks/suite --benchmark-autosave
    python -m pytest benchmarks/suite --benchmark-compare --benchmark-compare-fail=median:20%

Times are CPU time of `STEPS` steps of one colony of 64, put back to the same state before each round. Not part of the
tests: nothing here says that a figure is wrong.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from generations import Network, Quartiles, cpu_seconds, in_turn, sphere
from torch import Tensor

from pytorch_bfo_optimizer import BFO, AdaptiveBFO, FunctionObjective, HybridBFO
from pytorch_bfo_optimizer.seasons import COVARIANCE, DIFFERENTIAL, MOMENTUM
from pytorch_bfo_optimizer.shell import ColonyOptimizer

pytestmark = pytest.mark.benchmark(timer=time.process_time, disable_gc=True, warmup=False)

POPULATION, STEPS, ROUNDS = 64, 10, 30
GENERATIONS = 10
"""Generations in one call of `minimize`."""
Optimizer = ColonyOptimizer[Any, Any]


def level(pop_PD: Tensor) -> Tensor:
    """A plain on which every season soon ends."""
    return torch.zeros(len(pop_PD))


def colony(optimizer_class: Callable[..., Optimizer], start_D: Tensor, **settings: Any) -> Optimizer:
    """A seeded colony of 64 at this place."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(start_D.clone())]
    return optimizer_class(params, population_size=POPULATION, generator=generator, **settings)


def in_season(season: int, dimension: int) -> Optimizer:
    """A colony at the sphere function, a few generations into this season."""
    optimizer = colony(AdaptiveBFO, torch.full((dimension,), 3.0), bounds=(-5.0, 5.0))
    held = optimizer.state[optimizer.param_groups[0]["params"][0]]
    for _ in range(1000):
        optimizer.step(FunctionObjective(level))
        if held["season"] == season:
            break
    assert held["season"] == season
    for _ in range(3):
        optimizer.step(FunctionObjective(sphere))
    return optimizer


def timed(benchmark: Any, optimizer: Optimizer, closure: Callable[..., Any]) -> None:
    """Benchmark `STEPS` steps, always the same ones."""
    for _ in range(3):
        optimizer.step(closure)
    params = [param for group in optimizer.param_groups for param in group["params"]]
    place = [param.detach().clone() for param in params]
    state = copy.deepcopy(optimizer.state_dict())

    @torch.no_grad()
    def put_back() -> None:
        optimizer.load_state_dict(state)
        for param, value in zip(params, place, strict=True):
            param.copy_(value)

    def steps() -> None:
        for _ in range(STEPS):
            optimizer.step(closure)

    benchmark.extra_info["steps"] = STEPS
    benchmark.pedantic(steps, setup=put_back, rounds=ROUNDS, warmup_rounds=2)


@pytest.mark.benchmark(group="sphere, D = 10")
@pytest.mark.parametrize("optimizer_class", [BFO, HybridBFO])
def test_a_step_on_the_sphere(benchmark: Any, optimizer_class: Callable[..., Optimizer]) -> None:
    optimizer = colony(optimizer_class, torch.full((10,), 3.0), bounds=(-5.0, 5.0))
    timed(benchmark, optimizer, FunctionObjective(sphere))


@pytest.mark.benchmark(group="AdaptiveBFO, sphere")
@pytest.mark.parametrize(
    ("season", "dimension"),
    [(COVARIANCE, 10), (COVARIANCE, 30), (MOMENTUM, 100), (MOMENTUM, 1000), (DIFFERENTIAL, 10), (DIFFERENTIAL, 30)],
    ids=["covariance-10", "covariance-30", "momentum-100", "momentum-1000", "differential-10", "differential-30"],
)
def test_a_step_in_each_season(benchmark: Any, season: int, dimension: int) -> None:
    timed(benchmark, in_season(season, dimension), FunctionObjective(sphere))


@pytest.mark.benchmark(group="digits, D = 2410")
@pytest.mark.parametrize("optimizer_class", [BFO, AdaptiveBFO, HybridBFO])
def test_a_step_on_the_digits(benchmark: Any, network: Network, optimizer_class: Callable[..., Optimizer]) -> None:
    timed(benchmark, colony(optimizer_class, network.start()), FunctionObjective(network.losses))


@pytest.mark.benchmark(group="digits, a generation and its evaluation")
def test_a_generation_beside_the_bare_evaluation(
    benchmark: Any, network: Network, ratios: dict[str, Quartiles]
) -> None:
    """Generations of `minimize`, of `step`, and bare evaluations of one population take turns."""
    objective = FunctionObjective(network.losses)
    minimising, stepping = (colony(AdaptiveBFO, network.start(), step_size=0.1) for _ in range(2))
    pop_PD = torch.stack([network.start(seed) for seed in range(POPULATION)])

    def bare() -> None:
        with torch.no_grad():
            network.losses(pop_PD)

    def generations() -> None:
        minimising.minimize(objective, max_evaluations=GENERATIONS * POPULATION)

    sides = {"bare": bare, "minimize": generations, "step": lambda: stepping.step(objective)}
    times = in_turn(sides, cpu_seconds, rounds=15, block_s=0.0)
    whole = times.ratio("minimize", "bare")
    ratios["a generation of AdaptiveBFO.minimize over the digits"] = Quartiles(*(r / GENERATIONS for r in whole))
    ratios["a step of AdaptiveBFO over the digits"] = times.ratio("step", "bare")
    benchmark.extra_info.update({name: ratio._asdict() for name, ratio in ratios.items()})
    benchmark.pedantic(bare, rounds=5, warmup_rounds=1)
