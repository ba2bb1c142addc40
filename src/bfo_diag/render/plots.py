"""The geometry of lines, and of rows with their intervals: what is drawn where. Their look is the style sheet's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bfo_diag.render.scales import Scale, drawable, scale_of, short_number
from bfo_diag.render.strokes import CHARACTER, MARGIN, WIDTH, Drawing, Path, Text, at, not_measured
from bfo_diag.render.text import cut
from bfo_diag.shown import Chart, Series

_TOP, _BOTTOM, _LINES_HEIGHT, _ROW_HEIGHT = 30, 42, 252, 40
MOST_SERIES, MOST_ROWS, _MOST_POINTS, _MOST_MARKERS = 12, 40, 400, 30
_LABEL_CHARACTERS, _ROW_CHARACTERS, _LABEL_STEP = 20, 36, 14.0
_LOOKS = 8
"""So many colours, each with a marker and a dash of its own, in `chart.css`; then they begin again."""
_MARKERS = (
    "m-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0z",  # circle, square, triangle, diamond
    "m-2.8 -2.8h5.6v5.6h-5.6z",
    "m0 -3.8l3.6 6.4h-7.2z",
    "m0 -4l4 4l-4 4l-4 -4z",
)
_Item = TypeVar("_Item")


def interval(series: Series, index: int) -> tuple[float, float] | None:
    """Return the interval of a series' point, where it was measured."""
    return series.intervals[index] if index < len(series.intervals) else None


def visible(chart: Chart, x: float, y: float) -> bool:
    """Whether a point has a place on the axes; rows have no x axis."""
    x_counts = chart.kind != "intervals"
    return drawable(y, log=chart.log_y) and (not x_counts or drawable(x, log=chart.log_x))


def _ends(chart: Chart, series: Series) -> Iterator[float]:
    """Yield the ends of the intervals that an axis should reach: those of points that are drawn."""
    for (x, y), ends in zip(series.points, series.intervals, strict=False):
        if visible(chart, x, y):
            yield from (end for end in ends if drawable(end, log=chart.log_y))


# Rows: name and figure above, the interval below, one reference for all.


def _reference(chart: Chart) -> list[float]:
    return [value for value in (chart.reference,) if value is not None and drawable(value, log=chart.log_y)]


def rows(chart: Chart) -> Drawing:
    """Return a row a series: its figure and its interval."""
    shown = chart.series[:MOST_ROWS]
    values = [y for series in shown for x, y in series.points if visible(chart, x, y)]
    values += [end for series in shown for end in _ends(chart, series)]
    if not values:
        return not_measured()
    made = Drawing(height=_TOP + _ROW_HEIGHT * len(shown) + _BOTTOM)
    bottom = made.height - _BOTTOM
    scale = scale_of([*values, *_reference(chart)], log=chart.log_y, start=MARGIN, end=WIDTH - MARGIN)
    for tick in scale.ticks:
        made.stroke(f"M{at(scale(tick))} {_TOP}V{at(bottom)}", "grid")
        made.write(scale(tick), bottom + 16, scale.label(tick), "tick middle")
    made.write(WIDTH - MARGIN, made.height - 6, cut(chart.y_axis, 60), "axis end")
    for reference in _reference(chart):
        made.stroke(f"M{at(scale(reference))} {_TOP - 6}V{at(bottom)}", "reference")
        made.texts.append(_reference_label(scale(reference), _TOP - 12, reference))
    for index, series in enumerate(shown):
        _row(chart, series, scale, _TOP + _ROW_HEIGHT * index, made)
    return made


def _reference_label(x: float, y: float, reference: float) -> Text:
    anchor = "start" if x < 60 else "end" if x > WIDTH - 60 else "middle"
    return Text(x, y, short_number(reference), f"tick {anchor}")


