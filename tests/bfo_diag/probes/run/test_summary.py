"""What a record of a training says, from a record alone."""

from __future__ import annotations

import math

import pytest

from bfo_diag import report
from bfo_diag.probes import load_all
from bfo_diag.records import CaseRecord, Observation, Outcome, Run, RunHeader

PROBE = load_all()["run"]


def epoch(fold, number, val_loss, accuracy=0.5, train_loss=1.0):
    values = {"fold": fold, "epoch": number, "steps": 6 * number, "train_loss": train_loss, "val_loss": val_loss}
    return Observation("epoch", {**values, "val_accuracy": accuracy, "lr": 0.1, "epoch_s": 0.5})


def end(fold, epochs, best, why="epochs", diverged=None):
    values = {"fold": fold, "epochs": epochs, "steps": 6, "best_epoch": best, "why": why, "diverged": diverged}
    return Observation("fold_end", {**values, "weights": f"raw/model-fold-{fold}.pt"})


def gradients(fold, step, norm, nonfinite=()):
    status = "non-finite" if nonfinite else "healthy"
    values = {"fold": fold, "step": step, "total_norm": norm, "health": 1.0, "status": status}
    return Observation("gradients", {**values, "nonfinite": list(nonfinite)})


def run_of(*observations, folds=1, outcome=Outcome.COMPLETE):
    header = RunHeader("run", "run", (), "2026-01-01T00:00:00Z", CaseRecord("0", "case", target="r.toml"))
    recipe = Observation("recipe", {"optimizer": "Adam", "recipe": {"training": {"folds": folds}}})
    data = Observation("data", {"name": "digits", "samples": 100, "held_back": 20, "classes": 10})
    return Run(header, (recipe, data, *observations), outcome)


def verdict(run):
    return PROBE.verdict(run, report.findings(run, PROBE))


def test_one_fold_is_told_by_its_best_epoch():
    run = run_of(epoch(1, 1, 0.9, 0.6), epoch(1, 2, 0.7, 0.8, 0.65), epoch(1, 3, 0.8, 0.9), end(1, 3, 2, "patience"))
    assert verdict(run) == "Validation loss 0.7, accuracy 80.00%."
    summary = PROBE.summarise(run)
    assert summary["val_loss"] == {"mean": 0.7, "standard_deviation": None}
    assert summary["folds"] == [
        {
            "fold": 1,
            "epochs": 3,
            "why": "patience",
            "weights": "raw/model-fold-1.pt",
            "best_epoch": 2,
            "train_loss": 0.65,
            "val_loss": 0.7,
            "val_accuracy": 0.8,
        }
    ]
    (table,) = PROBE.tables(run)
    texts = [getattr(cell, "text", cell) for cell in table.rows[0]]
    assert texts == ["1", "3", "2", "no better epoch", "0.65", "0.7", "80.00%", "0.5 s"]
    assert table.rows[0][5].evidence == (4,)
    assert table.caption == "validated on 20 of 100 samples of digits"
    assert report.findings(run, PROBE) == ()


def test_what_a_run_goes_on_from_is_told():
    resumed = Observation("resumed", {"from": "logs/a/raw/checkpoint.pt", "torch": "2.13", "fold": 1, "epoch": 3})
    run = run_of(resumed, epoch(1, 4, 0.9), end(1, 4, 4))
    (table,) = PROBE.tables(run)
    assert table.caption.endswith("; gone on from logs/a/raw/checkpoint.pt after epoch 3 of fold 1")
    assert PROBE.summarise(run)["resumed"]["epoch"] == 3


def test_over_folds_the_mean_and_the_deviation_of_a_sample():
    lines = [line for fold, loss in ((1, 1.0), (2, 2.0), (3, 6.0)) for line in (epoch(fold, 1, loss), end(fold, 1, 1))]
    run = run_of(*lines, folds=3)
    summary = PROBE.summarise(run)["val_loss"]
    assert summary["mean"] == 3.0
    assert summary["standard_deviation"] == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    assert verdict(run) == "Validation loss 3 ± 2.646, accuracy 50.00% ± 0.00% over 3 of 3 folds."


