"""A chart as SVG, in words, and as a table: one entry for each kind. The geometry is in `plots.py` (lines), `rows.py`
(rows with intervals), `heatmap.py`, `lineage.py` and `parallel.py`, the look in `templates/chart.css`.

Drawn by hand because pygal 3.1.3, the small library that came nearest, stamps its output with the day, adds a script
and a style sheet to each chart that also reach the page around it, has no logarithmic x axis, raises on infinity and on
an interval on a logarithmic axis, and needs 12 to 19 KiB for what takes 2 to 4 KiB here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bfo_diag.render import arms, chart_tables, heat_cells
from bfo_diag.render.family import family
from bfo_diag.render.heatmap import heatmap
from bfo_diag.render.lineage import lineage
from bfo_diag.render.marks import visible
from bfo_diag.render.parallel import parallel
from bfo_diag.render.plots import MOST_SERIES, groups, lines
from bfo_diag.render.rows import MOST_ROWS, rows
from bfo_diag.render.strokes import Drawing
from bfo_diag.render.templates import render
from bfo_diag.render.text import clean
from bfo_diag.shown import Chart, Series, Table


@dataclass(frozen=True)
class _Kind:
    """What is done with a kind of chart. `words` says what is drawn, `remarks` what of the values is not."""

    draw: Callable[[Chart], Drawing]
    words: Callable[[Chart], str]
    remarks: Callable[[Chart], list[str]]
    table: Callable[[Chart, int], Table]
    cited: Callable[[Chart], Sequence[Series]] = lambda chart: chart.series[:MOST_ROWS]
    """The series whose log lines stand below the drawing."""


def drawing(chart: Chart) -> Drawing:
    """Return what a chart is drawn with; "not measured" where it holds nothing finite."""
    return _KINDS[chart.kind].draw(chart)


def svg(chart: Chart, *, ident: str = "chart") -> str:
    """Return the chart as an `<svg>` element, the same bytes for the same chart.

    `ident` begins the ids of its title and description: one of its own for each chart on a page.
    What holds no finite value says "not measured".
    """
    return render(
        "chart.svg.j2",
        ident=ident,
        drawing=drawing(chart),
        title=chart.title,
        description=f"{chart.caption or f'{chart.y_axis} over {chart.x_axis}'}. {_KINDS[chart.kind].words(chart)}",
    ).strip()


def remarks(chart: Chart) -> list[str]:
    """Return what the drawing does not show, each as half a sentence: values, and whole series."""
    return _KINDS[chart.kind].remarks(chart)


def as_table(chart: Chart, *, most: int = 60) -> Table:
    """Return what the chart draws as a table, at most about `most` points of each series, evenly spread.

    Of a heat map it is a line a series, over all its points; of a lineage a line a neuron to which something happened.
    """
    return _KINDS[chart.kind].table(chart, most)


def cited(chart: Chart) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return whose log lines stand below the drawing, and which: of a lineage those of all events together."""
    if chart.kind == "lineage":
        events = sorted({number for series in chart.series for number in series.evidence})
        return (("births and deaths", tuple(events)),) if events else ()
    return tuple((series.name, series.evidence) for series in _KINDS[chart.kind].cited(chart) if series.evidence)


# Words: what is drawn.


def _named(names: Sequence[str]) -> str:
    return f"Drawn: {_list(names) or 'nothing'}."


def _list(names: Sequence[str]) -> str:
    more = f"; and {len(names) - MOST_SERIES} more" if len(names) > MOST_SERIES else ""
    return "; ".join(map(clean, names[:MOST_SERIES])) + more


def _words_of_lines(chart: Chart) -> str:
    counted = [(group.name, len(group.series)) for group in groups(chart)]
    return _named([name if count == 1 else f"{name} ({count} lines)" for name, count in counted])


def _words_of_rows(chart: Chart) -> str:
    return _named([series.name for series in chart.series[:MOST_ROWS]])