def _row(chart: Chart, series: Series, scale: Scale, top: float, made: Drawing) -> None:
    drawn = [(i, y) for i, (x, y) in enumerate(series.points) if visible(chart, x, y)]
    line = top + 29
    made.write(MARGIN, top + 15, cut(series.name, _ROW_CHARACTERS), "name")
    made.write(WIDTH - MARGIN, top + 15, _figures(series, drawn), "value end")
    for index, y in drawn:
        ends = interval(series, index)
        if ends is not None and all(drawable(end, log=chart.log_y) for end in ends):
            low, high = (at(scale(end)) for end in ends)
            d = f"M{low} {at(line - 5)}v10M{high} {at(line - 5)}v10M{low} {at(line)}H{high}"
            made.stroke(d, "whisker", 0)
        made.paths.append(_marker(scale(y), line, 0))


def _figures(series: Series, drawn: Sequence[tuple[int, float]]) -> str:
    if not drawn:
        return "not measured"
    if len(drawn) > 1:
        return f"{len(drawn)} values"
    index, y = drawn[0]
    ends = interval(series, index)
    return short_number(y) + ("" if ends is None else f" [{short_number(ends[0])}, {short_number(ends[1])}]")


# Lines: y over x, each named at its end.


@dataclass(frozen=True)
class _Plane:
    """Where the lines of a chart are drawn."""

    chart: Chart
    x: Scale
    y: Scale
    made: Drawing


def lines(chart: Chart) -> Drawing:
    """Return y over x, a line a series."""
    shown = chart.series[:MOST_SERIES]
    points = [(x, y) for series in shown for x, y in series.points if visible(chart, x, y)]
    if not points:
        return not_measured()
    heights = [*(y for _, y in points), *(end for series in shown for end in _ends(chart, series)), *_reference(chart)]
    y_scale = scale_of(heights, log=chart.log_y, start=_LINES_HEIGHT - _BOTTOM, end=_TOP)
    longest = max(len(cut(series.name, _LABEL_CHARACTERS)) for series in shown)
    right = WIDTH - (26 + CHARACTER * longest if len(shown) > 1 else 16)
    left = 16 + CHARACTER * max(len(y_scale.label(tick)) for tick in y_scale.ticks)
    x_scale = scale_of([x for x, _ in points], log=chart.log_x, start=left, end=right)
    plane = _Plane(chart, x_scale, y_scale, Drawing(height=_LINES_HEIGHT))
    _axes(plane)
    for reference in _reference(chart):
        plane.made.stroke(f"M{at(left)} {at(y_scale(reference))}H{at(right)}", "reference")
        plane.made.write(left + 5, y_scale(reference) - 5, short_number(reference), "tick")
    for index, series in enumerate(shown):
        _line(plane, series, index % _LOOKS)
    if len(shown) > 1:
        _labels(plane, shown)
    return plane.made


def _axes(plane: _Plane) -> None:
    left, right, bottom = plane.x.start, plane.x.end, plane.y.start
    for tick in plane.y.ticks:
        plane.made.stroke(f"M{at(left)} {at(plane.y(tick))}H{at(right)}", "grid")
        plane.made.write(left - 7, plane.y(tick) + 4, plane.y.label(tick), "tick end")
    ticks = [(plane.x(tick), plane.x.label(tick)) for tick in plane.x.ticks]
    plane.made.ruler(ticks, left=left, right=right, bottom=bottom)
    plane.made.write(4, 14, cut(plane.chart.y_axis, 60), "axis")
    plane.made.write(right, _LINES_HEIGHT - 6, cut(plane.chart.x_axis, 40), "axis end")


def _line(plane: _Plane, series: Series, look: int) -> None:
    """Draw a line, broken where a value has no place; few points, and those that stand alone, have markers."""
    few = len(series.points) <= _MOST_MARKERS
    seen = [visible(plane.chart, x, y) for x, y in series.points]
    _spread(plane, series, look, whiskers=few)
    pen, d, markers = "M", [], []
    for index, (x, y) in _thinned(list(enumerate(series.points)), lambda item: item[1][1]):
        if not seen[index]:
            pen = "M"
            continue
        d.append(f"{pen}{at(plane.x(x))} {at(plane.y(y))}")
        pen = "L"
        if few or not any(seen[max(0, index - 1) : index] + seen[index + 1 : index + 2]):
            markers.append(_marker(plane.x(x), plane.y(y), look))
    plane.made.stroke("".join(d), "line", look)
    plane.made.paths.extend(markers)