def test_a_fold_that_did_not_come_to_its_end_counts_for_nothing():
    run = run_of(epoch(1, 1, 1.0), end(1, 1, 1), epoch(2, 1, 0.1), folds=3, outcome=Outcome.INTERRUPTED)
    assert verdict(run) == "Validation loss 1, accuracy 50.00% over 1 of 3 folds."
    (table,) = PROBE.tables(run)
    assert [getattr(cell, "text", cell) for cell in table.rows[1]][3:6] == ["not at its end", "1", "0.1"]
    early = run_of(epoch(1, 1, 1.0), outcome=Outcome.CRASHED)
    assert verdict(early).startswith("Not at its end: fold 1 of 1 after epoch 1; validation loss so far 1,")
    assert PROBE.measured(early)
    assert not PROBE.measured(run_of())
    assert verdict(run_of()).startswith("Nothing was measured")


def test_an_epoch_that_is_told_twice_counts_once_as_it_was_told_last():
    run = run_of(epoch(1, 1, 5.0), epoch(1, 1, 0.9), end(1, 1, 1))
    assert [fold["epochs"] for fold in PROBE.summarise(run)["folds"]] == [1]
    assert verdict(run) == "Validation loss 0.9, accuracy 50.00%."


def test_a_loss_that_is_not_finite_is_an_error_at_its_step():
    run = run_of(
        epoch(1, 1, 0.9), epoch(1, 2, math.nan, train_loss=math.nan), end(1, 2, 1, "diverged", "step 9 is nan")
    )
    (finding,) = report.findings(run, PROBE)
    assert (finding.code, finding.message, finding.evidence) == ("RUN-DIVERGED", "fold 1: step 9 is nan", (5,))
    assert verdict(run) == "Validation loss 0.9, accuracy 50.00%."
    never = run_of(epoch(1, 1, math.inf), end(1, 1, None, "diverged", "step 1 is inf"))
    assert verdict(never) == "No fold was trained: 1 of 1 came to an end, and none with a finite loss."
    (table,) = PROBE.tables(never)
    assert "not measured: no finite loss" in [getattr(cell, "text", cell) for cell in table.rows[0]]


def test_the_first_gradient_that_is_not_finite_is_named_and_no_later_one():
    run = run_of(
        gradients(1, 2, 3.0),
        gradients(1, 4, math.inf, ["0.weight", "2.bias"]),
        gradients(1, 6, math.nan, ["2.bias"]),
        epoch(1, 1, 0.9),
        end(1, 1, 1),
    )
    (finding,) = report.findings(run, PROBE)
    assert finding.code == "RUN-GRADIENT-NON-FINITE"
    assert finding.message == "fold 1, step 4: the gradient of 0.weight and of 1 more"
    assert (finding.place.parameter, finding.place.step, finding.evidence) == ("0.weight", 4, (4,))


def test_losses_and_norms_are_drawn_with_the_lines_that_prove_them():
    run = run_of(gradients(1, 2, 3.0), epoch(1, 1, 0.9), end(1, 1, 1), gradients(2, 2, 4.0), epoch(2, 1, 0.8), folds=2)
    losses, norms = PROBE.charts(run)
    assert [(series.name, series.points, series.evidence) for series in losses.series] == [
        ("fold 1, training", ((1.0, 1.0),), (4,)),
        ("fold 1, validation", ((1.0, 0.9),), (4,)),
        ("fold 2, training", ((1.0, 1.0),), (7,)),
        ("fold 2, validation", ((1.0, 0.8),), (7,)),
    ]
    assert [(series.name, series.points, series.evidence) for series in norms.series] == [
        ("fold 1", ((2.0, 3.0),), (3,)),
        ("fold 2", ((2.0, 4.0),), (6,)),
    ]
    assert norms.log_y
    assert not list(PROBE.charts(run_of()))


