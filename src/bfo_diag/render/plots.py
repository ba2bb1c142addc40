"""The geometry of lines, y over x: what is drawn where. Their look is the style sheet's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bfo_diag.render.marks import ends, marker, references, visible
from bfo_diag.render.scales import Scale, drawable, scale_of, short_number
from bfo_diag.render.strokes import CHARACTER, WIDTH, Drawing, at, not_measured
from bfo_diag.render.text import cut
from bfo_diag.shown import Chart, Series

_TOP, _BOTTOM, _LINES_HEIGHT = 30, 42, 252
MOST_SERIES, MOST_OF_GROUPS = 12, 60
"""Looks, each with a colour and a dash of its own in `chart.css`; lines, where groups of them share a look."""
_MOST_POINTS, _MOST_MARKERS = 400, 30
_LABEL_CHARACTERS, _LABEL_STEP = 20, 14.0
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Group:
    """Lines of one look and one label: the seeds of an arm, or a lone series."""

    name: str
    series: tuple[Series, ...]

    @property
    def kind(self) -> str:
        """The class of its look, besides the number."""
        return " control" if any(one.tone == "control" for one in self.series) else ""

    def middle(self, chart: Chart) -> tuple[int, float, float] | None:
        """Return which line is drawn strong, and its last point: the one that ends in the middle of them."""
        ends = []
        for index, series in enumerate(self.series):
            seen = [(y, x) for x, y in series.points if visible(chart, x, y)]
            ends += [(*seen[-1], index)] if seen else []
        if not ends:
            return None
        y, x, index = sorted(ends)[(len(ends) - 1) // 2]
        return index, x, y


def groups(chart: Chart) -> list[Group]:
    """Return the groups that a drawing of lines has room for: the first ones, and the control's always."""
    members: dict[object, list[Series]] = {}
    for index, series in enumerate(chart.series):
        members.setdefault(series.group or index, []).append(series)
    most = max(1, MOST_OF_GROUPS // max(1, min(len(members), MOST_SERIES)))
    found = [Group(held[0].group or held[0].name, tuple(held[:most])) for held in members.values()]
    late = [group for group in found[MOST_SERIES:] if group.kind][:1]
    return [*found[: MOST_SERIES - len(late)], *late]


@dataclass(frozen=True)
class _Plane:
    """Where the lines of a chart are drawn, and with how many points each."""

    chart: Chart
    x: Scale
    y: Scale
    made: Drawing
    lines: int

    @property
    def crowded(self) -> bool:
        """Whether there are too many lines for a marker at each point."""
        return self.lines > MOST_SERIES


def lines(chart: Chart) -> Drawing:
    """Return y over x, a line a series."""
    found = groups(chart)
    shown = [series for group in found for series in group.series]
    points = [(x, y) for series in shown for x, y in series.points if visible(chart, x, y)]
    if not points:
        return not_measured()
    heights = [*(y for _, y in points), *(end for series in shown for end in ends(chart, series)), *references(chart)]
    y_scale = scale_of(heights, log=chart.log_y, start=_LINES_HEIGHT - _BOTTOM, end=_TOP)
    longest = max(len(cut(group.name, _LABEL_CHARACTERS)) for group in found)
    right = WIDTH - (26 + CHARACTER * longest if len(found) > 1 else 16)
    left = 16 + CHARACTER * max(len(y_scale.label(tick)) for tick in y_scale.ticks)
    x_scale = scale_of([x for x, _ in points], log=chart.log_x, start=left, end=right)
    plane = _Plane(chart, x_scale, y_scale, Drawing(height=_LINES_HEIGHT), len(shown))
    _axes(plane)
    for reference in references(chart):
        plane.made.stroke(f"M{at(left)} {at(y_scale(reference))}H{at(right)}", "reference")
        plane.made.write(left + 5, y_scale(reference) - 5, short_number(reference), "tick")
    for look, group in sorted(enumerate(found), key=lambda item: bool(item[1].kind)):  # the control over all others
        middle = group.middle(chart) or (0, 0.0, 0.0)
        for index, series in enumerate(group.series):
            _line(plane, series, look, group.kind + ("" if index == middle[0] else " faint"))
    if len(found) > 1:
        _labels(plane, found)
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


def _line(plane: _Plane, series: Series, look: int, kind: str) -> None:
    """Draw a line, broken where a value has no place; few points, and those that stand alone, have markers."""
    few = len(series.points) <= _MOST_MARKERS and not plane.crowded
    seen = [visible(plane.chart, x, y) for x, y in series.points]
    _spread(plane, series, look, whiskers=few)
    pen, d, markers = "M", [], []
    most = _MOST_POINTS * MOST_SERIES // plane.lines if plane.crowded else _MOST_POINTS
    for index, (x, y) in _thinned(list(enumerate(series.points)), lambda item: item[1][1], most):
        if not seen[index]:
            pen = "M"
            continue
        d.append(f"{pen}{at(plane.x(x))} {at(plane.y(y))}")
        pen = "L"
        if few or not any(seen[max(0, index - 1) : index] + seen[index + 1 : index + 2]):
            markers.append(marker(plane.x(x), plane.y(y), look))
    plane.made.stroke("".join(d), f"line{kind}", look)
    plane.made.stroke("".join(markers), f"marker{kind}", look)


def _spread(plane: _Plane, series: Series, look: int, *, whiskers: bool) -> None:
    """Draw the intervals of a line: a whisker a point, or a band where there are many points."""
    chart = plane.chart
    found = [
        (plane.x(x), plane.y(low), plane.y(high))
        for (x, y), (low, high) in zip(series.points, series.intervals, strict=False)
        if visible(chart, x, y) and drawable(low, log=chart.log_y) and drawable(high, log=chart.log_y)
    ]
    if whiskers:
        for x, low, high in found:
            bars = f"M{at(x - 4)} {at(low)}h8M{at(x - 4)} {at(high)}h8"
            plane.made.stroke(f"M{at(x)} {at(low)}V{at(high)}{bars}", "whisker", look)
        return
    kept = _thinned(found, lambda item: item[2], _MOST_POINTS)
    around = [(x, high) for x, _, high in kept] + [(x, low) for x, low, _ in reversed(kept)]
    d = "".join(f"{'L' if index else 'M'}{at(x)} {at(y)}" for index, (x, y) in enumerate(around))
    plane.made.stroke(f"{d}z" if d else "", "band", look)


def _labels(plane: _Plane, found: Sequence[Group]) -> None:
    """Name each group beside the end of its middle line, apart enough to be read, with a stroke back to that end."""
    places = []
    for look, group in enumerate(found):
        middle = group.middle(plane.chart)
        places += [(plane.y(middle[2]), plane.x(middle[1]), look)] if middle else []
    places.sort()
    heights = _apart([y for y, _, _ in places], low=plane.y.end, high=plane.y.start)
    for (y, x, look), place in zip(places, heights, strict=True):
        edge, name = plane.x.end, cut(found[look].name, _LABEL_CHARACTERS)
        d = f"M{at(x + 5)} {at(y)}L{at(edge + 6)} {at(y)}L{at(edge + 13)} {at(place)}"
        plane.made.stroke(d, f"leader{found[look].kind}", look)
        plane.made.write(edge + 16, place + 4, name, f"label{found[look].kind}", look)


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


def _thinned(items: Sequence[_Item], height: Callable[[_Item], float], most: int) -> list[_Item]:
    """Return few `items` as they are; else of each stretch the ends, the extremes and the first that is not finite."""
    if len(items) <= most:
        return list(items)
    heights = [height(item) for item in items]
    stretch = math.ceil(len(items) / (most // 4))
    kept: set[int] = set()
    for start in range(0, len(items), stretch):
        within = range(start, min(start + stretch, len(items)))
        finite = [index for index in within if math.isfinite(heights[index])]
        broken = [index for index in within if not math.isfinite(heights[index])]
        kept |= {within[0], within[-1], *broken[:1]}
        kept |= {min(finite, key=heights.__getitem__), max(finite, key=heights.__getitem__)} if finite else set()
    return [items[index] for index in sorted(kept)]
