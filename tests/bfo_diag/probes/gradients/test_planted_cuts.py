"""Each kind of cut, planted in a helper two calls deep, is found at its exact line; a healthy step is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from bfo_diag.probes import load_all
from bfo_diag.records import Severity

ENCODER = {"encoder.weight", "encoder.bias"}
BOTH = ENCODER | {"head.weight", "head.bias"}


def line_of(file: Path, name: str) -> int:
    marked = [n for n, text in enumerate(file.read_text().splitlines(), 1) if text.endswith(f"# cut: {name}")]
    assert len(marked) == 1, name
    return marked[0]


@pytest.mark.planted
@pytest.mark.parametrize(
    ("name", "code", "op", "lost"),
    [
        ("detach", "GRAD-CUT-DETACH", "detach", ENCODER),
        ("data", "GRAD-CUT-DATA", "data", ENCODER),
        ("item", "GRAD-CUT-ITEM", "item", ENCODER),
        ("numpy", "GRAD-CUT-NUMPY", "numpy", ENCODER),
        ("tensor", "GRAD-CUT-TENSOR", "tensor", ENCODER),
        ("argmax", "GRAD-CUT-INTEGER", "argmax", ENCODER),
        ("integer", "GRAD-CUT-INTEGER", "long", ENCODER),
        ("comparison", "GRAD-CUT-INTEGER", "gt", ENCODER),
        ("no_grad", "GRAD-CUT-NO_GRAD", "mul", ENCODER),
        ("decorator", "GRAD-CUT-NO_GRAD", "exp", ENCODER),
        ("inplace", "GRAD-CUT-INPLACE", "copy_", ENCODER),
        ("set_data", "GRAD-CUT-DATA", "data", ENCODER),
        ("asarray", "GRAD-CUT-NUMPY", "numpy", ENCODER),
        ("tolist", "GRAD-CUT-ITEM", "tolist", ENCODER),
        ("leaf_write", "GRAD-CUT-INPLACE", "add_", {"leaf"}),
        ("item_loss", "GRAD-CUT-ITEM", "item", BOTH),
        ("rewrap", "GRAD-CUT-ITEM", "item", BOTH),
        ("legacy", "GRAD-CUT-ITEM", "float()", BOTH),
    ],
)
def test_a_planted_cut_is_found_at_its_line(capture, targets_folder, name, code, op, lost):
    file = targets_folder / "planted_cuts.py"
    run, findings = capture("gradients", f"{file}:step_{name}", steps=2)
    cuts = load_all()["gradients"].summarise(run)["cuts"]
    found = [(cut["file"], cut["line"], cut["op"], set(cut["parameters"])) for cut in cuts]
    assert found == [(str(file), line_of(file, name), op, lost)]
    assert cuts[0]["source"] == file.read_text().splitlines()[line_of(file, name) - 1].strip()
    cut_findings = [f for f in findings if f.code.startswith("GRAD-CUT-")]
    assert [(f.code, f.severity, f.place.line) for f in cut_findings] == [(code, Severity.ERROR, line_of(file, name))]
    assert all(run.observations[number - 1].kind == "cut" for number in cut_findings[0].evidence)


@pytest.mark.parametrize(("name", "code"), [("unused", "GRAD-UNUSED"), ("dropped", "GRAD-DROPPED")])
def test_no_cut_is_invented_for_a_parameter_that_the_loss_never_reads(capture, targets_folder, name, code):
    file = targets_folder / "planted_cuts.py"
    run, findings = capture("gradients", f"{file}:step_{name}", steps=1)
    assert [f.code for f in findings] == [code]
    assert all(parameter in findings[0].message for parameter in ENCODER)
    assert not list(run.of_kind("cut"))
    if name == "dropped":
        assert findings[0].place.line == line_of(file, "dropped")


def test_a_frozen_parameter_names_the_line_that_froze_it(capture, targets_folder):
    file = targets_folder / "planted_cuts.py"
    run, findings = capture("gradients", f"{file}:step_frozen", steps=1)
    assert [(f.code, f.severity) for f in findings] == [("GRAD-FROZEN", Severity.NOTE)]
    assert (findings[0].place.file, findings[0].place.line) == (str(file), line_of(file, "frozen"))
    summary = load_all()["gradients"].summarise(run)
    assert set(summary["parameters"]["without_grad"]) == ENCODER
    assert set(summary["parameters"]["with_grad"]) == {"head.weight", "head.bias"}


def test_the_place_where_gradients_were_switched_off_is_named(capture, targets_folder):
    file = targets_folder / "planted_cuts.py"
    _, findings = capture("gradients", f"{file}:step_no_grad", steps=1)
    block = line_of(file, "no_grad") - 1
    assert f"switched off at {file}:{block}" in findings[0].message


@pytest.mark.healthy
@pytest.mark.parametrize(
    "target",
    [
        "{targets}/planted_cuts.py:step_healthy",
        "bfo_diag.cases.digits_mlp:train_step",
        "bfo_diag.cases.char_transformer:train_step",
        "bfo_diag.cases.rosenbrock:train_step",
    ],
)
def test_a_healthy_step_gets_no_finding(capture, targets_folder, target):
    run, findings = capture("gradients", target.format(targets=targets_folder), steps=3)
    assert findings == ()
    summary = load_all()["gradients"].summarise(run)
    assert summary["parameters"]["without_grad"] == []
    assert summary["parameters"]["with_grad"]
    assert summary["steps"] == 3