def compiled(fold, status, reason="", *, asked=True, decision=None, **counts):
    values = {"fold": fold, "asked": asked, "target": "model", "status": status, "reason": reason, "mode": "default"}
    values |= {"backend": "inductor", "graphs": 2, "calls": 9, "calls_compiled": 8, "proved": [], "notes": []}
    values |= {"breaks": [], "recompiles": [], "limit_hits": [], "fallbacks": [], "parts": [], "decision": decision}
    return Observation("compile_report", {**values, **counts})


NO = {"use_compile": False, "why": "too short"}
YES = {"use_compile": True, "why": "it pays after 10 steps"}


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ({"status": "APPLIED"}, None),
        ({"status": "PARTIAL"}, "RUN-COMPILE-PARTIAL"),
        ({"status": "NOT APPLIED"}, "RUN-COMPILE-NOT-APPLIED"),
        ({"status": "NOT APPLIED", "asked": "auto", "decision": NO}, None),
        ({"status": "NOT APPLIED", "asked": "auto", "decision": YES}, "RUN-COMPILE-NOT-APPLIED"),
        ({"status": "NOT APPLIED", "asked": "auto"}, "RUN-COMPILE-NOT-APPLIED"),
    ],
)
def test_what_was_asked_of_compile_and_not_done_is_a_finding(how, code):
    run = run_of(compiled(1, **how, reason="the reason"), epoch(1, 1, 0.9), end(1, 1, 1))
    found = report.findings(run, PROBE)
    assert [(one.code, one.message, one.evidence) for one in found] == (
        [] if code is None else [(code, "fold 1: the reason", (3,))]
    )


def test_the_last_report_of_each_fold_counts_and_one_finding_stands_for_all_folds():
    run = run_of(
        compiled(1, "APPLIED"),
        epoch(1, 1, 0.9),
        compiled(1, "PARTIAL", "1 graph break", breaks=["print at a.py:3"]),
        end(1, 1, 1),
        compiled(2, "PARTIAL", "2 graph breaks"),
        folds=2,
    )
    (finding,) = report.findings(run, PROBE)
    assert (finding.message, finding.evidence) == ("fold 1: 1 graph break", (5, 7))
    assert verdict(run).endswith("Compile: partial.")
    table = list(PROBE.tables(run))[1]
    texts = [[getattr(cell, "text", cell) for cell in row] for row in table.rows]
    assert texts == [
        ["1", "partial", "8 of 9", "2", "1", "0", "0", "1 graph break"],
        ["2", "partial", "8 of 9", "2", "0", "0", "0", "2 graph breaks"],
    ]
    (met,) = PROBE.details(run)
    assert [[getattr(cell, "text", cell) for cell in row] for row in met.rows] == [
        ["1", "graph break", "print at a.py:3"]
    ]


def test_that_auto_chose_eager_is_no_failure_and_says_why():
    run = run_of(compiled(1, "NOT APPLIED", "x", asked="auto", decision=NO), epoch(1, 1, 0.9), end(1, 1, 1))
    assert verdict(run).endswith("Compile: eager, as decided.")
    row = list(PROBE.tables(run))[1].rows[0]
    assert (row[1].text, row[1].tone, row[-1]) == ("eager, as decided", "", "too short")
    assert not list(PROBE.details(run))


def test_a_training_that_was_stopped_tells_how_far_it_came():
    run = run_of(epoch(1, 1, 0.9, 0.6), epoch(1, 2, 0.7, 0.8), epoch(1, 3, 0.8, 0.9), outcome=Outcome.INTERRUPTED)
    said = "Not at its end: fold 1 of 1 after epoch 3; validation loss so far 0.7, accuracy 80.00%, at epoch 2."
    assert verdict(run) == said
