from __future__ import annotations

import math
import random
import re
import xml.etree.ElementTree as ElementTree

import pytest

from bfo_diag.render.charts import as_table, drawing, remarks, svg
from bfo_diag.render.strokes import WIDTH
from bfo_diag.shown import Cell, Chart, Series

INF, NAN = math.inf, math.nan


def heat(rows: dict[str, list[float]], *, log: bool = True) -> Chart:
    series = tuple(Series(name, tuple((float(x), y) for x, y in enumerate(values))) for name, values in rows.items())
    return Chart("heatmap", "title", "step", "norm", series, "caption", log_y=log)


def texts(chart: Chart) -> list[str]:
    return [text.text for text in drawing(chart).texts]


def runs(d: str) -> list[tuple[float, float, float]]:
    found = re.findall(r"M(-?[\d.]+) (\d+)h([\d.]+)", d)
    assert "".join(f"M{a} {b}h{c}" for a, b, c in found) == d
    return [tuple(map(float, run)) for run in found]


def boxes(chart: Chart) -> dict[str, list[tuple[float, float, float, float]]]:
    """Return left, right, top, bottom of each run of the map (not of its legend) by class, in units of the drawing."""
    found = {}
    for path in drawing(chart).paths:
        if path.transform:
            left, top, width, height = map(float, re.findall(r"-?[\d.]+", path.transform))
            if height == 15:
                found[path.kind] = [
                    (left + width * x, left + width * (x + n), top + height * (y - 0.5), top + height * (y + 0.5))
                    for x, y, n in runs(path.d)
                ]
    return found


def test_each_row_has_its_name_beside_it_and_each_column_its_place():
    chart = heat({"a": [1.0, 1e9, 1.0, 1.0], "b": [1e9, 1.0, 1.0, 1e9]})
    drawn = drawing(chart)
    low, high = boxes(chart)["heat heat-0"], boxes(chart)["heat heat-7"]
    width = high[0][1] - high[0][0]
    assert [round((right - left) / width, 3) for left, right, _, _ in low] == [1, 2, 2]
    assert low[0][1] == pytest.approx(high[0][0], abs=0.01)
    assert high[0][1] == pytest.approx(low[1][0], abs=0.01)
    names = {text.text: text for text in drawn.texts if text.kind.startswith("row")}
    for name, row in (("a", low[0]), ("b", low[2])):
        assert row[2] < names[name].y < row[3]
        assert names[name].x < min(left for left, *_ in low + high)
    ticks = {text.text: text.x for text in drawn.texts if text.kind == "tick middle"}
    for label, box in (("0", low[0]), ("1", high[0]), ("3", high[2])):
        assert ticks[label] == pytest.approx((box[0] + box[1]) / 2 if label != "3" else box[1] - width / 2, abs=0.06)
    assert {"norm", "step", "1", "1e+09 (logarithmic)"} <= set(texts(chart))


def test_the_legend_tells_the_range_and_only_the_marks_that_occur():
    assert texts(heat({"a": [0.001, 2.0]}))[:3] == ["norm", "0.001", "2 (logarithmic)"]
    assert texts(heat({"a": [0.001, 2.0]}, log=False))[:3] == ["norm", "0.001", "2"]
    marks = {"zero", "zero or less", "not finite", "no value"}
    for rows, said in (
        ({"a": [1.0, 2.0]}, set()),
        ({"a": [1.0, 0.0]}, {"zero"}),
        ({"a": [1.0, -1.0]}, {"zero or less"}),
        ({"a": [1.0, NAN]}, {"not finite"}),
        ({"a": [1.0, 2.0], "b": [1.0]}, {"no value"}),
        ({"a": [0.0, NAN, 1.0], "b": [1.0]}, {"zero", "not finite", "no value"}),
    ):
        assert marks & set(texts(heat(rows))) == said
    assert "zero" not in texts(heat({"a": [1.0, 0.0]}, log=False))


def test_the_range_is_told_exactly_where_three_figures_are_the_same():
    assert texts(heat({"a": [1.0001, 1.0002]}))[1:3] == ["1.0001", "1.0002 (logarithmic)"]
    assert texts(heat({"a": [3.0, 3.0]}))[1:3] == ["3", "a"]


