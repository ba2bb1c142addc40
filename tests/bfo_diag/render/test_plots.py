from __future__ import annotations

import math

from bfo_diag.render.charts import drawing, remarks, svg
from bfo_diag.render.plots import MOST_OF_GROUPS, MOST_SERIES, groups
from bfo_diag.shown import Chart, Series


def curves(arms: int, seeds: int, *, control: int | None = None, points: int = 20) -> Chart:
    """Return curves that end at arm + seed / 10."""
    series = tuple(
        Series(
            f"arm {arm}, seed {seed}",
            tuple((float(x), arm + seed / 10 + 5 / (x + 1) - 5 / points) for x in range(points)),
            group=f"arm {arm}",
            tone="control" if arm == control else "",
        )
        for arm in range(arms)
        for seed in range(seeds)
    )
    return Chart("lines", "t", "epoch", "loss", series)


def test_series_of_a_group_share_a_look_and_a_label():
    drawn = drawing(curves(10, 3))
    lines = [path for path in drawn.paths if path.kind.startswith("line")]
    assert [path.look for path in lines] == [arm for arm in range(10) for _ in range(3)]
    labels = [(text.text, text.look) for text in drawn.texts if text.kind == "label"]
    assert sorted(labels) == [(f"arm {arm}", arm) for arm in range(10)]
    assert "Drawn: arm 0 (3 lines); arm 1 (3 lines)" in svg(curves(10, 3))
    assert len(svg(curves(10, 3))) < 16_000


def test_the_line_that_ends_in_the_middle_is_strong_and_named_and_the_chart_says_so():
    chart = curves(2, 3)
    lines = [path.kind for path in drawing(chart).paths if path.kind.startswith("line")]
    assert lines == ["line faint", "line", "line faint"] * 2
    assert remarks(chart) == ["of lines with one label, the one that ends in the middle is strong"]
    broken = Chart("lines", "t", "x", "y", (
        Series("a", ((0.0, 1.0), (1.0, math.nan)), group="g"), Series("b", ((0.0, math.nan),), group="g"),
    ))  # fmt: skip
    assert groups(broken)[0].middle(broken) == (0, 0.0, 1.0)


def test_the_control_is_drawn_over_the_others_and_never_left_out():
    chart = curves(20, 2, control=17)
    found = groups(chart)
    assert [group.name for group in found] == [*(f"arm {n}" for n in range(MOST_SERIES - 1)), "arm 17"]
    kinds = [path.kind for path in drawing(chart).paths if path.kind.startswith("line")]
    assert sorted(kinds[-2:]) == ["line control", "line control faint"]
    assert sum("control" in kind for kind in kinds) == 2
    assert "16 more series are in the table, and not drawn" in remarks(chart)
    early = drawing(curves(3, 1, control=0))
    assert [path.kind for path in early.paths if path.kind.startswith("line")] == ["line", "line", "line control"]


def test_many_seeds_and_many_points_stay_within_few_bytes():
    assert sum(len(group.series) for group in groups(curves(12, 20))) == MOST_OF_GROUPS
    assert len(svg(curves(12, 20, points=2000))) < 100_000


def test_every_look_of_the_lines_of_a_chart_is_another_in_the_style_sheet():
    from bfo_diag.render.templates import source

    sheet = str(source("chart.css"))
    looks = []
    for look in range(MOST_SERIES):
        ink = next(line for line in sheet.splitlines() if line.startswith(f".chart .look-{look} {{"))
        dash = [line for line in sheet.splitlines() if line.startswith(f".chart .line.look-{look} {{")]
        looks.append((ink.partition("{")[2], dash[0].partition("{")[2].replace("none", "") if dash else ""))
    assert len(set(looks)) == MOST_SERIES
