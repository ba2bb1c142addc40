from __future__ import annotations

import math
from itertools import pairwise

from bfo_diag.render.arms import MOST_ARMS, MOST_AXES, SHADES, arms, named_axes, shown
from bfo_diag.shown import Axis, Chart, Series

NAN = math.nan


def sweep(figures: list[float | None], axes: int = 2) -> Chart:
    """Return arms with a place on all axes; None for the figure that one lacks."""
    series = (
        Series(str(n), tuple((float(i), 0.5) for i in range(axes - 1)) + (() if y is None else ((axes - 1.0, y),)))
        for n, y in enumerate(figures)
    )
    return Chart("parallel", "t", "factor", "loss", tuple(series), axes=tuple(Axis(str(n)) for n in range(axes)))


def test_the_shade_is_by_the_order_of_the_arms_with_a_figure():
    found = arms(sweep([float(n) for n in range(10)] + [None]))
    assert [arm.shade for arm in found[:10]] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert [arm.measured for arm in found] == [True] * 10 + [False]
    assert arms(sweep([1.0]))[0].shade == 0
    assert [arm.shade for arm in arms(sweep([1.0, 2.0]))] == [0, SHADES // 2]
    assert [arm.metric for arm in arms(sweep([3.0, None]))] == [3.0, None]


def test_what_is_not_finite_or_on_no_axis_has_no_place():
    axes = (Axis("a", log=True, low=1.0, high=2.0), Axis("b"), Axis("loss"))
    points = ((0.0, -1.0), (1.0, NAN), (2.0, math.inf), (3.0, 1.0), (0.5, 1.0), (-1.0, 1.0), (NAN, 1.0))
    chart = Chart("parallel", "t", "x", "y", (Series("s", points), Series("t", ((0.0, 2.0), (1.0, -1.0)))), axes=axes)
    assert [arm.places for arm in arms(chart)] == [{}, {0: 2.0, 1: -1.0}]
    assert [arm.name for arm in shown(arms(chart))] == ["t"]
    assert arms(Chart("parallel", "t", "x", "y", (Series("s", ((-1.0, 1.0),)),)))[0].places == {}


def test_of_too_many_arms_the_best_the_control_the_worst_and_some_of_all_are_drawn():
    chart = sweep([float(n) for n in range(500)])
    control = Series("333", chart.series[333].points, tone="control")
    found = arms(Chart("parallel", "t", "x", "y", (*chart.series[:333], control, *chart.series[334:]), axes=chart.axes))
    drawn = [int(arm.name) for arm in shown(found)]
    assert len(drawn) in (MOST_ARMS - 1, MOST_ARMS)
    assert drawn == sorted(drawn)
    assert drawn[:12] == list(range(12))
    assert {333, 499} <= set(drawn)
    assert max(b - a for a, b in pairwise(drawn)) < 10
    assert len(shown(arms(sweep([0.0] * MOST_ARMS)))) == MOST_ARMS


def test_of_too_many_axes_the_metric_stays_the_last():
    chart = sweep([1.0, 2.0], axes=30)
    assert [axis.name for axis in named_axes(chart)] == [*map(str, range(MOST_AXES - 1)), "29"]
    best = arms(chart)[0]
    assert best.metric == best.places[MOST_AXES - 1] == 1.0
    assert len(best.places) == MOST_AXES
