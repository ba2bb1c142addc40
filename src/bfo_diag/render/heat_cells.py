"""What a heat map shows of its values: which rows and columns, which value in each cell, and which shade that has.
Knows nothing of SVG; `heatmap.py` draws it.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby, pairwise

from bfo_diag.render.scales import drawable, place
from bfo_diag.shown import Chart, Series

MOST_ROWS, MOST_COLUMNS = 40, 100
SHADES = 8
"""Of the scale: the classes 0 to 7, from its low to its high end."""
ZERO, NOT_FINITE = SHADES, SHADES + 1
"""The classes of what has no place on the scale: zero (and less) on a logarithmic one; NaN and infinities."""


@dataclass(frozen=True)
class Run:
    """Neighbouring cells of one class in a row."""

    row: int
    column: int
    length: int
    shade: int


@dataclass(frozen=True)
class Cells:
    """The cells of a map: `values` holds for each row the value of each column that has one."""

    series: tuple[Series, ...]
    columns: tuple[tuple[float, float], ...]
    """First and last x of each."""
    stretch: int
    """Of how many x each column is, but for the last."""
    even: bool
    """Whether all x are equally far apart."""
    values: tuple[Mapping[int, float], ...]
    log: bool

    @property
    def shared(self) -> bool:
        """Whether a cell stands for several values."""
        return sum(map(len, self.values)) < sum(len(series.points) for series in self.series) - self.lost

    @property
    def lost(self) -> int:
        """How many values have no place, as their x is not finite."""
        return sum(not drawable(x, log=False) for series in self.series for x, _ in series.points)

    @property
    def scale(self) -> tuple[float, float] | None:
        """The least and the greatest value that has a shade; None where there is none."""
        shaded = [y for row in self.values for y in row.values() if math.isfinite(y) and (y > 0 or not self.log)]
        return (min(shaded), max(shaded)) if shaded else None

    def runs(self) -> list[Run]:
        """Return the cells, neighbours of one class together, row by row."""
        scale = self.scale
        found = []
        for number, row in enumerate(self.values):
            classes = [(column, shade(row[column], scale, log=self.log)) for column in sorted(row)]
            # (Cells of one run have one class, and columns that grow as their places do.)
            for _, run in groupby(enumerate(classes), lambda cell: (cell[1][1], cell[1][0] - cell[0])):
                together = [cell for _, cell in run]
                found.append(Run(number, together[0][0], len(together), together[0][1]))
        return found

    def column_of(self, x: float) -> int | None:
        """Return the column that holds an x."""
        index = bisect.bisect_right(self.columns, x, key=lambda ends: ends[0]) - 1
        return index if index >= 0 and x <= self.columns[index][1] else None


def shade(value: float, scale: tuple[float, float] | None, *, log: bool) -> int:
    """Return the class of a value: 0 to 7 in equal parts of the scale, the middle where the scale is a point."""
    if not math.isfinite(value):
        return NOT_FINITE
    if scale is None or (log and value <= 0):
        return ZERO
    low, high = (place(end, log=log) for end in scale)
    if high - low <= (1e-6 if log else 1e-9 * max(abs(low), abs(high))):
        return SHADES // 2
    share = (place(value, log=log) - low) / (high - low)
    return min(SHADES - 1, int(SHADES * share + 1e-9))  # so that 0.01 begins a shade where it is to begin one


def not_finite(series: Series) -> bool:
    """Whether a series holds a NaN or an infinity."""
    return not all(math.isfinite(y) for _, y in series.points)


def rows(chart: Chart) -> tuple[Series, ...]:
    """Return the series that a map draws, in their order: what is not finite is never among those left out for room."""
    if len(chart.series) <= MOST_ROWS:
        return chart.series
    broken = [index for index, series in enumerate(chart.series) if not_finite(series)][:MOST_ROWS]
    others = sorted(set(range(len(chart.series))) - set(broken))[: MOST_ROWS - len(broken)]
    return tuple(chart.series[index] for index in sorted(broken + others))


def cells(chart: Chart) -> Cells:
    """Return the cells of a chart: a column an x, or a stretch of them where there are many.

    Of the values of a cell the most harmful stays: what is not finite before all, then zero where the scale is
    logarithmic, then the largest. (Not what is farthest from the usual, which would keep drops too: of noise it shows
    now the upper and now the lower end, and the map flickers where nothing happens.)
    """
    shown = rows(chart)
    xs = sorted({x for series in shown for x, _ in series.points if drawable(x, log=False)})
    stretch = max(1, math.ceil(len(xs) / MOST_COLUMNS))
    columns = tuple((xs[i], xs[min(i + stretch, len(xs)) - 1]) for i in range(0, len(xs), stretch))
    column_of = {x: index // stretch for index, x in enumerate(xs)}
    values = tuple(_row(series, column_of, log=chart.log_y) for series in shown)
    gaps = [b - a for a, b in pairwise(xs)]
    even = not gaps or max(gaps) <= min(gaps) * (1 + 1e-6)
    return Cells(shown, columns, stretch, even, values, chart.log_y)


def _row(series: Series, column_of: Mapping[float, int], *, log: bool) -> dict[int, float]:
    kept: dict[int, float] = {}
    for x, y in series.points:
        column = column_of.get(x)
        if column is not None and (column not in kept or _harm(y, log=log) > _harm(kept[column], log=log)):
            kept[column] = y
    return kept


def _harm(value: float, *, log: bool) -> tuple[int, float]:
    if not math.isfinite(value):
        return 2, 0.0
    return (1 if log and value <= 0 else 0), abs(value)
