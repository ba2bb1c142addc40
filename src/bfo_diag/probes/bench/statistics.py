"""Ratios of interleaved timings, their intervals over processes first, and when a compile has paid for itself.

Needs no torch. Times are in seconds a step; a speed-up is eager time / compiled time, so that above 1 is faster.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
CONFIDENCE = 0.95
NOISY = 0.05
"""An A/A control that is off by more than this share marks the result; so does an interval four times as far."""

Floats = NDArray[np.float64]
Pairs = Sequence[tuple[Floats, Floats]]
"""For each process the times of the baseline and of the arm, round by round (rounds without a compile in them)."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its bootstrap interval."""

    value: float
    low: float
    high: float

    def holds(self, number: float) -> bool:
        """Whether the number lies within."""
        return self.low <= number <= self.high


def paired(pairs: Pairs, of_pair: Callable[[Floats, Floats], Floats]) -> Interval:
    """Return the median over processes of the median over rounds of `of_pair`, with its interval.

    Processes are resampled first and rounds within them second: the spread between processes is the larger one, and
    what one process shows, however steadily, is one draw of it.
    """
    values = [of_pair(baseline, arm) for baseline, arm in pairs]
    generator = np.random.default_rng(0)
    count = len(values)
    medians_PB = np.stack([np.median(generator.choice(v, size=(RESAMPLES, len(v))), axis=1) for v in values])
    processes_BP = generator.integers(count, size=(RESAMPLES, count))
    drawn = np.median(medians_PB[processes_BP, generator.integers(RESAMPLES, size=(RESAMPLES, count))], axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(float(np.median([np.median(value) for value in values])), float(low), float(high))


def speed_up(pairs: Pairs) -> Interval:
    """Return baseline time / arm time."""
    return paired(pairs, lambda baseline, arm: baseline / arm)


def saved(pairs: Pairs) -> Interval:
    """Return the seconds that a step of the arm takes less than one of the baseline."""
    return paired(pairs, lambda baseline, arm: baseline - arm)


def verdict(*ratios: Interval) -> str:
    """Return faster, slower or no difference, from the speed-ups over eager and over eager's A/A twin.

    A difference that only one of two names of the same baseline shows is noise of that name.
    """
    if all(ratio.low > 1 for ratio in ratios):
        return "faster"
    return "slower" if all(ratio.high < 1 for ratio in ratios) else "no difference"


def noisy(control: Interval) -> bool:
    """Whether the same step under two names differs too much to believe the rest, in its middle or from run to run."""
    return abs(control.value - 1) > NOISY or control.low < 1 - 4 * NOISY or control.high > 1 + 4 * NOISY


@dataclass(frozen=True)
class BreakEven:
    """After how many steps a compile has paid for itself; None: never, as far as can be told."""

    steps: Interval | None
    why: str = ""


def break_even(compile_s: float, difference: Interval, faster: bool) -> BreakEven:
    """Return the steps after which the compile has paid: `compile_s` / (t_eager - t_compiled), the first k included.

    `compile_s` is what the first k calls took beyond steady ones, S_k - k t_compiled: with N t_eager = S_k +
    (N - k) t_compiled, N = k + (S_k - k t_eager) / (t_eager - t_compiled), which is the same.
    """
    if not faster or difference.low <= 0:
        return BreakEven(None, "no step is saved for certain")
    values = [max(0.0, compile_s) / saved_s for saved_s in (difference.value, difference.high, difference.low)]
    return BreakEven(Interval(*(float(math.ceil(value)) for value in values)))
