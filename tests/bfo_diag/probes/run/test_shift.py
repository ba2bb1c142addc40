"""What a record says of a shift A -> B -> A, from a record alone."""

from __future__ import annotations

import pytest

from bfo_diag.probes import load_all
from bfo_diag.records import CaseRecord, Observation, Outcome, Run, RunHeader

PROBE = load_all()["run"]


def shift(epoch, phase, on_a, on_b):
    values = {"fold": 1, "phase": phase, "data": "ABA"[phase - 1], "epoch": epoch, "steps": 6 * epoch}
    values |= {"val_loss_a": on_a, "val_accuracy_a": 0.5, "val_loss_b": on_b, "val_accuracy_b": 0.25}
    return Observation("shift", values)


def summary(**changed):
    values = {"fold": 1, "kind": "permute", "epochs": [2, 1, 1], "check_every": 5, "forgetting": 1.5}
    values |= {"plasticity": -0.25, "a_learned": 0.5, "a_after_b": 2.0, "b_learned": 0.75, "b_fresh": 1.0}
    return Observation("shift_summary", {**values, "a_at_end": 0.4, "reconsolidation_steps": 15, **changed})


PHASES = (shift(1, 1, 1.0, 2.5), shift(2, 1, 0.5, 2.6), shift(3, 2, 2.0, 0.75), shift(4, 3, 0.4, 0.9))


def run_of(*observations):
    header = RunHeader("run", "run", (), "2026-01-01T00:00:00Z", CaseRecord("0", "case", target="r.toml"))
    recipe = Observation("recipe", {"optimizer": "Adam", "recipe": {"training": {"folds": 1}}})
    loss = {"train_loss": 1.0, "val_loss": 0.9, "val_accuracy": 0.5, "lr": 0.1, "epoch_s": 0.5}
    epoch = Observation("epoch", {"fold": 1, "epoch": 1, "steps": 6, **loss})
    end = {"fold": 1, "epochs": 1, "steps": 6, "best_epoch": 1, "why": "epochs", "diverged": None, "weights": None}
    return Run(header, (recipe, epoch, *observations, Observation("fold_end", end)), Outcome.COMPLETE)


def texts(row):
    return [getattr(cell, "text", cell) for cell in row]


def test_each_phase_is_told_by_its_last_epoch_and_the_shift_by_three_figures():
    run = run_of(*PHASES, summary())
    _, phases, figures = PROBE.tables(run)
    assert [texts(row) for row in phases.rows] == [
        ["1", "A", "2", "12", "0.5", "2.6", "50.00% / 25.00%"],
        ["2", "B", "3", "18", "2", "0.75", "50.00% / 25.00%"],
        ["3", "A", "4", "24", "0.4", "0.9", "50.00% / 25.00%"],
    ]
    assert phases.rows[1][4].evidence == (5,)
    assert [texts(row)[:2] for row in figures.rows] == [
        ["forgetting", "+1.5 nats"],
        ["plasticity", "-0.25 nats"],
        ["reconsolidation", "15 steps"],
    ]
    assert [texts(row)[2].rpartition(": ")[2] for row in figures.rows[:2]] == ["2 - 0.5", "0.75 - 1"]
    assert figures.rows[0][1].evidence == (7,)
    assert figures.caption == "B: the same in another order"
    assert PROBE.verdict(run, ()).endswith(" Shift: forgetting +1.5, plasticity -0.25, A back after: 15 steps.")
    assert PROBE.summarise(run)["shift"]["reconsolidation_steps"] == 15


@pytest.mark.parametrize(("at_end", "said"), [(0.8, "never"), (None, "not measured: it did not come so far")])
def test_a_that_did_not_come_back_is_told_from_a_training_that_did_not_get_there(at_end, said):
    run = run_of(*PHASES, summary(reconsolidation_steps=None, a_at_end=at_end))
    assert texts(list(PROBE.tables(run))[2].rows[2])[1] == said
    none = run_of(*PHASES, summary(forgetting=None, plasticity=None, reconsolidation_steps=None, a_at_end=None))
    rows = [texts(row)[1] for row in list(PROBE.tables(none))[2].rows]
    assert rows == ["not measured: it did not come so far"] * 3
    assert "Shift" not in PROBE.verdict(none, ())


def test_the_losses_on_both_are_drawn_over_the_epochs_each_once():
    loss, both = PROBE.charts(run_of(*PHASES, *PHASES[:2], summary()))
    assert loss.caption.endswith("on A throughout")
    assert both.caption == "phase 1 to epoch 2; phase 2 to epoch 3; phase 3 to epoch 4"
    assert [(series.name, series.points) for series in both.series] == [
        ("on A", ((1.0, 1.0), (2.0, 0.5), (3.0, 2.0), (4.0, 0.4))),
        ("on B", ((1.0, 2.5), (2.0, 2.6), (3.0, 0.75), (4.0, 0.9))),
    ]
    assert both.series[0].evidence == (7, 8, 5, 6)


def test_a_run_that_was_stopped_shows_the_phases_it_has():
    _, phases = PROBE.tables(run_of(*PHASES[:3]))
    assert [texts(row)[0] for row in phases.rows] == ["1", "2"]
    assert PROBE.summarise(run_of(*PHASES[:3]))["shift"] is None


def test_a_training_without_a_shift_says_nothing_of_it():
    run = run_of()
    assert len(list(PROBE.tables(run))) == 1
    assert PROBE.verdict(run, ()) == "Validation loss 0.9, accuracy 50.00%."
    assert "throughout" not in next(PROBE.charts(run)).caption
