"""The sides of `gpu_generations`: each is one generation of a drift of ours, or of a peer, of the same population.

`prepared` says which of them can be timed here, and why the others cannot.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from generations import Network, momentum_generation
from torch import Tensor

from pytorch_bfo_optimizer import AdaptiveBFO, FunctionObjective, momentum

BARE = "bare forward"
OURS = "AdaptiveBFO.minimize"
NO_CUDA = "not measured: no CUDA"
SIGMA = 0.1
GENERATIONS = 20
"""Generations in one call of `minimize`."""
Side = Callable[[], object]


@dataclass
class Setting:
    """A population of one network, and the drift that all of our sides begin with."""

    network: Network
    population: int
    noise: Tensor
    """(P / 2, D); every generation draws it anew, in place."""
    by: momentum.Pairs
    compiles: bool = True
    """Whether sides that need a compiler are wanted."""

    @classmethod
    def of(cls, network: Network, population: int, *, compiles: bool) -> Setting:
        """An even population, on the device of the network."""
        noise_HD = torch.empty(population // 2, network.dimension, device=network.images.device)
        return cls(network, population, noise_HD, momentum.pairs(population, noise_HD.dtype, noise_HD.device), compiles)

    @property
    def device(self) -> torch.device:
        """Where all of it is."""
        return self.noise.device

    def drift(self) -> momentum.Drift:
        """At rest at a fresh network."""
        centre_D = self.network.start()
        return momentum.begin(centre_D, SIGMA, torch.ones_like(centre_D))

    @property
    def own_bytes(self) -> int:
        """Noise written and read twice, positions written."""
        return round(2.5 * self.population * self.network.dimension * self.noise.element_size())

    @property
    def whole_bytes(self) -> int:
        """With it the positions read, and the outputs of all layers written and read."""
        wide = sum(outputs for _, outputs in self.network.layers)
        numbers = self.population * (self.network.dimension + 2 * len(self.network.labels) * wide)
        return self.own_bytes + numbers * self.noise.element_size()


# --- the sides ---


def bare(setting: Setting) -> Side:
    """The evaluation of one population, the same every time."""
    position_PD = momentum.spread(setting.drift(), setting.by, setting.noise.normal_())
    return lambda: setting.network.losses(position_PD)


def eager(setting: Setting) -> Side:
    return stepping(setting, momentum_generation(setting.network.losses))


def compiled(setting: Setting) -> Side:
    return stepping(setting, torch.compile(momentum_generation(setting.network.losses), fullgraph=True))


def reduce_overhead(setting: Setting) -> Side:
    """CUDA graphs as torch makes them: what a run puts out is overwritten by the next, and so is copied."""
    generation = torch.compile(momentum_generation(setting.network.losses), fullgraph=True, mode="reduce-overhead")

    def apart(drift: momentum.Drift, by: momentum.Pairs, noise_HD: Tensor) -> momentum.Drift:
        torch.compiler.cudagraph_mark_step_begin()
        after = generation(drift, by, noise_HD)
        return drift._replace(centre=after.centre.clone(), velocity=after.velocity.clone())

    return stepping(setting, apart)


def stepping(setting: Setting, generation: Callable[..., momentum.Drift]) -> Side:
    """Generation after generation of one drift."""
    drift = setting.drift()

    def step() -> None:
        nonlocal drift
        drift = generation(drift, setting.by, setting.noise.normal_())

    for _ in range(3):  # compiles, and records what there is to record
        step()
    return step


def cuda_graph(setting: Setting) -> Side:
    """One capture of spread, evaluate, learn and the writing of the drift; the noise is drawn before each replay."""
    generation, drift = momentum_generation(setting.network.losses), setting.drift()

    def in_place() -> None:
        after = generation(drift, setting.by, setting.noise)
        drift.centre.copy_(after.centre)
        drift.velocity.copy_(after.velocity)

    setting.noise.normal_()
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        in_place()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        in_place()

    def replay() -> None:
        setting.noise.normal_()
        graph.replay()

    return replay


def minimising(setting: Setting, generations: int) -> Side:
    """One call of `minimize` of so many generations of a colony that lives on."""
    params = [torch.nn.Parameter(setting.network.start())]
    optimizer = AdaptiveBFO(params, population_size=setting.population, step_size=SIGMA)
    objective, evaluations = FunctionObjective(setting.network.losses), generations * setting.population
    return lambda: optimizer.minimize(objective, max_evaluations=evaluations)


def pgpe(setting: Setting) -> Side:
    from evotorch import Problem
    from evotorch.algorithms import PGPE

    logging.getLogger("evotorch").setLevel(logging.ERROR)
    size = setting.network.dimension
    problem = Problem(
        "min",
        setting.network.losses,
        solution_length=size,
        initial_bounds=(-1, 1),
        vectorized=True,
        device=setting.device,
        dtype=torch.float32,
    )
    searcher = PGPE(
        problem,
        popsize=setting.population,
        center_learning_rate=0.2,
        stdev_learning_rate=0.1,
        stdev_init=SIGMA,
        center_init=setting.network.start(),
    )
    return searcher.step


def openes(setting: Setting) -> Side:
    from evox.algorithms import OpenES

    centre_D = setting.network.start()
    searcher = OpenES(setting.population, centre_D, 0.02, SIGMA, optimizer="adam", device=setting.device)
    searcher.evaluate = setting.network.losses
    return searcher.step


SIDES: dict[str, Callable[[Setting], Side]] = {
    BARE: bare,
    "eager": eager,
    "compiled": compiled,
    "reduce-overhead": reduce_overhead,
    "CUDA graph": cuda_graph,
    OURS: lambda setting: minimising(setting, GENERATIONS),
    "EvoTorch PGPE": pgpe,
    "EvoX OpenES": openes,
}
NEEDS_CUDA = {"reduce-overhead", "CUDA graph"}
NEEDS_COMPILER = {"compiled", "reduce-overhead"}
NEEDS_PACKAGE = {"EvoTorch PGPE": "evotorch", "EvoX OpenES": "evox"}


def prepared(setting: Setting) -> tuple[dict[str, Side], dict[str, str]]:
    """The sides that can be timed here, and why the others cannot."""
    sides: dict[str, Side] = {}
    missing: dict[str, str] = {}
    for name, prepare in SIDES.items():
        if name in NEEDS_CUDA and setting.device.type != "cuda":
            missing[name] = NO_CUDA
        elif name in NEEDS_COMPILER and not setting.compiles:
            missing[name] = "not measured: --compile was not given"
        elif name in NEEDS_PACKAGE and importlib.util.find_spec(NEEDS_PACKAGE[name]) is None:
            missing[name] = f"not measured: {NEEDS_PACKAGE[name]} is not installed"
        else:
            try:
                sides[name] = prepare(setting)
                sides[name]()
            except Exception as error:  # noqa: BLE001 - a side that fails is a line of the report, the others go on
                sides.pop(name, None)
                missing[name] = f"not measured: {type(error).__name__}: {str(error).splitlines()[0][:120]}"
    return sides, missing