def _spread(plane: _Plane, series: Series, look: int, *, whiskers: bool) -> None:
    """Draw the intervals of a line: a whisker a point, or a band where there are many points."""
    chart = plane.chart
    ends = [
        (plane.x(x), plane.y(low), plane.y(high))
        for (x, y), (low, high) in zip(series.points, series.intervals, strict=False)
        if visible(chart, x, y) and drawable(low, log=chart.log_y) and drawable(high, log=chart.log_y)
    ]
    if whiskers:
        for x, low, high in ends:
            bars = f"M{at(x - 4)} {at(low)}h8M{at(x - 4)} {at(high)}h8"
            plane.made.stroke(f"M{at(x)} {at(low)}V{at(high)}{bars}", "whisker", look)
        return
    kept = _thinned(ends, lambda item: item[2])
    around = [(x, high) for x, _, high in kept] + [(x, low) for x, low, _ in reversed(kept)]
    d = "".join(f"{'L' if index else 'M'}{at(x)} {at(y)}" for index, (x, y) in enumerate(around))
    plane.made.stroke(f"{d}z" if d else "", "band", look)


def _labels(plane: _Plane, shown: Sequence[Series]) -> None:
    """Name each line beside its end, apart enough to be read, with a stroke back to the end where one had to move."""
    ends = []
    for index, series in enumerate(shown):
        seen = [(x, y) for x, y in series.points if visible(plane.chart, x, y)]
        if seen:
            ends.append((plane.y(seen[-1][1]), plane.x(seen[-1][0]), index))
    ends.sort()
    places = _apart([y for y, _, _ in ends], low=plane.y.end, high=plane.y.start)
    for (y, x, index), place in zip(ends, places, strict=True):
        look, edge = index % _LOOKS, plane.x.end
        plane.made.stroke(f"M{at(x + 5)} {at(y)}L{at(edge + 6)} {at(y)}L{at(edge + 13)} {at(place)}", "leader", look)
        plane.made.write(edge + 16, place + 4, cut(shown[index].name, _LABEL_CHARACTERS), "label", look)


def _apart(wanted: Sequence[float], *, low: float, high: float) -> list[float]:
    """Return ascending places near the `wanted` ones, a label's height apart, within [low, high] where they fit."""
    places: list[float] = []
    for place in wanted:
        places.append(max(place, places[-1] + _LABEL_STEP) if places else max(place, low))
    limit = high
    for i in reversed(range(len(places))):
        places[i] = min(places[i], limit)
        limit = places[i] - _LABEL_STEP
    return places


# Shared.


def _marker(x: float, y: float, look: int) -> Path:
    return Path(f"M{at(x)} {at(y)}{_MARKERS[look % len(_MARKERS)]}", "marker", look)


def _thinned(items: Sequence[_Item], height: Callable[[_Item], float]) -> list[_Item]:
    """Return few `items` as they are; else of each stretch the ends, the extremes and the first that is not finite."""
    if len(items) <= _MOST_POINTS:
        return list(items)
    heights = [height(item) for item in items]
    stretch = math.ceil(len(items) / (_MOST_POINTS // 4))
    kept: set[int] = set()
    for start in range(0, len(items), stretch):
        within = range(start, min(start + stretch, len(items)))
        finite = [index for index in within if math.isfinite(heights[index])]
        broken = [index for index in within if not math.isfinite(heights[index])]
        kept |= {within[0], within[-1], *broken[:1]}
        kept |= {min(finite, key=heights.__getitem__), max(finite, key=heights.__getitem__)} if finite else set()
    return [items[index] for index in sorted(kept)]
