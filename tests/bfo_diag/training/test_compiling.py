"""The compile policy in a training: it changes no number, what it did is told, and what failed trains eagerly."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from bfo_diag import api
from bfo_diag.errors import DiagError
from bfo_diag.training.compiling import KIND, Compiling
from bfo_diag.training.recipe import Compile, Training
from bfo_diag.training.step import Step

pytestmark = [pytest.mark.compile, pytest.mark.usefixtures("fresh_imports")]
EAGER = {"enabled": True, "backend": "eager"}
MODELS = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Linear(64, 8), torch.nn.Linear(8, 10)
    def forward(self, x):
        x = self.a(x).relu()
        torch._dynamo.graph_break()
        return self.b(x)
class Never(torch.nn.Linear):
    def __init__(self):
        super().__init__(64, 10)
    @torch.compiler.disable
    def forward(self, x):
        return super().forward(x)
"""


@pytest.fixture
def train(write, tmp_path):
    (tmp_path / "models_to_compile.py").write_text(MODELS)

    def trained(**tables):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of dynamo's own, at a tensor that is no leaf
            seen = api.examine("run", str(write(**tables)))
        reports = [o.values for o in seen.run.observations if o.kind == KIND]
        epochs = [o.values for o in seen.run.observations if o.kind == "epoch"]
        return seen, reports, [(epoch["train_loss"], epoch["val_loss"]) for epoch in epochs]

    return trained


def of(name):
    return {"name": None, "width": None, "factory": f"models_to_compile.py:{name}"}


@pytest.mark.parametrize(
    "optimizer",
    [{"name": "Adam"}, {"name": "HybridBFO", "lr": None, "population_size": 3, "swim_length": 1}],
    ids=lambda table: table["name"],
)
def test_a_compiled_training_has_the_losses_of_the_eager_one_to_the_bit(train, optimizer):
    tables = {"optimizer": optimizer, "model": {"dropout": 0.3}, "training": {"epochs": 2, "folds": 2}}
    _, none, eager = train(**tables)
    seen, reports, compiled = train(**tables, compile=EAGER)
    assert not none
    assert compiled == eager
    assert [report["fold"] for report in reports] == [1, 1, 2, 2]
    for first, last in (reports[:2], reports[2:]):
        assert first["calls"] == 0
        assert last["status"] == "APPLIED"
        assert last["calls"] == last["calls_compiled"] >= 12
    assert seen.report.verdict.endswith("Compile: applied.")
    assert not seen.findings
    assert seen.summary["compile"][0]["graphs"] >= 1


def test_a_break_is_a_note_and_shown_with_its_place(train):
    seen, reports, _ = train(model=of("Net"), compile=EAGER)
    assert reports[-1]["status"] == "PARTIAL"
    (finding,) = seen.findings
    assert (finding.code, finding.severity.value) == ("RUN-COMPILE-PARTIAL", "note")
    assert "graph break" in finding.message
    assert "models_to_compile.py:9" in reports[-1]["breaks"][0]


def test_what_can_not_be_compiled_trains_eagerly_and_is_a_warning(train):
    _, _, eager = train(model=of("Never"))
    seen, reports, losses = train(model=of("Never"), compile=EAGER)
    assert losses == eager
    assert reports[-1]["status"] == "NOT APPLIED"
    (finding,) = seen.findings
    assert (finding.code, finding.severity.value) == ("RUN-COMPILE-NOT-APPLIED", "warning")
    assert reports[-1]["reason"] in finding.message
    assert seen.report.verdict.endswith("Compile: not applied.")


def test_a_recipe_that_wants_no_fallback_ends_there(train):
    seen, _, losses = train(model=of("Never"), compile={**EAGER, "fallback": "raise"})
    assert not losses
    (raised,) = [o.values for o in seen.run.observations if o.kind == "raised"]
    assert (raised["phase"], raised["type"], raised["by_target"]) == ("compile", "CompileFailedError", True)


def test_a_plan_too_short_for_a_compile_is_decided_once_for_all_folds_and_is_no_finding(train):
    seen, reports, _ = train(training={"folds": 2}, compile={**EAGER, "enabled": "auto"})
    assert [report["fold"] for report in reports] == [1, 1]
    assert reports[0]["decision"]["use_compile"] is False
    assert reports[0]["decision"]["planned_steps"] == 2 * 2 * 3
    assert not seen.findings
    assert seen.report.verdict.endswith("Compile: eager, as decided.")


def test_a_backend_that_torch_does_not_know_is_told(train):
    seen, reports, _ = train(compile={"enabled": True, "backend": "no-such-backend"})
    assert reports[-1]["status"] == "NOT APPLIED"
    assert "no-such-backend" in seen.findings[0].message


@pytest.fixture
def step():
    model = nn.Linear(64, 10)
    return Step(model, torch.optim.SGD(model.parameters()), Training(), "cpu")


BATCH = (torch.zeros(4, 64), torch.zeros(4, dtype=torch.int64))


@pytest.mark.parametrize("use", [True, False])
def test_what_another_run_decided_is_not_measured_again(step, use):
    asked = Compile(enabled="auto", backend="eager")
    fresh = Compiling(asked, steps=1, folds=1)
    fresh.begin()
    fresh.apply(step, BATCH)
    told = fresh.report(1)
    assert told.values["decision"]["use_compile"] is False
    decision = {**told.values["decision"], "use_compile": use, "why": "the other run measured it"}
    later = Compiling(asked, steps=1, folds=1)
    later.remember(replace(told, values={**told.values, "decision": decision}))
    assert (later.begin() is not None) == use
    later.apply(step, BATCH)
    report = later.report(2)
    if not use:
        assert report is None
        return
    assert report.values["status"] == "APPLIED"
    assert report.values["decision"]["why"] == "the other run measured it"


def test_compile_off_imports_no_compiler_and_reports_nothing(step):
    compiling = Compiling(Compile(), steps=1, folds=1)
    assert compiling.begin() is None
    compiling.apply(step, BATCH)
    assert compiling.report(1) is None
    assert step.model._compiled_call_impl is None


def test_modes_that_torch_refuses_are_the_recipes_fault(step):
    compiling = Compiling(Compile(enabled=True, mode="fastest"), steps=1, folds=1)
    compiling.begin()
    with pytest.raises(DiagError, match="fastest"):
        compiling.apply(step, BATCH)


@pytest.mark.parametrize(
    ("asked", "said"), [({"mode": "fastest"}, "fastest"), ({"backend": "no-such-backend"}, "no such backend")]
)
def test_a_check_refuses_settings_that_torch_does_not_know_and_compiles_nothing(asked, said):
    for enabled in ("auto", True):
        with pytest.raises(DiagError, match=said):
            Compiling(Compile(enabled=enabled, **asked), steps=1, folds=1).check()
    Compiling(Compile(enabled=False, **asked), steps=1, folds=1).check()
    Compiling(Compile(enabled=True, backend="eager", fallback="raise"), steps=1, folds=1).check()
