"""A chart as SVG, in words, and as a table. The geometry is in `plots.py` (lines, rows with intervals) and in
`heatmap.py`, the look in `templates/chart.css`.

Drawn by hand because pygal 3.1.3, the small library that came nearest, stamps its output with the day, adds a script
and a style sheet to each chart that also reach the page around it, has no logarithmic x axis, raises on infinity and on
an interval on a logarithmic axis, and needs 12 to 19 KiB for what takes 2 to 4 KiB here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from bfo_diag.render import heat_cells, plots
from bfo_diag.render.heatmap import heatmap
from bfo_diag.render.plots import MOST_ROWS, MOST_SERIES, interval, visible
from bfo_diag.render.scales import number
from bfo_diag.render.strokes import WIDTH, Drawing
from bfo_diag.render.templates import render
from bfo_diag.render.text import clean
from bfo_diag.shown import Cell, Chart, Series, Table

_KINDS: dict[str, Callable[[Chart], Drawing]] = {"lines": plots.lines, "intervals": plots.rows, "heatmap": heatmap}


def drawing(chart: Chart) -> Drawing:
    """Return what a chart is drawn with; "not measured" where it holds nothing finite."""
    return _KINDS[chart.kind](chart)


def svg(chart: Chart, *, ident: str = "chart") -> str:
    """Return the chart as an `<svg>` element, the same bytes for the same chart.

    `ident` begins the ids of its title and description: one of its own for each chart on a page.
    What holds no finite value says "not measured".
    """
    return render(
        "chart.svg.j2",
        ident=ident,
        width=WIDTH,
        drawing=drawing(chart),
        title=chart.title,
        description=f"{chart.caption or f'{chart.y_axis} over {chart.x_axis}'}. {_named(chart)}",
    ).strip()


def _named(chart: Chart) -> str:
    """Return whose values are drawn, and of a map what its marks tell: which rows hold what is not finite."""
    shown = drawn(chart)
    words = f"Drawn: {_list(shown) or 'nothing'}."
    broken = [series for series in shown if heat_cells.not_finite(series)] if chart.kind == "heatmap" else []
    return f"{words} Not finite in: {_list(broken)}." if broken else words


def _list(series: Sequence[Series]) -> str:
    more = f"; and {len(series) - MOST_SERIES} more" if len(series) > MOST_SERIES else ""
    return "; ".join(clean(one.name) for one in series[:MOST_SERIES]) + more


def drawn(chart: Chart) -> tuple[Series, ...]:
    """Return the series that the drawing has room for."""
    if chart.kind == "heatmap":
        return heat_cells.rows(chart)
    return chart.series[: MOST_ROWS if chart.kind == "intervals" else MOST_SERIES]


def remarks(chart: Chart) -> list[str]:
    """Return what the drawing does not show, each as half a sentence: values, and whole series."""
    found = _not_in_the_map(chart) if chart.kind == "heatmap" else _not_on_the_axes(chart)
    left_out = len(chart.series) - len(drawn(chart))
    if left_out:
        found.append(f"{left_out} more series are in the table, and not drawn")
    return found


def _not_on_the_axes(chart: Chart) -> list[str]:
    points = [point for series in chart.series for point in series.points]
    undrawn = sum(not visible(chart, x, y) for x, y in points)
    if not undrawn or undrawn == len(points):
        return []
    logarithmic = " or not above zero" if chart.log_x or chart.log_y else ""
    return [f"{undrawn} of {len(points)} values are not finite{logarithmic}, and not drawn"]


def _not_in_the_map(chart: Chart) -> list[str]:
    shown = heat_cells.cells(chart)
    found = []
    if shown.lost:
        found.append(f"{shown.lost} values have no finite {chart.x_axis}, and are not drawn")
    if shown.shared:
        column = f" (a column is {shown.stretch} values of {chart.x_axis})" if shown.stretch > 1 else ""
        found.append(
            f"a cell with several values{column} shows the one farthest from zero, "
            f"{'zero itself before that, ' if chart.log_y else ''}and what is not finite before all"
        )
    if not shown.even:
        found.append(f"the columns stand in the order of {chart.x_axis}, which is not evenly spaced")
    broken = sum(map(heat_cells.not_finite, chart.series)) - sum(map(heat_cells.not_finite, shown.series))
    if broken:
        found.append(f"{broken} series that are not drawn hold values that are not finite")
    return found


def as_table(chart: Chart, *, most: int = 60) -> Table:
    """Return what the chart draws as a table, at most about `most` points of each series, evenly spread.

    Of a heat map it is a line a series, over all its points.
    """
    if chart.kind == "heatmap":
        return _figures_of_rows(chart)
    intervals = any(series.intervals for series in chart.series)
    rows_alone = chart.kind == "intervals"
    columns = (
        "series",
        *(() if rows_alone else (chart.x_axis,)),
        chart.y_axis,
        *(("low", "high") if intervals else ()),
    )
    rows: list[tuple[str | Cell, ...]] = []
    thinned = False
    for series in chart.series:
        every = max(1, math.ceil(len(series.points) / most))
        thinned = thinned or every > 1
        for index in range(0, len(series.points), every):
            x, y = series.points[index]
            ends = interval(series, index)
            low_high = () if not intervals else ("-", "-") if ends is None else (number(ends[0]), number(ends[1]))
            rows.append((series.name, *(() if rows_alone else (number(x),)), number(y), *low_high))
        if not series.points:
            rows.append((series.name, "not measured", *("-",) * (len(columns) - 2)))
    return Table(
        title=f"{chart.title}: the figures",
        columns=columns,
        rows=tuple(rows),
        caption=f"about {most} points of each series, evenly spread; all of them are in the log" if thinned else "",
    )


def _figures_of_rows(chart: Chart) -> Table:
    """Return of each row what an eye reads from the map: its range, its end, and where it is zero or not finite."""
    zeros = ("zero or less",) if chart.log_y else ()
    columns = ("series", "values", "smallest", "largest", "last", *zeros, "not finite", f"first at {chart.x_axis}")
    return Table(
        title=f"{chart.title}: the figures",
        columns=columns,
        rows=tuple(_figures_of_row(series, log=chart.log_y) for series in chart.series),
        caption=f"{chart.y_axis}, over all values of a series; each of them is in the log",
    )


def _figures_of_row(series: Series, *, log: bool) -> tuple[str | Cell, ...]:
    values = [y for _, y in series.points]
    if not values:
        return (series.name, "not measured", *("-",) * (6 if log else 5))
    finite = [y for y in values if math.isfinite(y)]
    broken = len(values) - len(finite)
    first = next((x for x, y in series.points if not math.isfinite(y)), 0.0)
    return (
        series.name,
        number(len(values)),
        number(min(finite)) if finite else "-",
        number(max(finite)) if finite else "-",
        number(values[-1]),
        *((number(sum(y <= 0 for y in finite)),) if log else ()),
        Cell(number(broken), "bad" if broken else ""),
        Cell(number(first), "bad") if broken else "-",
    )
