from __future__ import annotations

import itertools
import math

import pytest

from bfo_diag.render.charts import drawing, remarks
from bfo_diag.render.strokes import WIDTH
from bfo_diag.shown import Chart, Series


def differences(count: int, reference: float | None = 0.0) -> Chart:
    series = tuple(
        Series(f"functional, lr 0.{n:02}", ((0.0, n / 100 - 0.1),), ((n / 100 - 0.12, n / 100 - 0.08),))
        for n in range(count)
    )
    return Chart("intervals", "t", "arm", "difference", series, reference=reference)


@pytest.mark.parametrize("count", [9, 40])
def test_many_rows_have_name_interval_and_figure_beside_each_other(count):
    drawn = drawing(differences(count))
    names = [text for text in drawn.texts if text.kind == "name"]
    figures = [text for text in drawn.texts if text.kind == "value end"]
    assert [text.y for text in names] == [text.y for text in figures]
    assert all(18 <= b.y - a.y <= 20 for a, b in itertools.pairwise(names))
    assert len({text.text for text in names}) == count
    assert figures[0].text == "-0.1"  # the interval is in the drawing, and in the table
    whiskers = [path.d for path in drawn.paths if path.kind.startswith("whisker")]
    assert len(whiskers) == count
    left = min(float(d[1:].split()[0]) for d in whiskers)
    right = max(float(d.rpartition("H")[2]) for d in whiskers)
    assert max(text.x + 6 * len(text.text) for text in names) < left < right < WIDTH - 6 * len("-0.1") - 14
    assert drawn.height < 72 + 20 * count


def test_few_rows_have_the_whole_figure_above():
    texts = [text.text for text in drawing(differences(8)).texts]
    assert "-0.1 [-0.12, -0.08]" in texts


def test_an_interval_that_holds_the_reference_is_told_from_one_that_does_not():
    kinds = [path.kind for path in drawing(differences(20)).paths]
    ties = sum(n / 100 - 0.12 <= 0 <= n / 100 - 0.08 for n in range(20))
    assert (kinds.count("marker tie"), kinds.count("whisker tie")) == (ties, ties)
    assert kinds.count("marker") == kinds.count("whisker") == 20 - ties
    alone = [path.kind for path in drawing(differences(20, reference=None)).paths]
    assert "marker tie" not in alone
    endless = Series("a", ((0.0, 1.0),), ((-math.inf, math.inf),))
    kinds = [path.kind for path in drawing(Chart("intervals", "t", "x", "y", (endless,), reference=0.0)).paths]
    assert "marker tie" in kinds
    assert not any(kind.startswith("whisker") for kind in kinds)


def test_rows_without_a_figure_say_so_and_those_without_room_are_counted():
    chart = differences(45)
    broken = Chart("intervals", "t", "x", "y", (Series("a", ()), *chart.series))
    assert "not measured" in [text.text for text in drawing(broken).texts]
    assert remarks(broken) == ["6 more series are in the table, and not drawn"]


def test_figures_of_the_axis_do_not_touch_each_other():
    series = tuple(Series(f"a long name of an arm {n}", ((0.0, 1e5 + n),)) for n in range(9))
    drawn = drawing(Chart("intervals", "t", "x", "y", series))
    ticks = [(text.x, len(text.text)) for text in drawn.texts if text.kind == "tick middle"]
    assert all(b[0] - a[0] > 3 * (a[1] + b[1]) for a, b in itertools.pairwise(ticks))
