"""Means over seeds, differences paired by seed with Student's t intervals, and which outlast that many were compared.

Plain arithmetic in the standard library. What is None, NaN or infinite never enters a figure.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

CONFIDENCE = 0.95
_ROUNDING = 1e-12
"""Differences that vary by less than this share of what is subtracted do not vary, but for rounding."""
BySeed = Mapping[int, "float | None"]
"""A figure of an arm at each seed; None where it was not measured."""


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (of a sample) of `count` values; no deviation where there is but one."""

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """Return it over the finite ones of the values, None where there is none."""
        kept = finite(values)
        if not kept:
            return None
        return cls(statistics.fmean(kept), statistics.stdev(kept) if len(kept) > 1 else None, len(kept))


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval, and the chance of one as far from 0 where the truth is 0 (two-sided p)."""

    value: float
    low: float
    high: float
    chance: float

    def holds(self, number: float) -> bool:
        """Whether the number lies within."""
        return self.low <= number <= self.high


@dataclass(frozen=True)
class Difference:
    """Arm - control, seed by seed; without an interval, `why` says what was missing."""

    by_seed: Mapping[int, float]
    left_out: int
    """Seeds at which either of the two has no figure."""
    interval: Interval | None
    why: str = ""


def finite(values: Iterable[float | None]) -> list[float]:
    """Return the values that are numbers."""
    return [value for value in values if value is not None and math.isfinite(value)]


def paired(arm: BySeed, control: BySeed, seeds: Sequence[int]) -> Difference:
    """Return how an arm differs from the control over the seeds that both have a figure for."""
    pairs = {seed: finite((arm.get(seed), control.get(seed))) for seed in seeds}
    pairs = {seed: pair for seed, pair in pairs.items() if len(pair) == 2}
    by_seed = {seed: one - other for seed, (one, other) in pairs.items()}
    left_out = len(seeds) - len(by_seed)
    if len(by_seed) < 2:
        return Difference(by_seed, left_out, None, f"{len(by_seed)} of {len(seeds)} seeds have a figure for both")
    scale = max(abs(value) for pair in pairs.values() for value in pair)
    found = interval(list(by_seed.values()), scale=scale)
    return Difference(by_seed, left_out, found, "" if found else "the same difference at every seed tells no spread")


def interval(values: Sequence[float], *, scale: float) -> Interval | None:
    """Return the mean of the values with its interval, mean +- t s / sqrt(n) with n - 1 degrees of freedom.

    None where there are fewer than two, or where all are one value other than 0: of coarse figures (an accuracy over
    few samples) a few are alike by chance, and a spread of 0 would make that certainty. `scale` is the size of what the
    values were made from, against which rounding is judged.
    """
    if len(values) < 2:
        return None
    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    if deviation <= _ROUNDING * scale:
        return Interval(0.0, 0.0, 0.0, 1.0) if abs(mean) <= _ROUNDING * scale else None
    error = deviation / math.sqrt(len(values))
    freedom = len(values) - 1
    half = student_quantile(CONFIDENCE, freedom) * error
    return Interval(mean, mean - half, mean + half, 1 - student_within(abs(mean) / error, freedom))


def verdict(difference: Difference, *, higher_is_better: bool) -> str:
    """Return better, worse, tie (the interval holds 0), or not measured."""
    found = difference.interval
    if found is None:
        return "not measured"
    if found.holds(0.0):
        return "tie"
    return "better" if (found.value > 0) is higher_is_better else "worse"


def holm(chances: Mapping[int, float]) -> dict[int, float]:
    """Return the chances of several differences, corrected for their number (Holm, 1979).

    The smallest of m is multiplied by m, the next by m - 1, and so on; none becomes smaller than one before it. What
    stays at or below 0.05 is one false claim in twenty sweeps at most, where plain intervals make one in twenty arms.
    """
    corrected: dict[int, float] = {}
    highest = 0.0
    for rank, (arm, chance) in enumerate(sorted(chances.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, (len(chances) - rank) * chance))
        corrected[arm] = highest
    return corrected


def student_within(t: float, freedom: int) -> float:
    """Return P(|T| <= t) of Student's t with a whole number of degrees of freedom.

    The finite sums of Abramowitz and Stegun, 26.7.3 and 26.7.4, with theta = arctan(t / sqrt(freedom)).
    """
    theta = math.atan(t / math.sqrt(freedom))
    cosine, sine = math.cos(theta), math.sin(theta)
    if freedom == 1:
        return 2 * theta / math.pi
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term
    for k in range(2 + odd, freedom, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    return 2 / math.pi * (theta + sine * total) if odd else sine * total


@lru_cache(maxsize=256)
def student_quantile(within: float, freedom: int) -> float:
    """Return the t with P(|T| <= t) = `within`: 4.303 for 0.95 and 2 degrees of freedom."""
    low, high = 0.0, 1.0
    while student_within(high, freedom) < within:
        low, high = high, 2 * high
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if student_within(middle, freedom) < within else (low, middle)
    return high
