"""What the drawings of points share: which points have a place, the ends of their intervals, markers."""

from __future__ import annotations

from collections.abc import Iterator

from bfo_diag.render.scales import drawable
from bfo_diag.render.strokes import at
from bfo_diag.shown import Chart, Series

_MARKERS = (
    "m-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0z",  # circle, square, triangle, diamond
    "m-2.8 -2.8h5.6v5.6h-5.6z",
    "m0 -3.8l3.6 6.4h-7.2z",
    "m0 -4l4 4l-4 4l-4 -4z",
)


def interval(series: Series, index: int) -> tuple[float, float] | None:
    """Return the interval of a series' point, where it was measured."""
    return series.intervals[index] if index < len(series.intervals) else None


def visible(chart: Chart, x: float, y: float) -> bool:
    """Whether a point has a place on the axes; rows have no x axis."""
    x_counts = chart.kind != "intervals"
    return drawable(y, log=chart.log_y) and (not x_counts or drawable(x, log=chart.log_x))


def ends(chart: Chart, series: Series) -> Iterator[float]:
    """Yield the ends of the intervals that an axis should reach: those of points that are drawn."""
    for (x, y), found in zip(series.points, series.intervals, strict=False):
        if visible(chart, x, y):
            yield from (end for end in found if drawable(end, log=chart.log_y))


def references(chart: Chart) -> list[float]:
    """Return the reference, if the y axis has a place for it."""
    return [value for value in (chart.reference,) if value is not None and drawable(value, log=chart.log_y)]


def marker(x: float, y: float, look: int) -> str:
    """Return the marker of a look."""
    return f"M{at(x)} {at(y)}{_MARKERS[look % len(_MARKERS)]}"
