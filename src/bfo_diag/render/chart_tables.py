"""What charts draw as tables, for whoever can't see them: one for each kind of chart. Values only."""

from __future__ import annotations

import math

from bfo_diag.render.arms import arms
from bfo_diag.render.family import Neuron, family
from bfo_diag.render.marks import interval
from bfo_diag.render.scales import drawable, number
from bfo_diag.shown import Axis, Cell, Chart, Series, Table

Row = tuple[str | Cell, ...]


def of_points(chart: Chart, most: int) -> Table:
    """Return the points of lines and of rows, at most about `most` of each series, evenly spread."""
    intervals = any(series.intervals for series in chart.series)
    rows_alone = chart.kind == "intervals"
    columns = (
        "series",
        *(() if rows_alone else (chart.x_axis,)),
        chart.y_axis,
        *(("low", "high") if intervals else ()),
    )
    rows: list[Row] = []
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
        title=_title(chart),
        columns=columns,
        rows=tuple(rows),
        caption=f"about {most} points of each series, evenly spread; all of them are in the log" if thinned else "",
    )


def _title(chart: Chart) -> str:
    return f"{chart.title}: the figures"


def of_map(chart: Chart) -> Table:
    """Return of each row of a heat map what an eye reads: its range, its end, and where it is zero or not finite."""
    zeros = ("zero or less",) if chart.log_y else ()
    columns = ("series", "values", "smallest", "largest", "last", *zeros, "not finite", f"first at {chart.x_axis}")
    return Table(
        title=_title(chart),
        columns=columns,
        rows=tuple(_figures_of_row(series, log=chart.log_y) for series in chart.series),
        caption=f"{chart.y_axis}, over all values of a series; each of them is in the log",
    )


def _figures_of_row(series: Series, *, log: bool) -> Row:
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


def of_lineage(chart: Chart) -> Table:
    """Return a row a neuron to which something happened: those born later, those that died, those with children."""
    found = family(chart)
    children: dict[str, int] = {}
    for neuron in found.neurons:
        for parent in neuron.parents:
            children[parent] = children.get(parent, 0) + 1
    settled = set(map(id, found.quiet))
    told = [neuron for neuron in found.neurons if id(neuron) not in settled]
    return Table(
        title=_title(chart),
        columns=(
            "neuron",
            f"born at {chart.x_axis}",
            chart.y_axis or "row",
            "parents",
            f"died at {chart.x_axis}",
            "children",
        ),
        rows=tuple(_figures_of_neuron(neuron, children.get(neuron.name, 0)) for neuron in told),
        caption=f"beside them, {found.unchanged}" if found.quiet else "",
    )


def _figures_of_neuron(neuron: Neuron, children: int) -> Row:
    return (
        neuron.name,
        number(neuron.born),
        number(neuron.row),
        ", ".join(neuron.parents) or Cell("founder" if neuron.founder else "none", "muted"),
        Cell("alive", "muted") if neuron.alive else number(neuron.ended),
        number(children),
    )


def of_arms(chart: Chart) -> Table:
    """Return a row an arm, best first: its level or position on each axis."""
    return Table(
        title=_title(chart),
        columns=("arm", *(axis.name for axis in chart.axes)),
        rows=tuple(_figures_of_arm(series, chart.axes) for series in chart.series),
        caption=f"best first by {chart.y_axis}" if chart.y_axis and len(arms(chart)) > 1 else "",
    )


def _figures_of_arm(series: Series, axes: tuple[Axis, ...]) -> Row:
    held = dict(series.points)
    cells = [_level(held.get(float(index), math.nan), axis) for index, axis in enumerate(axes)]
    name = f"{series.name} (control)" if series.tone == "control" and series.name != "control" else series.name
    return (name, *cells)


def _level(position: float, axis: Axis) -> str | Cell:
    if not drawable(position, log=False):
        return Cell("not measured", "muted") if math.isnan(position) else Cell(number(position), "bad")
    return dict(axis.ticks).get(position, number(position))