def test_zero_and_what_is_not_finite_differ_by_a_line_over_their_colour():
    found = {path.kind: path.d for path in drawing(heat({"a": [1.0, 0.0, NAN, 9.0, 9.0, 0.0]})).paths if path.transform}
    assert found["heat heat-zero"] == found["heat heat-zero-line"] == "M1 0h1M5 0h1"
    assert found["heat heat-broken"] == found["heat heat-broken-line"] == "M2 0h1"
    kinds = [path.kind for path in drawing(heat({"a": [1.0, 0.0, NAN]})).paths]
    for kind in ("heat heat-zero", "heat heat-broken"):
        assert kinds.index(kind) < kinds.index(f"{kind}-line")  # painted over it


def test_a_lone_nan_among_a_hundred_columns_is_wide_enough_to_be_seen_and_its_row_is_marked():
    rows = {f"layer{n}": [1.0 + x for x in range(100)] for n in range(3)}
    rows["layer1"][50] = NAN
    chart = heat(rows)
    ((left, right, _, _),) = boxes(chart)["heat heat-broken"]
    assert right - left == pytest.approx(4, abs=0.01)
    edges = [edge for found in boxes(chart).values() for box in found for edge in box[:2]]
    assert (left + right) / 2 == pytest.approx(min(edges) + 50.5 * (max(edges) - min(edges)) / 100, abs=0.05)
    assert boxes(chart)["heat heat-broken-line"] == [(left, right, *boxes(chart)["heat heat-broken"][0][2:])]
    assert [text.text for text in drawing(chart).texts if text.kind == "row end broken"] == ["layer1"]
    wide = boxes(heat({"a": [1.0, NAN, 1.0]}))["heat heat-broken"]
    assert wide[0][1] - wide[0][0] == pytest.approx(24)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({}, ["not measured"]),
        ({"a": []}, ["not measured"]),
        ({"a": [NAN, INF], "b": [-INF]}, ["not measured", "3 values, none of them finite"]),
    ],
)
def test_what_holds_nothing_finite_says_not_measured_and_that_it_is_not_for_want_of_values(rows, said):
    assert texts(heat(rows)) == said


def test_points_without_a_finite_x_have_no_place_and_are_counted():
    assert texts(Chart("heatmap", "t", "step", "y", (Series("a", ((NAN, 1.0),)),)))[0] == "not measured"
    chart = Chart("heatmap", "t", "step", "y", (Series("a", ((NAN, 1.0), (INF, 2.0), (1.0, 2.0))),))
    assert remarks(chart) == ["2 values have no finite step, and are not drawn"]


def test_a_row_without_values_says_so_and_the_others_are_drawn():
    chart = heat({"a": [1.0, 2.0], "b": [], "c": [NAN, NAN]})
    assert "not measured" in texts(chart)
    assert "no value" not in texts(chart)
    assert len(boxes(chart)["heat heat-broken"]) == 1


def test_where_each_cell_of_many_holds_a_nan_the_map_is_drawn_and_has_no_scale():
    chart = heat({"a": [NAN if x % 10 == 0 else 1.0 for x in range(1000)]})
    assert set(boxes(chart)) == {"heat heat-broken", "heat heat-broken-line"}
    assert "not measured" not in texts(chart)


def test_one_cell_is_a_map():
    chart = Chart("heatmap", "t", "step", "norm", (Series("w", ((3.5, 0.25),)),), log_y=True)
    assert boxes(chart) == {"heat heat-4": boxes(chart)["heat heat-4"]}
    assert texts(chart) == ["norm", "0.25", "w", "3.5", "step"]
    assert remarks(chart) == []


def test_a_random_map_stays_below_40_kib_and_a_smooth_one_far_below():
    chance = random.Random(0)
    noise = {f"layer{n}.weight": [10 ** chance.uniform(-6, 1) for _ in range(100)] for n in range(40)}
    smooth = {f"layer{n}.weight": [10 ** (-n / 10 - x / 50) for x in range(100)] for n in range(40)}
    assert 20_000 < len(svg(heat(noise)).encode()) < 40 * 1024
    assert len(svg(heat(smooth)).encode()) < 9_000


