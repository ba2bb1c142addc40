"""What of a sweep is drawn, and with which lines as its proof."""

from __future__ import annotations

import math

import pytest

from bfo_diag.probes.sweep.charts import charts
from bfo_diag.render.charts import as_table, svg
from bfo_diag.shown import Axis

CONTROL, BETTER, TIE = (2.00, 2.50, 2.20), (1.90, 2.41, 2.09), (1.95, 2.61, 2.09)


def chart(run, kind, title=""):
    return next(found for found in charts(run) if found.kind == kind and found.title.startswith(title))


def kinds(run):
    return [found.kind for found in charts(run)]


def event(step, kind, serials, parents, slots, layer="0"):
    told = {"step": step, "layer": layer, "kind": kind, "neurons": serials, "parents": parents, "slots": slots}
    return told | {"width": 4, "why": "", "loss_before": None, "loss_after": None}


@pytest.fixture
def turnover(record, lines):
    events = [event(10, "death", [3], [[]], [3]), event(10, "birth", [4], [[1]], [3])]
    events.append(event(20, "death", [0], [[]], [0], layer="2"))
    rows = []
    for number, (preset, lr, figures) in enumerate((("none", 0.1, CONTROL), ("fold", 1, BETTER), ("fold", 0.1, TIE))):
        rows.append(lines.arm(number, {"preset": preset, "lr": lr}))
        own = {"events": events if number else []}
        rows += [lines.trial(number, seed, value, **own) for seed, value in enumerate(figures)]
    rows += [lines.arm(3, {"preset": "none", "lr": 0.5}, "failed"), lines.trial(3, 0, None, status="failed", why="no")]
    factors = [{"name": "preset", "values": ["fold", "none"]}]
    factors.append({"name": "lr", "values": None, "low": 0.01, "high": 1, "log": True})
    return record(lines.spec(*factors), *rows)


def test_every_figure_can_be_drawn_and_read(turnover):
    found = list(charts(turnover))
    assert [one.kind for one in found] == ["intervals", "lines", "intervals", "parallel", "lineage"]
    for one in found:
        assert svg(one).startswith("<svg")
        assert as_table(one).rows


def test_differences_stand_beside_0_in_the_order_of_the_leaderboard(turnover):
    found = chart(turnover, "intervals", "Difference")
    assert (found.reference, [series.name for series in found.series]) == (
        0.0,
        ["preset=fold, lr=1", "preset=fold, lr=0.1"],
    )
    first = found.series[0]
    half = 0.01 * 4.302652729911275 / math.sqrt(3)
    assert first.points[0][1] == pytest.approx(-0.1)
    assert first.intervals[0] == pytest.approx((-0.1 - half, -0.1 + half))
    assert first.evidence == (9, 10, 11)
    assert "below 0 is better" in found.caption


def test_curves_begin_with_the_control(turnover):
    found = chart(turnover, "lines")
    assert [(series.name, series.tone) for series in found.series] == [
        ("preset=none, lr=0.1", "control"),
        ("preset=fold, lr=1", ""),
        ("preset=fold, lr=0.1", ""),
    ]
    assert found.series[0].points == ((1.0, pytest.approx(2 * 6.7 / 3)), (2.0, pytest.approx(6.7 / 3)))


def test_an_arm_that_went_astray_does_not_press_the_others_together(sweep_of):
    def logs(*arms):
        run = sweep_of(CONTROL, *arms)
        return chart(run, "lines").log_y, chart(run, "parallel").axes[-1].log

    assert logs((2e3, 3e3, 1e3)) == (True, True)
    assert logs((20.0, 30.0, 40.0)) == (False, False)
    assert logs((0.0, 0.0, 0.0)) == (False, False)


def test_effects_stand_beside_0(turnover):
    found = chart(turnover, "intervals", "Effects")
    names = ["preset: fold", "preset: none", "lr: 0.1", "lr: 1"]
    assert (found.reference, [series.name for series in found.series]) == (0.0, names)
    assert [bool(series.intervals) for series in found.series] == [True, False, True, False]


def test_parallel_coordinates_have_an_axis_a_factor_and_the_metric_last(turnover):
    found = chart(turnover, "parallel")
    best, worst = (sum(figures) / 3 for figures in (BETTER, CONTROL))
    assert found.axes == (
        Axis("preset", ((0.0, "fold"), (1.0, "none")), 0.0, 1.0),
        Axis("lr", (), 0.01, 1.0, log=True),
        Axis("val_loss", (), pytest.approx(best), pytest.approx(worst)),
    )
    assert [(series.name, series.points, series.tone) for series in found.series] == [
        ("preset=fold, lr=1", ((0.0, 0.0), (1.0, 1.0), (2.0, pytest.approx(best))), ""),
        ("preset=fold, lr=0.1", ((0.0, 0.0), (1.0, 0.1), (2.0, pytest.approx(sum(TIE) / 3))), ""),
        ("preset=none, lr=0.1", ((0.0, 1.0), (1.0, 0.1), (2.0, pytest.approx(worst))), "control"),
        ("preset=none, lr=0.5", ((0.0, 1.0), (1.0, 0.5)), ""),
    ]


def test_a_level_that_only_the_control_has_gets_a_place(record, lines):
    rows = []
    for number, level in enumerate((None, {"name": "SGD", "lr": 1}, {"name": "SGD", "lr": 2})):
        rows.append(lines.arm(number, {"optimizer": level}))
        rows += [lines.trial(number, seed, value) for seed, value in enumerate(CONTROL)]
    factor = {"name": "optimizer", "values": [{"name": "SGD", "lr": 1.0}, {"name": "SGD", "lr": 2}]}
    found = chart(record(lines.spec(factor), *rows), "parallel")
    assert found.axes[0].ticks == ((0.0, "SGD (lr 1)"), (1.0, "SGD (lr 2)"), (2.0, "not set"))
    assert [series.points[0][1] for series in found.series] == [2.0, 0.0, 1.0]


def test_the_lineage_is_the_best_arms_with_events_at_its_first_seed(turnover):
    found = chart(turnover, "lineage")
    assert found.title == "Lineage: preset=fold, lr=1, seed 0, layer 0"
    assert found.caption.endswith("; 1 more layer is in the log")
    assert [(series.name, series.points, series.parents, series.tone) for series in found.series] == [
        ("0", ((0.0, 0.0), (20.0, 0.0)), (), "alive"),
        ("1", ((0.0, 1.0), (20.0, 1.0)), (), "alive"),
        ("2", ((0.0, 2.0), (20.0, 2.0)), (), "alive"),
        ("3", ((0.0, 3.0), (10.0, 3.0)), (), ""),
        ("4", ((10.0, 3.0), (20.0, 3.0)), ("1",), "alive"),
    ]
    assert {series.evidence for series in found.series} == {(9,)}


def test_what_is_not_there_is_not_drawn(sweep_of, record, lines):
    assert kinds(sweep_of(CONTROL)) == ["lines", "parallel"]
    assert kinds(sweep_of((None,) * 3, (None,) * 3)) == []
    assert kinds(record(lines.spec(), lines.arm(0, {}), *(lines.trial(0, s, v) for s, v in enumerate(CONTROL)))) == [
        "lines"
    ]


def test_an_arm_that_failed_at_a_seed_has_no_place_on_the_axis_of_the_metric(sweep_of):
    found = chart(sweep_of(CONTROL, (1.0, None, 1.1)), "parallel")
    assert [(series.name, len(series.points)) for series in found.series] == [("preset=p0", 2), ("preset=p1", 1)]
