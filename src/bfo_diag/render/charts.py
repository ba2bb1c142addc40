"""A chart as SVG: a line over x, or a row a series with its interval beside a reference. The geometry is in `plots.py`,
the look in `templates/chart.css`.

Drawn by hand because pygal 3.1.3, the small library that came nearest, stamps its output with the day, adds a script
and a style sheet to each chart that also reach the page around it, has no logarithmic x axis, raises on infinity and on
an interval on a logarithmic axis, and needs 12 to 19 KiB for what takes 2 to 4 KiB here.
"""

from __future__ import annotations

import math

from bfo_diag.render.plots import MOST_ROWS, MOST_SERIES, WIDTH, drawing, interval, visible
from bfo_diag.render.scales import number
from bfo_diag.render.templates import render
from bfo_diag.render.text import clean
from bfo_diag.shown import Cell, Chart, Table


def svg(chart: Chart, *, ident: str = "chart") -> str:
    """Return the chart as an `<svg>` element, the same bytes for the same chart.

    `ident` begins the ids of its title and description: one of its own for each chart on a page.
    What holds no finite value says "not measured".
    """
    names = "; ".join(clean(series.name) for series in chart.series[:MOST_SERIES])
    return render(
        "chart.svg.j2",
        ident=ident,
        width=WIDTH,
        drawing=drawing(chart),
        title=chart.title,
        description=f"{chart.caption or f'{chart.y_axis} over {chart.x_axis}'}. Drawn: {names or 'nothing'}.",
    ).strip()


def remarks(chart: Chart) -> list[str]:
    """Return what the drawing does not show, each as half a sentence: values, and whole series."""
    kept = MOST_ROWS if chart.kind == "intervals" else MOST_SERIES
    points = [point for series in chart.series for point in series.points]
    undrawn = sum(not visible(chart, x, y) for x, y in points)
    found = []
    if undrawn and undrawn < len(points):
        logarithmic = " or not above zero" if chart.log_x or chart.log_y else ""
        found.append(f"{undrawn} of {len(points)} values are not finite{logarithmic}, and not drawn")
    if len(chart.series) > kept:
        found.append(f"{len(chart.series) - kept} more series are in the table, and not drawn")
    return found


def as_table(chart: Chart, *, most: int = 60) -> Table:
    """Return what the chart draws as a table, at most about `most` points of each series, evenly spread."""
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