class Counted(tuple):
    """Points that count how often somebody goes through them."""

    passes = 0

    def __iter__(self):
        Counted.passes += 1
        return super().__iter__()


def test_a_thousand_rows_of_ten_thousand_steps_stay_small_and_are_gone_through_a_few_times_each():
    plain = Counted((float(x), 1.0 + x % 7) for x in range(10_000))
    broken = Counted((float(x), NAN if x == 777 else 1.0) for x in range(10_000))
    rows = tuple(Series(f"s{n}", broken if n in (500, 900) else plain) for n in range(1000))
    chart = Chart("heatmap", "t", "step", "norm", rows, log_y=True)
    Counted.passes = 0
    text = svg(chart)
    assert Counted.passes <= 2 * len(rows) + 10 * 40
    assert len(text) < 12_000
    assert text.count("<path") < 60
    assert "Not finite in: s500; s900." in text
    assert 'class="row end broken"' in text
    assert remarks(chart) == [
        "a cell with several values (a column is 100 values of step) shows the one farthest from zero, zero itself "
        "before that, and what is not finite before all",
        "960 more series are in the table, and not drawn",
    ]
    Counted.passes = 0
    table = as_table(chart)
    assert Counted.passes <= 5 * len(rows)
    assert len(table.rows) == 1000


def test_a_nan_in_a_row_that_has_no_room_is_told():
    chart = heat({f"s{n}": [NAN, 1.0] for n in range(43)})
    assert remarks(chart) == [
        "3 series that are not drawn hold values that are not finite",
        "3 more series are in the table, and not drawn",
    ]


def test_uneven_steps_are_told_and_labelled_with_their_own_numbers():
    chart = Chart("heatmap", "t", "step", "y", (Series("a", tuple((x, 1.0) for x in (1.5, 7.0, 90.25))),))
    assert remarks(chart) == ["the columns stand in the order of step, which is not evenly spaced"]
    assert {"1.5", "90.25"} <= set(texts(chart))


def test_the_table_has_a_line_a_series_over_all_its_values():
    chart = heat({"a": [1.0, 0.0, -2.0, NAN, 4.0, INF], "b": [], "c": [NAN], "d": [2.0, 3.0]})
    table = as_table(chart, most=2)
    assert table.columns == (
        *("series", "values", "smallest", "largest", "last", "zero or less", "not finite", "first at step"),
    )
    assert table.rows == (
        ("a", "6", "-2", "4", "not finite (inf)", "2", Cell("2", "bad"), Cell("3", "bad")),
        ("b", "not measured", "-", "-", "-", "-", "-", "-"),
        ("c", "1", "-", "-", "not finite (nan)", "0", Cell("1", "bad"), Cell("0", "bad")),
        ("d", "2", "2", "3", "3", "0", Cell("0"), "-"),
    )
    linear = as_table(heat({"a": [], "b": [0.0]}, log=False))
    assert "zero or less" not in linear.columns
    assert {len(row) for row in linear.rows} == {len(linear.columns)}


def test_the_map_is_an_image_with_a_description_and_the_same_bytes_each_time(hostile_text):
    chart = heat({"a": [1.0, NAN], hostile_text: [0.0, 2.0]})
    text = svg(chart, ident="c1")
    assert text == svg(chart, ident="c1")
    assert not re.search(r"style=|href=|url\(|<script|<!--|<img", text)
    root = ElementTree.fromstring(text)
    assert root.get("role") == "img"
    described = root.find("*[@id='c1-desc']").text
    assert described.startswith("caption. Drawn: a; ")
    assert described.endswith(" Not finite in: a.")
    assert root.find("*[@id='c1-title']").text == "title"


def test_all_is_inside_the_drawing():
    for rows in ({"a": [1.0]}, {"x" * 99: [1.0, NAN] * 60}, {f"layer.{n}": [0.0, 1.0, NAN] for n in range(70)}):
        chart = heat(rows)
        drawn = drawing(chart)
        for left, right, top, bottom in (box for found in boxes(chart).values() for box in found):
            assert -1 <= left < right <= WIDTH
            assert 0 <= top < bottom <= drawn.height
        assert all(0 <= text.x <= WIDTH and 0 < text.y < drawn.height for text in drawn.texts)
