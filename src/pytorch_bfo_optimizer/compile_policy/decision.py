"""Whether compiling pays, from figures alone: a plan, and what was recorded or measured. Times are in seconds.

With k first calls that took S_k, of which some compile, and t the time of a step, N steps take N t_eager in eager and
S_k + (N - k) t_compiled compiled, so that the compile has paid for itself after

    N = k + (S_k - k t_eager) / (t_eager - t_compiled)    steps, the first k included.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Source = Literal["plan", "record", "measured"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be trained: `steps` steps, in `folds` times `trials` trainings."""

    steps: int
    folds: int = 1
    trials: int = 1

    @property
    def runs(self) -> int:
        """Trainings."""
        return self.folds * self.trials

    @property
    def total(self) -> int:
        """Steps of all trainings."""
        return self.steps * self.runs

    def __str__(self) -> str:
        times = f"{self.runs} x " if self.runs > 1 else ""
        return f"{times}{self.steps:,} steps"


@dataclass(frozen=True, slots=True)
class Decision:
    """What `enabled="auto"` decided, and its figures; a figure that nobody needed is None."""

    use_compile: bool
    why: str
    source: Source
    planned_steps: int
    """Of all trainings together."""
    t_eager: float | None = None
    t_compiled: float | None = None
    compile_s: float | None = None
    """What the first calls took, S_k."""
    break_even_steps: int | None = None
    """None: never, or not known."""
    pays: bool | None = None
    """Whether the plan is longer than the break-even. Once compiled it may be kept all the same: the cost is sunk."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """Of one mode in a record of `bfo-diag bench`: the steps after which a compile has paid, None for never."""

    cold: float | None
    """With an empty cache, as the first training finds it."""
    warm: float | None
    """With a filled one, as each later training finds it."""
    why_not: str = ""
    """What speaks against the mode whatever the plan: its steps are no faster, or its results differ."""
    t_eager: float | None = None
    t_compiled: float | None = None
    compile_s: float | None = None
    device: str | None = None
    """Where it was measured: `cpu`, `cuda:0`."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Times of one step in eager and compiled, block by block (a pair of blocks ran one after the other)."""

    eager: Sequence[float]
    compiled: Sequence[float]
    first_s: float
    """S_k."""
    first_calls: int
    """k."""


def by_least(plan: Plan, min_steps: int) -> Decision:
    """Compile if the plan has so many steps."""
    enough = plan.total >= min_steps
    why = f"{plan} are planned, and min_steps is {min_steps:,}"
    return Decision(enough, why, "plan", plan.total)


def by_record(plan: Plan, recorded: Recorded) -> Decision:
    """Decide from a recorded bench: the first training compiles cold, each later one warm.

    In units of steps: N_cold + (runs - 1) N_warm have to be fewer than all planned steps.
    """
    figures = (recorded.t_eager, recorded.t_compiled, recorded.compile_s)
    if recorded.why_not or recorded.cold is None:
        why = f"the record says: {recorded.why_not or 'compiling never pays'}"
        return Decision(False, why, "record", plan.total, *figures, None, False)
    again = recorded.cold if recorded.warm is None else recorded.warm
    needed = math.ceil(recorded.cold + (plan.runs - 1) * again)
    pays = plan.total > needed
    why = f"the record's break-even for this is {needed:,} steps, and {plan} are planned"
    return Decision(pays, why, "record", plan.total, *figures, needed, pays)


def by_length(plan: Plan, t_eager: float, least_compile_s: float) -> Decision:
    """Try it if the whole plan takes so long in eager that a compile can be won back at all."""
    whole = plan.total * t_eager
    why = f"{plan} take {whole:.3g} s in eager, and less than {least_compile_s:g} s can hardly win a compile back"
    worth = whole >= least_compile_s
    return Decision(worth, why, "measured", plan.total, t_eager, pays=None if worth else False)


def by_timings(plan: Plan, timings: Timings) -> Decision:
    """Keep what was compiled if its steps are faster beyond the spread of the pairs; else go back to eager.

    The spread is twice the median distance of the pairs' differences from their median. What the compile cost has
    been paid by then: a plan shorter than the break-even is no reason to go back, but `pays` tells.
    """
    differences = [eager - compiled for eager, compiled in zip(timings.eager, timings.compiled, strict=True)]
    saved = statistics.median(differences)
    spread = 2 * statistics.median([abs(difference - saved) for difference in differences])
    t_eager, t_compiled = statistics.median(timings.eager), statistics.median(timings.compiled)
    figures = (t_eager, t_compiled, timings.first_s)
    if saved <= spread:
        why = f"a compiled step is not faster beyond its spread: {_step(t_compiled)} against {_step(t_eager)} in eager"
        return Decision(False, why, "measured", plan.total, *figures, None, False)
    cost = timings.first_s - timings.first_calls * t_eager
    steps = max(1, math.ceil(timings.first_calls + cost / saved))
    pays = plan.total > steps
    why = f"a compiled step takes {_step(t_compiled)} against {_step(t_eager)} in eager; "
    why += f"the compile has paid after {steps:,} steps, and {plan} are planned"
    why += "" if pays else ": too few to win its time back, but it is spent, and every step left is faster"
    return Decision(True, why, "measured", plan.total, *figures, steps, pays)


def _step(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"