def _words_of_map(chart: Chart) -> str:
    """Return whose values are drawn, and what the marks tell: which rows hold what is not finite."""
    shown = heat_cells.rows(chart)
    broken = [series.name for series in shown if heat_cells.not_finite(series)]
    return _named([series.name for series in shown]) + (f" Not finite in: {_list(broken)}." if broken else "")


def _words_of_lineage(chart: Chart) -> str:
    found = family(chart)
    born = len(found.neurons) - found.founders
    words = f"{found.founders:,} founders, {born:,} born later, {found.deaths:,} died."
    return f"{words} As one band: {found.unchanged}." if found.quiet else words


def _words_of_arms(chart: Chart) -> str:
    drawn = arms.shown(arms.arms(chart))
    return _named([f"{arm.name} (control)" if arm.control and arm.name != "control" else arm.name for arm in drawn])


# Remarks: what is not drawn.


def _more(count: int, what: str = "series", why: str = "") -> list[str]:
    return [f"{count} more {what} are in the table, and not drawn{why}"] if count else []


def _not_on_the_axes(chart: Chart) -> list[str]:
    points = [point for series in chart.series for point in series.points]
    undrawn = sum(not visible(chart, x, y) for x, y in points)
    if not undrawn or undrawn == len(points):
        return []
    logarithmic = " or not above zero" if chart.log_x or chart.log_y else ""
    return [f"{undrawn} of {len(points)} values are not finite{logarithmic}, and not drawn"]


def _not_among_the_lines(chart: Chart) -> list[str]:
    counts = [len(group.series) for group in groups(chart)]
    strong = (
        ["of lines with one label, the one that ends in the middle is strong"] if max(counts, default=0) > 1 else []
    )
    return [*strong, *_not_on_the_axes(chart), *_more(len(chart.series) - sum(counts))]


def _not_among_the_rows(chart: Chart) -> list[str]:
    return [*_not_on_the_axes(chart), *_more(len(chart.series) - MOST_ROWS if len(chart.series) > MOST_ROWS else 0)]


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
    return [*found, *_more(len(chart.series) - len(shown.series))]


def _not_in_the_tree(chart: Chart) -> list[str]:
    found = family(chart)
    lost = (
        [f"{found.lost} of {len(chart.series)} neurons have no finite steps and rows, and are not drawn"]
        if found.lost
        else []
    )
    why = ": the latest of those alive come first, then their ancestors"
    if list(found.rows) != sorted(found.rows):
        lost.append("the rows lie beside those that they descend from, not in the order of their numbers")
    return [*lost, *_more(len(found.neurons) - len(found.quiet) - len(found.drawn), "neurons", why)]


def _not_on_the_posts(chart: Chart) -> list[str]:
    found = arms.arms(chart)
    placed = sum(bool(arm.places) for arm in found)
    lost = (
        [f"{len(found) - placed} of {len(found)} arms have no place on any axis, and are not drawn"]
        if placed < len(found)
        else []
    )
    why = ": the best ones are, and some of all others"
    more = _more(placed - len(arms.shown(found)), "arms", why)
    return [*lost, *more, *_more(len(chart.axes) - len(arms.named_axes(chart)), "axes")]


def _best(chart: Chart) -> tuple[Series, ...]:
    return chart.series[:MOST_SERIES]


_KINDS = {
    "lines": _Kind(lines, _words_of_lines, _not_among_the_lines, chart_tables.of_points),
    "intervals": _Kind(rows, _words_of_rows, _not_among_the_rows, chart_tables.of_points),
    "heatmap": _Kind(
        heatmap, _words_of_map, _not_in_the_map, lambda chart, _: chart_tables.of_map(chart), heat_cells.rows
    ),
    "lineage": _Kind(lineage, _words_of_lineage, _not_in_the_tree, lambda chart, _: chart_tables.of_lineage(chart)),
    "parallel": _Kind(parallel, _words_of_arms, _not_on_the_posts, lambda chart, _: chart_tables.of_arms(chart), _best),
}
