"""What a record says of neurons that turned over, from a record alone."""

from __future__ import annotations

import pytest

from bfo_diag import report
from bfo_diag.probes import load_all
from bfo_diag.records import CaseRecord, Observation, Outcome, Run, RunHeader

PROBE = load_all()["run"]


def event(step, kind, neurons, *, fold=1, layer="0", parents=None, slots=None, width=3, before=None, after=None):
    values = {"fold": fold, "step": step, "layer": layer, "kind": kind, "neurons": list(neurons)}
    values |= {"parents": parents or [[] for _ in neurons], "why": f"why of step {step}", "width": width}
    values |= {"slots": list(slots or neurons), "loss_before": before, "loss_after": after}
    return Observation("turnover", values)


def summary(fold=1, events=2, births=1, deaths=1, widths=None, jump=(None, None)):
    layer = {"first": 3, "last": 3, "births": births, "deaths": deaths, "founders_alive": 2}
    values = {"fold": fold, "preset": "functional", "steps": 10, "events": events, "births": births, "deaths": deaths}
    values |= {"widths": widths or {"0": layer}, "founders": 3, "founders_alive": 2, "survival": 2 / 3}
    values |= {"diversity": {"founders": 2, "ancestors": 3, "effective": 3.0}, "jumps": 1, "audits": []}
    values |= {"jump_mean": jump[0], "jump_max": jump[1], "lineage": {"widths": {"0": 3}, "nodes": [], "left_out": 0}}
    return Observation("turnover_summary", values)


def run_of(*observations, preset="functional"):
    header = RunHeader("run", "run", (), "2026-01-01T00:00:00Z", CaseRecord("0", "case", target="r.toml"))
    recipe = {"training": {"folds": 1}, "turnover": {"preset": preset, "every": 4}}
    first = Observation("recipe", {"optimizer": "Adam", "recipe": recipe})
    loss = {"train_loss": 1.0, "val_loss": 0.9, "val_accuracy": 0.5, "lr": 0.1, "epoch_s": 0.5}
    epoch = Observation("epoch", {"fold": 1, "epoch": 1, "steps": 10, **loss})
    end = {"fold": 1, "epochs": 1, "steps": 10, "best_epoch": 1, "why": "epochs", "diverged": None, "weights": None}
    return Run(header, (first, *observations, epoch, Observation("fold_end", end)), Outcome.COMPLETE)


def texts(row):
    return [getattr(cell, "text", cell) for cell in row]


def test_a_fold_is_told_by_its_deaths_births_widths_and_jumps():
    widths = {
        "a": {"first": 3, "last": 3, "births": 2, "deaths": 2, "founders_alive": 1},
        "b": {"first": 4, "last": 6, "births": 2, "deaths": 0, "founders_alive": 4},
    }
    run = run_of(summary(events=4, births=4, deaths=2, widths=widths, jump=(0.0123, 0.5)))
    table = list(PROBE.tables(run))[1]
    assert table.title == "Turnover: functional"
    assert texts(table.rows[0]) == ["1", "4", "4", "2", "7 → 9", "2 of 3", "0.012 / 0.5 nats"]
    assert table.rows[0][1].evidence == (2,)
    (layers,) = PROBE.details(run)
    assert texts(layers.rows[1]) == ["1", "b", "2", "0", "4", "6", "4 of 4"]
    assert PROBE.verdict(run, ()).endswith("accuracy 50.00%. Turnover (functional): 4 births, 2 deaths.")
    (figures,) = PROBE.summarise(run)["turnover"]
    assert (figures["births"], figures["jump_max"]) == (4, 0.5)
    assert "lineage" not in figures


def test_what_was_not_measured_says_so():
    table = list(PROBE.tables(run_of(summary())))[1]
    assert texts(table.rows[0])[-1] == "not measured: turnover.measure is off"


def test_each_event_stands_on_the_page_once_however_often_it_was_told():
    lines = (
        event(4, "death", [0], before=2.0),
        event(4, "birth", [3], slots=[0], parents=[[1]], before=2.0, after=2.125),
    )
    many = event(8, "death", range(1, 12), layer="1")
    run = run_of(*lines, *lines, many, summary())
    table = list(PROBE.details(run))[-1]
    assert [texts(row) for row in table.rows] == [
        ["1", "4", "0", "death", "0", "why of step 4", "3", "2", "-"],
        ["1", "4", "0", "birth", "3", "why of step 4", "3", "2", "2.125"],
        ["1", "8", "1", "death", "1, 2, 3, 4, 5, 6, 7, 8 and 3 more", "why of step 8", "3", "-", "-"],
    ]
    assert table.rows[0][1].evidence == (4,)
    crowd = run_of(*(event(step, "death", [step]) for step in range(250)))
    table = list(PROBE.details(crowd))[-1]
    assert len(table.rows) == 200
    assert table.caption.endswith("; 50 more are in the log")


def test_the_lineage_of_the_layer_with_most_events_is_drawn():
    run = run_of(
        event(2, "death", [1], layer="quiet"),
        event(4, "death", [0]),
        event(4, "birth", [3], slots=[0], parents=[[1, 2]]),
        event(4, "birth", [3], fold=2),
        summary(),
    )
    chart = list(PROBE.charts(run))[-1]
    assert (chart.kind, chart.x_axis, chart.y_axis) == ("lineage", "step", "neuron")
    assert "0, fold 1" in chart.caption
    assert "of 2 with the most events" in chart.caption
    assert [(one.name, one.points, one.parents, one.tone, one.evidence) for one in chart.series] == [
        ("0", ((0.0, 0.0), (4.0, 0.0)), (), "", (3,)),
        ("1", ((0.0, 1.0), (10.0, 1.0)), (), "alive", ()),
        ("2", ((0.0, 2.0), (10.0, 2.0)), (), "alive", ()),
        ("3", ((4.0, 0.0), (10.0, 0.0)), ("1", "2"), "alive", (4,)),
    ]


@pytest.mark.parametrize(("events", "found"), [((0,), True), ((0, 0), True), ((0, 2), False)])
def test_a_turnover_that_never_fired_is_a_finding(events, found):
    run = run_of(*(summary(fold, count, 0, 0) for fold, count in enumerate(events, 1)))
    findings = report.findings(run, PROBE)
    assert [finding.code for finding in findings] == ["RUN-TURNOVER-NEVER-FIRED"] * found
    if found:
        message = 'turnover.preset = "functional", and not one event in 10 steps of a fold: turnover.every is 4'
        assert findings[0].message == message
        assert findings[0].evidence == tuple(range(2, 2 + len(events)))


def test_a_training_without_turnover_says_nothing_of_it():
    run = run_of(preset="none")
    assert len(list(PROBE.tables(run))) == 1
    assert not list(PROBE.details(run))
    assert [chart.kind for chart in PROBE.charts(run)] == ["lines"]
    assert PROBE.verdict(run, ()) == "Validation loss 0.9, accuracy 50.00%."
    assert PROBE.summarise(run)["turnover"] == []
    assert not report.findings(run, PROBE)
