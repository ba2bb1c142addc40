"""What a terminal shows while the steps run: the norms of the last sample, and where they have been."""

from __future__ import annotations

import math

from bfo_diag.shown import Cell, Table
from pytorch_bfo_optimizer.telemetry import EXPLODING_NORM, VANISHING_NORM, GradientStats

_ROWS = 16
_LEVELS = "▁▂▃▄▅▆▇█"
_WIDTH = 24
"""Samples of the past that a row shows."""
_LEAST, _GREATEST = -8.0, 4.0
"""Powers of ten between which a norm has a level of its own."""


class Live:
    """The tensors that were seen last; of many those with a fault, and then the first of the model."""

    def __init__(self) -> None:
        self._past: dict[str, list[float]] = {}
        self._title = ""

    def saw(self, step: int, stats: GradientStats) -> None:
        """Take a sample."""
        health = "-" if stats.health is None else f"{stats.health:.2f}"
        self._title = f"step {step}: {stats.status}, health {health}"
        for name, norm in zip(stats.names, stats.norms, strict=True):
            self._past[name] = [*self._past.get(name, [])[-(_WIDTH - 1) :], norm]

    def table(self) -> Table | None:
        """Return what to show, None before the first sample."""
        if not self._past:
            return None
        ordered = sorted(self._past, key=lambda name: not _fault(self._past[name][-1]))
        left = len(ordered) - _ROWS
        return Table(
            title=self._title,
            columns=("parameter", "norm", "", "so far"),
            rows=tuple(self._row(name) for name in ordered[:_ROWS]),
            caption=f"and {left} more" if left > 0 else "",
        )

    def _row(self, name: str) -> tuple[str | Cell, ...]:
        norms = self._past[name]
        fault = _fault(norms[-1])
        tone = "bad" if fault else ""
        return (name, Cell(f"{norms[-1]:.3g}", tone), Cell(fault, tone), "".join(map(_level, norms)))


def _fault(norm: float) -> str:
    if not math.isfinite(norm):
        return "not finite"
    if norm > EXPLODING_NORM:
        return "exploding"
    return "zero" if norm == 0 else "vanishing" if norm < VANISHING_NORM else ""


def _level(norm: float) -> str:
    if not math.isfinite(norm):
        return "!"
    if norm == 0:
        return " "
    share = (math.log10(norm) - _LEAST) / (_GREATEST - _LEAST)
    return _LEVELS[min(max(int(share * len(_LEVELS)), 0), len(_LEVELS) - 1)]
