"""From values to lengths: linear and logarithmic axes with round ticks, and numbers as text. Knows nothing of SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_GREATEST, _LEAST = 1e300, 1e-300
_MARGIN = 0.04
"""Of an axis, free at each end."""
_LINEAR_TICKS, _MOST_DECADES = 5, 6


def drawable(value: float, *, log: bool) -> bool:
    """Whether a value has a place on an axis: finite, and above zero on a logarithmic one."""
    return math.isfinite(value) and abs(value) <= _GREATEST and (not log or value >= _LEAST)


def place(value: float, *, log: bool) -> float:
    """Return where a finite value lies on an axis, in its units; what no axis can hold lies at its end."""
    held = max(-_GREATEST, min(_GREATEST, value))
    return math.log(max(held, _LEAST)) if log else held


def number(value: float) -> str:
    """Return a value for a table: 27,591, 1.74382, 3.2e-07; what is not finite says so."""
    if not math.isfinite(value):
        return f"not finite ({value})"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.6g}" if 1e-4 <= abs(value) < 1e7 else f"{value:.6g}"


def short_number(value: float) -> str:
    """Return a value to three figures: 27,600, 1.74, 0.0329, 3.2e-07."""
    if not math.isfinite(value):
        return str(value)
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.3g}"
    if abs(value) < 1000:
        return f"{value:.3g}"
    return f"{round(value, 2 - math.floor(math.log10(abs(value)))):,.0f}"


@dataclass(frozen=True)
class Scale:
    """An axis: values from `low` to `high` lie from `start` to `end`; what is beyond lies at its end."""

    low: float
    high: float
    log: bool
    start: float
    end: float
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        """Return where a value lies."""
        value = min(max(value, self.low), self.high)
        if self.log:
            share = (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def label(self, tick: float) -> str:
        """Return a tick's text, as exact as its distance to the next one asks for."""
        greatest = max(abs(other) for other in self.ticks)
        if not 1e-4 <= greatest < 1e7 or (self.log and not 1e-4 <= abs(tick) < 1e7):
            return f"{tick:.4g}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")
        if self.log or len(self.ticks) < 2:
            return number(tick)
        step = min(abs(b - a) for a, b in zip(self.ticks, self.ticks[1:], strict=False))
        return f"{tick:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


def scale_of(values: Sequence[float], *, log: bool, start: float, end: float) -> Scale:
    """Return the axis that shows all of `values`; there is at least one, and each is drawable."""
    low, high = min(values), max(values)
    if log:
        low, high = _apart_log(low, high)
        ticks = _log_ticks(low, high)
    else:
        low, high = _apart_linear(low, high)
        whole = all(value == int(value) for value in values)
        ticks = linear_ticks(low, high, least=1.0 if whole else 0.0)
    return Scale(low, high, log, start, end, ticks)


def _apart_linear(low: float, high: float) -> tuple[float, float]:
    """Return the ends of an axis; zero stays an end where the values begin there."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        half = abs(high) / 2 or 1.0
        return low - half, high + half
    margin = (high - low) * _MARGIN
    return (low if low == 0 else low - margin), (high if high == 0 else high + margin)


def _apart_log(low: float, high: float) -> tuple[float, float]:
    """Return the ends of a logarithmic axis, within what a float can hold."""
    decades = math.log10(high) - math.log10(low)
    if decades <= 1e-6:
        return max(low / 2, _LEAST / 2), min(high * 2, _GREATEST * 2)
    margin = 10 ** (decades * _MARGIN)
    return max(low / margin, _LEAST), min(high * margin, _GREATEST)


def linear_ticks(low: float, high: float, *, least: float = 0.0) -> tuple[float, ...]:
    """Return about five multiples of 1, 2 or 5 times a power of ten, `least` apart: steps are counted in ones."""
    rough = max((high - low) / _LINEAR_TICKS, least)
    if rough < _LEAST:
        return low, high
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(n * step for n in range(first, last + 1)) or (low, high)


def _log_ticks(low: float, high: float) -> tuple[float, ...]:
    first, last = math.ceil(math.log10(low)), math.floor(math.log10(high))
    if last - first >= 1:
        every = math.ceil((last - first + 1) / _MOST_DECADES)
        return tuple(10.0**power for power in range(first, last + 1, every))
    within = [f * 10.0**p for p in range(first - 1, last + 1) for f in (1, 2, 5) if low <= f * 10.0**p <= high]
    if len(within) >= 2:
        return tuple(within)
    return tuple(tick for tick in linear_ticks(low, high) if low <= tick <= high) or (low, high)
