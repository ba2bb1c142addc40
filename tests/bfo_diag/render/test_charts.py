from __future__ import annotations

import itertools
import math
import re
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from bfo_diag.render.charts import as_table, drawing, remarks, svg
from bfo_diag.render.plots import MOST_SERIES
from bfo_diag.render.scales import linear_ticks, number, scale_of, short_number
from bfo_diag.render.strokes import WIDTH
from bfo_diag.shown import Chart, Series

INF, NAN = math.inf, math.nan
EXTREMES = (0.0, -1.0, 1.0, 1e-320, 1e-300, -1e300, 1e300, sys.float_info.max, INF, -INF, NAN, 1 + 1e-15)


def lines(*series: Series, **how: object) -> Chart:
    return Chart("lines", "title", "steps", "loss", series, "caption", **how)


def texts(chart: Chart) -> list[str]:
    return [text.text for text in drawing(chart).texts]


def coordinates(chart: Chart) -> list[float]:
    drawn = drawing(chart)
    found = [float(value) for path in drawn.paths for value in re.findall(r"-?\d+(?:\.\d+)?", path.d)]
    return [*found, *(value for text in drawn.texts for value in (text.x, text.y))]


def test_a_chart_is_an_image_with_a_title_and_a_description():
    root = ElementTree.fromstring(svg(lines(Series("a", ((1.0, 2.0), (2.0, 3.0)))), ident="c1"))
    assert root.get("role") == "img"
    named = [root.find(f"*[@id='{ident}']").text for ident in root.get("aria-labelledby").split()]
    assert named[0] == "title"
    assert named[1] == "caption. Drawn: a."


def test_the_same_chart_gives_the_same_bytes_and_none_that_lead_elsewhere(review):
    for chart in review.sections[2].report.charts:
        text = svg(chart)
        assert text == svg(chart)
        assert not re.search(r"style=|href|http|url\(|<script|<!--", text)


@pytest.mark.parametrize("kind", ["lines", "intervals"])
@pytest.mark.parametrize("points", [(), ((1.0, NAN),), ((1.0, INF), (2.0, -INF))])
def test_what_holds_nothing_finite_says_not_measured(kind, points):
    chart = Chart(kind, "t", "x", "y", (Series("a", points),))
    assert texts(chart) == ["not measured"]
    assert texts(Chart(kind, "t", "x", "y", ())) == ["not measured"]


@pytest.mark.parametrize("kind", ["lines", "intervals"])
@pytest.mark.parametrize(("log_x", "log_y"), list(itertools.product((False, True), repeat=2)))
def test_any_values_are_drawn_inside_the_drawing(kind, log_x, log_y):
    for a, b, reference in itertools.product(EXTREMES, EXTREMES, (None, 1.0, NAN)):
        series = Series("a", ((a, b), (b, a)), ((a, b), (b, a)))
        chart = Chart(kind, "t", "x", "y", (series, series), "", log_x, log_y, reference)
        assert all(math.isfinite(value) and -10 <= value <= WIDTH + 5 for value in coordinates(chart))


def test_a_line_breaks_where_a_value_is_not_finite_and_the_chart_says_so():
    chart = lines(Series("a", ((1.0, 1.0), (2.0, 2.0), (3.0, NAN), (4.0, 3.0))))
    path = next(path for path in drawing(chart).paths if path.kind == "line")
    assert (path.d.count("M"), path.d.count("L")) == (2, 1)
    assert remarks(chart) == ["1 of 4 values are not finite, and not drawn"]
    assert as_table(chart).rows[2] == ("a", "3", "not finite (nan)")


def test_on_a_logarithmic_axis_equal_ratios_lie_equally_far_apart():
    scale = scale_of([1.0, 1e6], log=True, start=0, end=100)
    assert scale(1e2) - scale(1.0) == pytest.approx(scale(1e4) - scale(1e2))
    assert scale.ticks == (1.0, 10.0**2, 10.0**4, 10.0**6)
    assert remarks(lines(Series("a", ((1.0, 0.0), (1.0, 1.0))), log_y=True))


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0.0, 800.0, (0, 200, 400, 600, 800)), (1.0, 3.0, (1, 2, 3)), (0.28, 1.01, (0.4, 0.6, 0.8, 1.0))],
)
def test_ticks_are_round(low, high, ticks):
    assert scale_of([low, high], log=False, start=0, end=1).ticks == pytest.approx(ticks)


def test_an_interval_chart_has_a_row_a_series_with_its_figures_beside_the_reference(review):
    chart = review.sections[2].report.charts[0]
    shown = texts(chart)
    assert {"default", "1.74 [1.72, 1.81]", "broken", "not measured"} <= set(shown)
    kinds = [path.kind for path in drawing(chart).paths]
    assert (kinds.count("whisker"), kinds.count("marker"), kinds.count("reference")) == (1, 1, 1)
    assert (kinds.count("whisker tie"), kinds.count("marker tie")) == (1, 1)  # A/A: its interval holds 1
    table = as_table(chart)
    assert table.columns == ("series", "eager time / mode's time", "low", "high")
    assert table.rows[1] == ("default", "1.74", "1.72", "1.81")


def test_the_names_of_lines_do_not_cover_each_other():
    chart = lines(*(Series(f"line {n}", ((0.0, 1.0), (1.0, 1.0 + n / 1e6))) for n in range(MOST_SERIES)))
    places = sorted(text.y for text in drawing(chart).texts if text.kind == "label")
    assert len(places) == MOST_SERIES
    assert all(b - a >= 13.9 for a, b in itertools.pairwise(places))


def test_long_series_are_thinned_but_keep_their_extremes_and_many_series_are_counted():
    points = [(float(n), 0.0) for n in range(50_000)]
    points[31_337] = (31_337.0, 5.0)
    chart = lines(*(Series("a", tuple(points)),) * (MOST_SERIES + 3))
    path = next(path for path in drawing(chart).paths if path.kind == "line")
    heights = re.findall(r"[ML]\S+ ([\d.]+)", path.d)
    assert len(heights) < 1000
    assert len(set(heights)) == 2  # the one high value is still there
    assert remarks(chart) == ["3 more series are in the table, and not drawn"]
    assert len(as_table(chart).rows) <= 61 * (MOST_SERIES + 3)


@pytest.mark.parametrize("kind", ["lines", "intervals", "heatmap"])
def test_of_many_series_the_description_names_the_first_and_counts_the_rest(kind):
    chart = Chart(kind, "t", "x", "y", tuple(Series(f"s{n}", ((1.0, 1.0),)) for n in range(30)))
    more = {"lines": "", "intervals": "; and 18 more", "heatmap": "; and 18 more"}[kind]
    assert f"s10; s11{more}.</desc>" in svg(chart)


@pytest.mark.parametrize("high", [5e-324, 1e-301, 1.0])
def test_what_lies_too_close_together_for_round_ticks_has_its_ends_as_ticks(high):
    assert linear_ticks(0.0, high)[0] == 0.0
    assert linear_ticks(0.5, 0.5) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("value", "long", "short"),
    [(27_591.4, "27,591.4", "27,600"), (1.74382, "1.74382", "1.74"), (3.2e-7, "3.2e-07", "3.2e-07"), (0.0, "0", "0")],
)
def test_numbers_are_told_exactly_in_tables_and_shortly_in_drawings(value, long, short):
    assert (number(value), short_number(value)) == (long, short)
