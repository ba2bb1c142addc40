from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from bfo_diag.render.charts import as_table, cited, drawing, remarks, svg
from bfo_diag.render.strokes import WIDTH, Path
from bfo_diag.shown import Axis, Cell, Chart, Series

INF, NAN = math.inf, math.nan
PRESET = Axis("turnover.preset", ((0.0, "none"), (1.0, "fade"), (2.0, "growth")), 0.0, 2.0)
RATE = Axis("optimizer.lr", (), 1e-4, 1e-1, log=True)
LOSS = Axis("val_loss", (), 1.0, 3.0)


def arm(name: str, *places: float, tone: str = "") -> Series:
    return Series(name, tuple((float(index), place) for index, place in enumerate(places)), tone=tone)


def sweep(*series: Series, axes: tuple[Axis, ...] = (PRESET, RATE, LOSS)) -> Chart:
    return Chart("parallel", "Arms", "factor", "val_loss", series, "caption", axes=axes)


THREE = (arm("best", 1.0, 1e-2, 1.0), arm("base", 0.0, 1e-1, 2.0, tone="control"), arm("worst", 2.0, 1e-4, 3.0))


def lines(chart: Chart) -> dict[str, Path]:
    return {path.title.partition(":")[0]: path for path in drawing(chart).paths if path.title}


def places(path: Path) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", path.d)]


def texts(chart: Chart) -> list[str]:
    return [text.text for text in drawing(chart).texts]


def test_each_arm_is_a_line_over_all_axes_and_greater_positions_lie_higher():
    drawn = lines(sweep(*THREE))
    posts = [float(re.match(r"M([\d.]+)", path.d)[1]) for path in drawing(sweep(*THREE)).paths if path.kind == "post"][
        :3
    ]
    for path in drawn.values():
        assert [x for x, _ in places(path)] == posts
    best, base, worst = (places(drawn[name]) for name in ("best", "base", "worst"))
    assert worst[0][1] < best[0][1] < base[0][1]
    assert base[1][1] < best[1][1] < worst[1][1]
    assert worst[1][1] - best[1][1] == pytest.approx(2 * (best[1][1] - base[1][1]), abs=0.2)  # two decades, and one
    assert worst[2][1] < base[2][1] < best[2][1]


def test_who_points_at_an_arm_reads_its_name_and_figure():
    root = ElementTree.fromstring(svg(sweep(*THREE, arm("lost", 0.0, 1e-3))))
    assert [path.findtext("title") for path in root.iter("path") if path.find("title") is not None] == [
        "lost: no figure", "worst: 3", "best: 1", "base: 2",
    ]  # fmt: skip


def test_the_best_are_strongest_the_control_stands_out_and_failures_are_told_apart():
    chart = sweep(*THREE, arm("lost", 0.0, 1e-3))
    drawn = lines(chart)
    assert {name: path.kind for name, path in drawn.items()} == {
        "best": "arm arm-0", "base": "arm control", "worst": "arm arm-3", "lost": "arm failed",
    }  # fmt: skip
    kinds = [path.kind for path in drawing(chart).paths]
    assert kinds.index("arm failed") < kinds.index("arm arm-3") < kinds.index("arm arm-0") < kinds.index("rim")
    assert kinds.index("rim") < kinds.index("arm control") < kinds.index("marker control")
    assert drawing(chart).paths[kinds.index("marker control")].d.count("M") == 3
    assert len(places(drawn["lost"])) == 2
    assert {"best", "worst", "control", "no figure"} <= set(texts(chart))
    labels = {text.text: text.kind for text in drawing(chart).texts if text.kind.startswith("label")}
    assert labels == {"best": "label", "base": "label control"}


def test_the_legend_tells_only_what_occurs():
    assert {"control", "no figure", "worst"}.isdisjoint(texts(sweep(THREE[0])))
    assert "control" in texts(sweep(*THREE))
    assert "no figure" not in texts(sweep(*THREE))


def test_a_broken_line_has_a_gap_and_a_lone_place_a_dash():
    gap = sweep(arm("gap", 1.0, NAN, 2.0), THREE[1])
    (path,) = [path for name, path in lines(gap).items() if name == "gap"]
    assert re.fullmatch(r"M\S+ [\d.]+h8M\S+ [\d.]+h8", path.d)
    alone = sweep(arm("a", 1.5), axes=(LOSS,))
    assert re.fullmatch(r"M\S+ [\d.]+h8", lines(alone)["a"].d)


def test_arms_of_one_level_lie_side_by_side_and_on_a_continuous_axis_exactly():
    chart = sweep(*(arm(f"a{n}", 1.0, 1e-2, 1.0 + n / 10) for n in range(9)))
    drawn = [places(lines(chart)[f"a{n}"]) for n in range(9)]
    levels = [line[0][1] for line in drawn]
    assert all(1 < b - a < 3 for a, b in itertools.pairwise(levels))
    assert levels[-1] - levels[0] <= 16
    assert len({line[1][1] for line in drawn}) == 1


