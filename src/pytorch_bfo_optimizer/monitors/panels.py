"""The four panels of `MetricsTracker.plot`. matplotlib is imported here, when they are drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#9a9a9a"
WIDE, FEW = 10, 50


def draw(series: Mapping[str, Sequence[float]], rates: Sequence[float]) -> Figure:
    """Losses, diversity, step size and convergence rate over the generations.

    A scale is logarithmic where all that stands on it is positive and spans more than a factor of `WIDE`.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"MetricsTracker.plot needs matplotlib ({error}): pip install 'bfo-diag[plot]'") from error
    figure = Figure(figsize=(10, 7), layout="constrained")
    (losses, diversity), (size, rate) = figure.subplots(2, 2, sharex=True)
    at = series["generation"]
    _line(losses, at, series["loss"], GREY, label="of the step", linewidth=0.8)
    _line(losses, at, series["best_loss"], BLUE, label="at the parameters")
    _line(losses, at, series["lowest"], ORANGE, label="lowest so far", linestyle="--")
    _named(losses, "loss", series["loss"], series["best_loss"])
    losses.legend()
    _line(diversity, at, series["diversity"], BLUE)
    _named(diversity, "diversity: mean distance from the centroid", series["diversity"])
    _line(size, at, series["step_size"], BLUE)
    _named(size, "step size", series["step_size"])
    rate.axhline(0, color=GREY, linewidth=0.8)
    _line(rate, at, rates, BLUE)
    _named(rate, "convergence rate, a step", rates, signed=True)
    for axes in (size, rate):
        axes.set_xlabel("generation")
    return figure


def _line(axes: Any, at: Sequence[float], values: Sequence[float], colour: str, **style: Any) -> None:
    """One line, broken where a number is not finite; few points are marked, so that a lone one is seen."""
    shown = [value if math.isfinite(value) else math.nan for value in values]
    axes.plot(at, shown, **{"color": colour, "linewidth": 1.4, "marker": "." if len(at) < FEW else "", **style})


def _named(axes: Any, title: str, *series: Sequence[float], signed: bool = False) -> None:
    numbers = [value for values in series for value in values if math.isfinite(value)]
    if numbers and not signed and 0 < WIDE * min(numbers) < max(numbers):
        axes.set_yscale("log")
    axes.set_title(title)
    if not numbers:
        axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center", va="center", color=GREY)
