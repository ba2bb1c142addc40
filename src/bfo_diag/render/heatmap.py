"""The geometry of a heat map: a row a series, a column an x, neighbours of one class one stroke, one path a class.

The cells are drawn in units of rows and columns and put to their place by a transform: that keeps the paths short.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from bfo_diag.render.heat_cells import NOT_FINITE, SHADES, ZERO, Cells, Run, cells
from bfo_diag.render.scales import Scale, linear_ticks, number, short_number
from bfo_diag.render.strokes import CHARACTER, MARGIN, WIDTH, Drawing, at, not_measured
from bfo_diag.render.text import cut, cut_apart
from bfo_diag.shown import Chart

_ROW_HEIGHT, _BOTTOM, _WIDEST = 15, 40, 24
_NAME_CHARACTERS, _NAME_CHARACTER = 24, 6.7
"""Names of rows are set in a face of one width: most of them are names of code."""
_SWATCH, _LEAST = 12, 4
"""Width of a swatch of the legend, and of the shortest run of what is not finite: a lone one among 100 can be seen."""
_KINDS = (
    *((f"heat heat-{shade}",) for shade in range(SHADES)),
    ("heat heat-zero", "heat heat-zero-line"),
    ("heat heat-broken", "heat heat-broken-line"),
)
"""With which strokes each class is drawn, one over the other: zero and what is not finite differ by their lines too."""


def heatmap(chart: Chart) -> Drawing:
    """Return the map of a chart, with the legend of what occurs in it."""
    found = cells(chart)
    points = [point for series in found.series for point in series.points]
    if not found.columns or not any(math.isfinite(y) for _, y in points):
        return not_measured(f"{len(points)} values, none of them finite" if points else "")
    names = cut_apart([series.name for series in found.series], _NAME_CHARACTERS)
    left = MARGIN + _NAME_CHARACTER * max(map(len, names)) + 6
    width = min(_WIDEST, (WIDTH - MARGIN - left) / len(found.columns))
    made = Drawing(height=0)
    made.write(MARGIN - 10, 14, cut(chart.y_axis, 60), "axis")
    top = _legend(found, made)
    bottom = top + _ROW_HEIGHT * len(names)
    for index, (name, row) in enumerate(zip(names, found.values, strict=True)):
        line = top + _ROW_HEIGHT * index + 11
        made.write(left - 6, line, name, "row end" if all(map(math.isfinite, row.values())) else "row end broken")
        if not row:
            made.write(left + 2, line, "not measured", "tick")
    _strokes(made, found.runs(), _placed(left, top, width, _ROW_HEIGHT), least=_LEAST / width)
    right = left + width * len(found.columns)
    ticks = [(left + width * (column + 0.5), label) for column, label in _ticks(found)]
    made.ruler(ticks, left=left, right=right, bottom=bottom + 3)
    made.height = bottom + _BOTTOM
    made.write(max(right, WIDTH / 2), made.height - 4, cut(chart.x_axis, 40), "axis end")
    return made


def _placed(left: float, top: float, width: float, height: float) -> str:
    """Return the transform from columns and rows to units of the drawing; a stroke runs in the middle of its row."""
    return f"translate({at(left)} {at(top + height / 2)})scale({width:.6g} {height:g})"


def _strokes(made: Drawing, runs: Sequence[Run], transform: str, *, least: float = 0.0) -> None:
    for shade, kinds in enumerate(_KINDS):
        d = "".join(_stroke(run, least if shade == NOT_FINITE else 0.0) for run in runs if run.shade == shade)
        for kind in kinds if d else ():
            made.stroke(d, kind, transform=transform)


def _stroke(run: Run, least: float) -> str:
    over = max(0.0, least - run.length) / 2
    return f"M{run.column - over:.4g} {run.row}h{run.length + 2 * over:.4g}"


def _ticks(found: Cells) -> list[tuple[int, str]]:
    """Return (column, label) of round values that a column holds; of the first and the last column where none are."""
    low, high = found.columns[0][0], found.columns[-1][1]
    if len(found.columns) == 1:
        return [(0, number(low))]
    whole = all(first == int(first) for first, _ in found.columns)
    scale = Scale(low, high, log=False, start=0, end=1, ticks=linear_ticks(low, high, least=1.0 if whole else 0.0))
    ticks = [(found.column_of(tick), scale.label(tick)) for tick in scale.ticks]
    held = [(column, label) for column, label in ticks if column is not None]
    ends = [(0, number(low)), (len(found.columns) - 1, number(high))]
    return held if len(held) > 1 else ends


# The legend: the scale, and the marks of what has no place on it.


def _legend(found: Cells, made: Drawing) -> float:
    """Draw what the shades and the marks mean, and return where the rows may begin."""
    line = 20.0
    if found.scale is not None:
        _scale(found.scale, made, line, log=found.log)
        line += _SWATCH + 6
    values = [y for row in found.values for y in row.values()]
    blank = any(row and len(row) < len(found.columns) for row in found.values)
    marks: list[tuple[str, int | None]] = []
    if found.log and any(math.isfinite(y) and y <= 0 for y in values):
        marks.append(("zero or less" if min(filter(math.isfinite, values)) < 0 else "zero", ZERO))
    if not all(map(math.isfinite, values)):
        marks.append(("not finite", NOT_FINITE))
    if blank:
        marks.append(("no value", None))
    x = float(MARGIN)
    for text, shade in marks:
        if shade is None:
            made.stroke(f"M{at(x)} {at(line + 0.5)}h{_SWATCH}v{_SWATCH - 1}h-{_SWATCH}z", "empty")
        else:
            _strokes(made, [Run(0, 0, 1, shade)], _placed(x, line, _SWATCH, _SWATCH))
        made.write(x + _SWATCH + 5, line + _SWATCH - 2, text, "tick")
        x += _SWATCH + 5 + CHARACTER * len(text) + 14
    return line + (_SWATCH + 6 if marks else 2)


def _scale(scale: tuple[float, float], made: Drawing, top: float, *, log: bool) -> None:
    """Draw the shades between the two ends of the scale."""
    shades = range(SHADES) if scale[0] < scale[1] else [SHADES // 2]
    low, high = map(short_number if short_number(scale[0]) != short_number(scale[1]) else number, scale)
    x = MARGIN + CHARACTER * len(low) + 6
    _strokes(made, [Run(0, place, 1, shade) for place, shade in enumerate(shades)], _placed(x, top, _SWATCH, _SWATCH))
    made.write(x - 6, top + _SWATCH - 2, low, "tick end")
    if len(shades) > 1:
        text = f"{high} (logarithmic)" if log else high
        made.write(x + _SWATCH * len(shades) + 6, top + _SWATCH - 2, text, "tick")
