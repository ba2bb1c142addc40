"""A compiled generation (Inductor, on a CPU, one thread) beside the same one eager, and beside EvoX's OpenES.

    python benchmarks/compiled_generations.py [--momentum 10 100 1000 2410] [--covariance 10 30] [--rounds 31]
                                              [--population 64] [--backend inductor] [--log FILE]

Spread, evaluate on the sphere function, learn: one pure function, compiled with `fullgraph=True` and static shapes, the
noise drawn outside by both. CPU time, in blocks, all sides in turn in one process: the ratio compiled / eager of each
round, median and quartiles. An A/A control, eager / eager, says what such a ratio is worth on this machine: "slower"
is what has its lower quartile above the control's upper one and above 1, "faster" the other way round. "Never slower
than eager" is reached where nothing is slower.

EvoX's OpenES with the same population stands beside it where evox is installed: its step, eager, is what an optimizer
of its own costs at least. One compile takes up to a minute on a cold cache.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from generations import Quartiles, covariance_generation, cpu_seconds, in_turn, momentum_generation, report, sphere
from torch import Tensor

from pytorch_bfo_optimizer import covariance, momentum

START, SIGMA = 3.0, 0.3
EAGER, CONTROL, COMPILED, PEER = "eager", "eager again (A/A)", "compiled", "EvoX OpenES"
Side = Callable[[], object]
Make = Callable[[Callable[..., Any]], Side]
"""How a generation is called again and again, given what compiles it or leaves it as it is."""


def momentum_side(dimension: int, population: int) -> Make:
    """Generations of a momentum drift."""

    def make(through: Callable[..., Any]) -> Side:
        centre_D = torch.full((dimension,), START)
        by = momentum.pairs(population, centre_D.dtype, centre_D.device)
        generation, noise_of = through(momentum_generation(sphere)), noises(population // 2, dimension)
        drift = momentum.begin(centre_D, SIGMA, torch.ones_like(centre_D))
        return repeated(lambda drift: generation(drift, by, noise_of()), drift)

    return make


def covariance_side(dimension: int, population: int) -> Make:
    """Generations of a covariance drift, each of which factorises C: the branch that takes longer."""

    def make(through: Callable[..., Any]) -> Side:
        by = covariance.rates(population, dimension, torch.float64, torch.device("cpu"))
        generation = through(covariance_generation(sphere, by, age=by.refactor_every))
        noise_of = noises(population, dimension)
        drift = covariance.begin(torch.full((dimension,), START), SIGMA, torch.float64)
        return repeated(lambda drift: generation(drift, noise_of()), drift)

    return make


def repeated(generation: Callable[[Any], Any], drift: Any) -> Side:
    """The fourth generation of a drift again and again: thousands in a row would end in denormal numbers."""
    for _ in range(3):
        drift = generation(drift)
    return lambda: generation(drift)


def noises(rows: int, columns: int) -> Callable[[], Tensor]:
    """Fresh noise (rows, columns) at every call."""
    source = torch.Generator().manual_seed(0)
    return lambda: torch.randn(rows, columns, generator=source)


def openes(dimension: int, population: int) -> Side:
    """A generation of the peer, without its workflow."""
    from evox.algorithms import OpenES

    searcher = OpenES(population, torch.full((dimension,), START), 0.01, SIGMA, optimizer="adam")
    searcher.evaluate = sphere
    return searcher.step


SEASONS: dict[str, Callable[[int, int], Make]] = {"momentum": momentum_side, "covariance": covariance_side}


def measured(season: str, dimension: int, options: argparse.Namespace) -> dict[str, Any]:
    """Compile one generation, and time it beside the eager one."""
    torch._dynamo.reset()
    make = SEASONS[season](dimension, options.population)
    began = time.perf_counter()
    compiled = make(lambda fn: torch.compile(fn, fullgraph=True, dynamic=False, backend=options.backend))
    compile_s = time.perf_counter() - began
    sides = {EAGER: make(lambda fn: fn), COMPILED: compiled, CONTROL: make(lambda fn: fn)}
    if importlib.util.find_spec("evox") is not None:
        sides[PEER] = openes(dimension, options.population)
    times = in_turn(sides, cpu_seconds, rounds=options.rounds, block_s=options.block)
    return {
        "season": season,
        "dimension": dimension,
        "compile_s": compile_s,
        "seconds": {name: times.of(name) for name in sides},
        "compiled_to_eager": times.ratio(COMPILED, EAGER),
        "control": times.ratio(CONTROL, EAGER),
        "verdict": verdict(times.ratio(COMPILED, EAGER), times.ratio(CONTROL, EAGER)),
        "to_peer": {name: times.ratio(name, PEER) for name in (EAGER, COMPILED)} if PEER in sides else {},
    }


def verdict(ratio: Quartiles, control: Quartiles) -> str:
    """What a ratio to eager says, given that of eager to itself."""
    if ratio.low > max(control.high, 1.0):
        return "slower"
    return "faster" if ratio.high < min(control.low, 1.0) else "not told apart"


def page(facts: Mapping[str, Any]) -> str:
    """The figures as a table."""
    lines = [
        f"P = {facts['population']}, {facts['backend']}, torch {facts['torch']}, one thread; microseconds of CPU time",
        "| season | D | eager | compiled | compiled / eager | A/A | | compile | eager / OpenES | compiled / OpenES |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for found in facts["settings"]:
        took = {name: Quartiles(*(s * 1e6 for s in seconds)) for name, seconds in found["seconds"].items()}
        peer = [found["to_peer"][name].shown() if found["to_peer"] else "no evox" for name in (EAGER, COMPILED)]
        cells = [found["season"], str(found["dimension"]), took[EAGER].shown(".0f"), took[COMPILED].shown(".0f")]
        cells += [found["compiled_to_eager"].shown(), found["control"].shown(), found["verdict"]]
        cells += [f"{found['compile_s']:.0f} s", *peer]
        lines.append("| " + " | ".join(cells) + " |")
    lines.append(f"never slower than eager: {'reached' if facts['never_slower'] else 'not reached'}")
    return "\n".join(lines)


def main(given: list[str] | None = None) -> dict[str, Any]:
    """Measure, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--momentum", type=int, nargs="*", default=[10, 100, 1000, 2410], help="dimensions")
    parser.add_argument("--covariance", type=int, nargs="*", default=[10, 30], help="dimensions")
    parser.add_argument("--population", type=int, default=64, help="an even number")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--block", type=float, default=0.02, help="seconds of a block, at least about")
    parser.add_argument("--backend", default="inductor")
    parser.add_argument("--log", type=Path, default=None, help="append table and JSON line")
    options = parser.parse_args(given)
    if options.rounds < 2:
        parser.error("--rounds: quartiles need at least 2")
    torch.set_num_threads(1)
    settings = []
    with torch.no_grad():
        for season in SEASONS:
            settings += [measured(season, dimension, options) for dimension in getattr(options, season)]
    facts = {
        "benchmark": "compiled_generations",
        "when": time.strftime("%Y-%m-%d %H:%M"),
        "torch": torch.__version__,
        "backend": options.backend,
        "population": options.population,
        "settings": settings,
        "never_slower": all(found["verdict"] != "slower" for found in settings),
    }
    report(facts, page(facts), options.log)
    return facts


if __name__ == "__main__":
    main()
