"""The geometry of rows with their intervals beside one reference: a name, a figure, and where the interval lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bfo_diag.render.marks import ends, interval, marker, references, visible
from bfo_diag.render.scales import Scale, drawable, scale_of, short_number
from bfo_diag.render.strokes import CHARACTER, MARGIN, WIDTH, Drawing, Text, at, not_measured
from bfo_diag.render.text import cut, cut_apart
from bfo_diag.shown import Chart, Series

MOST_ROWS = 40
_MOST_TALL = 8
"""So many rows have name and figures above the interval; more have them beside it."""
_TOP, _BOTTOM, _TALL, _FLAT = 30, 42, 40, 19
_CHARACTERS, _FLAT_CHARACTERS = 36, 24


@dataclass(frozen=True)
class _Rows:
    """Where the rows of a drawing are: the scale of all of them, and how high each is."""

    chart: Chart
    scale: Scale
    height: int
    made: Drawing


def rows(chart: Chart) -> Drawing:
    """Return a row a series: its figure and its interval."""
    shown = chart.series[:MOST_ROWS]
    values = [y for series in shown for x, y in series.points if visible(chart, x, y)]
    values += [end for series in shown for end in ends(chart, series)]
    if not values:
        return not_measured()
    flat = len(shown) > _MOST_TALL
    names = cut_apart([series.name for series in shown], _FLAT_CHARACTERS) if flat else []
    figures = [_figures(chart, series, whole=not flat) for series in shown]
    left, right = float(MARGIN), float(WIDTH - MARGIN)
    if flat:
        left += CHARACTER * max(map(len, names)) + 8
        right -= CHARACTER * max(map(len, figures)) + 8
    height = _FLAT if flat else _TALL
    made = Drawing(height=_TOP + height * len(shown) + _BOTTOM)
    scale = scale_of([*values, *references(chart)], log=chart.log_y, start=left, end=right)
    plane = _Rows(chart, scale, height, made)
    _frame(plane)
    for index, series in enumerate(shown):
        top = _TOP + height * index
        if flat:
            made.write(MARGIN, top + 14, names[index], "name")
            made.write(WIDTH - MARGIN, top + 14, figures[index], "value end")
            _marks(plane, series, top + 10, 3)
        else:
            made.write(MARGIN, top + 15, cut(series.name, _CHARACTERS), "name")
            made.write(WIDTH - MARGIN, top + 15, figures[index], "value end")
            _marks(plane, series, top + 29, 5)
    return made


def _frame(plane: _Rows) -> None:
    """Draw the axis below and the reference above the rows."""
    made, scale = plane.made, plane.scale
    bottom = made.height - _BOTTOM
    taken = -1e9
    for tick in scale.ticks:
        made.stroke(f"M{at(scale(tick))} {_TOP}V{at(bottom)}", "grid")
        half = CHARACTER * len(scale.label(tick)) / 2
        if scale(tick) - half > taken + 6:
            made.write(scale(tick), bottom + 16, scale.label(tick), "tick middle")
            taken = scale(tick) + half
    made.write(WIDTH - MARGIN, made.height - 6, cut(plane.chart.y_axis, 60), "axis end")
    for reference in references(plane.chart):
        x = scale(reference)
        made.stroke(f"M{at(x)} {_TOP - 6}V{at(bottom)}", "reference")
        anchor = "start" if x < 60 else "end" if x > WIDTH - 60 else "middle"
        made.texts.append(Text(x, _TOP - 12, short_number(reference), f"tick {anchor}"))


def _marks(plane: _Rows, series: Series, line: float, half: int) -> None:
    """Draw the intervals of a row; one that holds the reference is a tie, and its mark is hollow."""
    chart, scale = plane.chart, plane.scale
    for index, (x, y) in enumerate(series.points):
        if not visible(chart, x, y):
            continue
        found = interval(series, index)
        drawn = found is not None and all(drawable(end, log=chart.log_y) for end in found)
        tie = found is not None and any(found[0] <= reference <= found[1] for reference in references(chart))
        if found is not None and drawn:
            low, high = (at(scale(end)) for end in found)
            ends = "".join(f"M{end} {at(line - half)}v{2 * half}" for end in (low, high))
            plane.made.stroke(f"{ends}M{low} {at(line)}H{high}", "whisker tie" if tie else "whisker", 0)
        plane.made.stroke(marker(scale(y), line, 0), "marker tie" if tie else "marker", 0)


def _figures(chart: Chart, series: Series, *, whole: bool) -> str:
    drawn: Sequence[tuple[int, float]] = [(i, y) for i, (x, y) in enumerate(series.points) if visible(chart, x, y)]
    if not drawn:
        return "not measured"
    if len(drawn) > 1:
        return f"{len(drawn)} values"
    index, y = drawn[0]
    found = interval(series, index)
    return short_number(y) + (f" [{short_number(found[0])}, {short_number(found[1])}]" if found and whole else "")