def test_levels_and_names_of_axes_are_written_at_them():
    shown = texts(sweep(*THREE))
    for text in (
        "turnover.",
        "preset",
        "none",
        "fade",
        "growth",
        "optimizer.",
        "lr",
        "0.0001",
        "0.1",
        "val_loss",
        "2",
    ):
        assert text in shown
    levels = Axis("a", tuple((float(n), f"level {n}") for n in range(40)), 0.0, 39.0)
    heights = sorted(
        text.y for text in drawing(sweep(arm("a", 3.0, 1.0), axes=(levels, LOSS))).texts if text.kind == "level"
    )
    assert len(heights) > 10
    assert all(b - a >= 11 for a, b in itertools.pairwise(heights))
    one = texts(sweep(arm("a", 1.901), arm("b", 1.999), axes=(replace(LOSS, low=1.901, high=1.999),)))
    assert {"1.9", "2"} <= set(one)  # one round figure alone would be no scale: the ends then
    close = texts(sweep(arm("a", 1.0001), arm("b", 1.0002), axes=(replace(LOSS, low=1.0001, high=1.0002),)))
    assert {"1.00010", "1.00020"} <= set(close)


def test_a_position_beyond_the_ends_of_its_axis_widens_it():
    drawn = lines(sweep(arm("a", 0.0, 1e-2, 1.0), arm("b", 0.0, 1e-2, 9.0)))
    a, b = (places(drawn[name])[2][1] for name in "ab")
    assert 54 <= b < a <= 254


@pytest.mark.parametrize(
    ("arms", "axes"),
    [((), ()), ((), (LOSS,)), ((arm("a", 1.0),), ()), ((arm("a", NAN),), (LOSS,)), ((arm("a"),), (LOSS,))],
)
def test_what_has_no_place_says_not_measured(arms, axes):
    assert texts(sweep(*arms, axes=axes)) == ["not measured"]
    assert as_table(sweep(*arms, axes=axes)).columns[0] == "arm"


@pytest.mark.parametrize("log", [False, True])
def test_any_values_are_drawn_inside_the_drawing(log):
    extremes = (0.0, -1.0, 1.0, 1e-300, -1e300, 1e300, INF, -INF, NAN)
    for a, b in itertools.product(extremes, extremes):
        axes = (Axis("x", ((a, "a"), (b, "b")), a, b, log), Axis("y", (), b, a, log))
        drawn = drawing(sweep(arm("1", a, b), arm("2", b, a), axes=axes))
        found = [float(value) for path in drawn.paths for value in re.findall(r"-?\d+(?:\.\d+)?", path.d)]
        found += [value for text in drawn.texts for value in (text.x, text.y)]
        assert all(math.isfinite(value) and -10 <= value <= WIDTH + 5 for value in found)


def test_twenty_axes_make_a_wide_drawing_and_five_hundred_arms_one_of_few_bytes():
    axes = tuple(Axis(f"table.factor_{n}", (), 0.0, 1.0) for n in range(19))
    chart = sweep(*(arm(f"arm {n}", *((7 * n * i % 11) / 10 for i in range(19)), n / 500) for n in range(500)),
                  axes=(*axes, LOSS))  # fmt: skip
    drawn = drawing(chart)
    assert drawn.wide
    assert len(svg(chart)) < 50_000
    root = ElementTree.fromstring(svg(chart))
    assert (root.get("class"), root.get("width")) == ("chart wide", root.get("viewBox").split()[2])
    names = sorted((text.x, len(text.text)) for text in drawn.texts if text.kind == "axis-name")
    assert len(names) == 20
    assert all(b[0] - a[0] > 7 * a[1] for a, b in itertools.pairwise(names))
    assert remarks(chart) == [
        "401 more arms are in the table, and not drawn: the best ones are, and some of all others"
    ]
    assert len(as_table(chart).rows) == 500
    assert not drawing(sweep(THREE[0], axes=(PRESET, LOSS))).wide
    assert 'width="' not in svg(sweep(THREE[0], axes=(PRESET, LOSS)))


def test_the_table_has_the_levels_in_words_and_a_line_for_each_arm():
    table = as_table(sweep(*THREE, arm("lost", 0.0, 3e-3), arm("worse", 0.0, 3e-3, INF)))
    assert table.columns == ("arm", "turnover.preset", "optimizer.lr", "val_loss")
    assert table.rows == (
        ("best", "fade", "0.01", "1"),
        ("base (control)", "none", "0.1", "2"),
        ("worst", "growth", "0.0001", "3"),
        ("lost", "none", "0.003", Cell("not measured", "muted")),
        ("worse", "none", "0.003", Cell("not finite (inf)", "bad")),
    )
    assert table.caption == "best first by val_loss"


def test_words_remarks_and_log_lines():
    chart = sweep(*THREE, Series("void", ()))
    assert "Drawn: best; base (control); worst." in svg(chart)
    assert remarks(chart) == ["1 of 4 arms have no place on any axis, and are not drawn"]
    cited_arms = sweep(*(Series(f"a{n}", ((2.0, 1.0),), evidence=(n,)) for n in range(40)))
    assert len(cited(cited_arms)) == 12


def test_names_of_arms_that_end_together_do_not_cover_each_other():
    chart = sweep(arm("best", 0.0, 1e-2, 1.0), arm("base", 0.0, 1e-2, 1.0001, tone="control"), THREE[2])
    a, b = sorted(text.y for text in drawing(chart).texts if text.kind.startswith("label"))
    assert b - a >= 13.9
