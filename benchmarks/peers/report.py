"""Writes benchmarks/RESULTS.md from the results alone: nothing is measured here, and no verdict is written by hand.

run.py report [--without-held-out]
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import sys
from pathlib import Path

from peers import cost, cost_report, digits, digits_report, quality_report, results
from peers.comparison import Cell
from peers.markdown import NOT_ON_REGISTRY, table
from peers.runners import OURS, OURS_SOURCE, RUNNERS

FILE = Path(__file__).parents[1] / "RESULTS.md"
DISTRIBUTIONS = ("torch", "numpy", "scipy", "niapy", "mealpy", "cma", "evotorch", "evox", "scikit-learn")
Everyone = dict[str, dict[Cell, list[float]]]

INTRODUCTION = """# The optimizers beside their peers

Written by `make peers`: change the measurements, not this page. Each "reached" is computed from the runs in
`benchmarks/peers/results`.
"""
MAIN = """## Quality on eight functions

Sphere, Rosenbrock, Ackley, Rastrigin, Schwefel, Griewank, Levy and an ellipsoid of condition 10^6, each plain and
shifted-rotated, in 2, 10 and 30 dimensions, after 10,000 and 50,000 evaluations. What counts is the gap to the
minimum; at 1e-8 a problem is solved and the run ends, as in the CEC competitions. Evaluations are counted outside the
optimizers, and none is made beyond the budget. NiaPy's L-SHADE makes its mutants by an array version of its own
operator (`shade_mutation.py`): the same distribution, in a fifth of the time.
"""
HELD_OUT = """## Held-out functions

Ten functions that no setting was tuned on, shifted and rotated.
"""


def main(arguments: list[str]) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="run.py report", description=__doc__)
    parser.add_argument("--without-held-out", action="store_true", help="while settings are still being tuned")
    shown = not parser.parse_args(arguments).without_held_out
    suite = quality_report.load("main")
    held_out = quality_report.load("held-out") if shown else {}
    trainings = [run for run in digits.read() if run.version == digits.version_of(run.optimizer)]
    parts = [
        INTRODUCTION,
        conditions(suite, held_out),
        MAIN,
        summary(suite, "main"),
        *([HELD_OUT, summary(held_out, "held-out")] if shown else []),
        "## A small network without gradients\n",
        digits_report.section(trainings),
        "## Cost\n",
        cost_report.section(cost.read(), results.version_of(OURS_SOURCE)),
        *(file.read_text() for file in sorted(results.FOLDER.glob("*.md"))),
        "## Every cell: main functions\n",
        "Median gap (quartiles; seeds).\n",
        *quality_report.cells(suite),
        *(["## Every cell: held-out functions\n", *quality_report.cells(held_out)] if shown else []),
    ]
    FILE.write_text("\n".join(parts).rstrip() + "\n")
    print(f"Wrote {FILE}")


def conditions(suite: Everyone, held_out: Everyone) -> str:
    """When, on what, with which versions, settings and seeds."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in DISTRIBUTIONS)
    seeds, held_out_seeds = quality_report.seeds(suite), quality_report.seeds(held_out)
    rows = []
    for name, runner in RUNNERS.items():
        version = ("source " if runner.distribution.startswith(results.LIBRARY.name) else "") + results.version(runner)
        counts = [found.get(name, "not measured") for found in (seeds, held_out_seeds)]
        rows.append([name, version, runner.settings, *counts])
    rows.append(["bfo-torch", "", NOT_ON_REGISTRY, "", ""])
    return (
        f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}; Python {platform.python_version()}, {versions}; "
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores, no GPU, one thread a run.\n\n"
        + table(["optimizer", "version", "settings", "seeds a cell", "held-out"], rows)
    )


def summary(suite: Everyone, name: str) -> str:
    """The rules, the counts against each optimizer and the mean ranks of one suite."""
    if not suite:
        return "not measured\n"
    counted = (
        f"Win / level / loss of {OURS}; level: both solve it, or Mann-Whitney's U sees no difference (5 %, two-sided). "
        "The last column compares the medians alone.\n"
    )
    ranked = "Mean rank of the median over all cells:\n"
    counts = quality_report.counts(suite)
    return "\n".join(
        [
            quality_report.rules(suite, quality_report.sooner(name, "SciPy DE")),
            *([counted, counts] if counts else []),
            ranked,
            quality_report.ranks(suite),
        ]
    )


if __name__ == "__main__":
    main(sys.argv[1:])
