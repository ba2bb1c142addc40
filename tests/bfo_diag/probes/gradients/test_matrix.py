"""Each gradient mode against each scenario: with our optimizer, and with faulty ones of a third party."""

from __future__ import annotations

import pytest
import torch

from bfo_diag.api import examine
from bfo_diag.attempt import TimeLimitReached
from bfo_diag.errors import DiagError
from bfo_diag.probes import gradients, load_all
from bfo_diag.probes.gradients import matrix_judge
from bfo_diag.probes.gradients.matrix import WORKLOADS
from bfo_diag.probes.gradients.scenarios import SCENARIOS
from bfo_diag.records import Severity


@pytest.fixture
def cells(capture):
    def run(target, **options):
        run, findings = capture("gradients", target, **options)
        return load_all()["gradients"].summarise(run).get("modes", {}), findings, run

    return run


@pytest.fixture
def foreign(targets_folder):
    return f"{targets_folder / 'foreign_optimizers.py'}:"


def test_the_names_that_help_shows_are_those_that_exist():
    from pytorch_bfo_optimizer.gradient_modes import MODES

    assert tuple(MODES) == gradients.MODE_NAMES
    assert tuple(SCENARIOS) == gradients.SCENARIO_NAMES


def test_every_mode_does_in_every_scenario_what_it_should(cells):
    modes, findings, run = cells(None)
    assert len(list(run.of_kind("cell"))) == 5 * 12 * 3
    for mode, scenarios in modes.items():
        for name, cell in scenarios.items():
            assert set(cell["workloads"]) == set(WORKLOADS)
            assert cell["status"] == SCENARIOS[name].expected(mode), (mode, name, cell)
            assert cell["state_restored"] is True, (mode, name)
            assert cell["evaluations"] >= 1
            if cell["status"] == "trained":
                assert cell["finding"] is None
                assert all(w["loss_last"] < w["loss_first"] for w in cell["workloads"].values())
    assert {f.severity for f in findings} == {Severity.NOTE}


def test_the_original_failure_trains_in_three_modes_and_has_a_name_as_it_is(cells):
    modes, findings, _ = cells(None, scenario="no-grad", mode="smart,config,minimal,as-is")
    for mode in ("smart", "config", "minimal"):
        assert modes[mode]["no-grad"]["status"] == "trained"
    assert modes["as-is"]["no-grad"]["finding"] == "MODE-ELEMENT-0"
    assert "does not require grad and does not have a grad_fn" in modes["as-is"]["no-grad"]["error"]
    assert [f.code for f in findings] == ["MODE-ELEMENT-0"]


def test_an_optimizer_that_lets_the_fault_out(cells, foreign):
    modes, findings, _ = cells(foreign + "RandomSearch", scenario="all-grad,no-grad,raises", steps=1)
    assert modes["as-is"]["all-grad"]["status"] == "trained"
    assert modes["as-is"]["no-grad"]["finding"] == "MODE-ELEMENT-0"
    assert modes["smart"]["no-grad"]["status"] == "trained"
    assert modes["minimal"]["no-grad"]["status"] == "trained"
    assert {modes[mode]["all-grad"]["status"] for mode in ("dual", "config")} == {"refused"}
    graver = {f.code: f for f in findings if f.severity is not Severity.NOTE}
    assert set(graver) == {"MODE-ELEMENT-0"}
    assert graver["MODE-ELEMENT-0"].place.source == "loss = closure()"


def test_an_optimizer_that_turns_errors_into_inf_is_found_out(cells, foreign):
    modes, findings, _ = cells(foreign + "SwallowingSearch", scenario="no-grad,raises", mode="as-is", steps=1)
    assert modes["as-is"]["no-grad"]["finding"] == "MODE-SWALLOWED"
    assert modes["as-is"]["raises"]["finding"] == "MODE-SWALLOWED"
    messages = [f.message for f in findings if f.severity is Severity.ERROR]
    assert any("element 0 of tensors" in message for message in messages)
    assert any("the closure's own error" in message for message in messages)


def test_an_optimizer_that_leaves_the_state_changed_is_found_out(cells, foreign):
    modes, findings, _ = cells(foreign + "Thawing", scenario="all-grad,no-grad", mode="as-is", steps=1)
    assert modes["as-is"]["all-grad"]["state_restored"] is True
    assert modes["as-is"]["no-grad"]["state_restored"] is False
    assert [f.code for f in findings] == ["MODE-STATE-CHANGED"]
    assert "requires_grad" in findings[0].message


def test_a_partial_of_a_class_is_examined_too(cells, foreign):
    modes, _, _ = cells(foreign + "Given", scenario="all-grad", mode="as-is", steps=1)
    assert modes["as-is"]["all-grad"]["status"] == "trained"


def test_an_optimizer_of_torch_is_examined_too(cells):
    modes, findings, _ = cells("torch.optim:Adam", scenario="all-grad,item-loss", mode="as-is,minimal", steps=5)
    assert modes["as-is"]["all-grad"]["status"] == "trained"
    assert modes["as-is"]["item-loss"]["finding"] == "MODE-NOT-TRAINED"
    assert {f.code for f in findings} == {"MODE-NOT-TRAINED"}


def test_a_cell_begins_no_step_when_its_evaluations_are_used_up(cells):
    modes, _, _ = cells(None, scenario="all-grad", mode="smart", steps=50, evaluations=30)
    assert 30 <= modes["smart"]["all-grad"]["evaluations"] <= 30 + 8 * 3


def test_two_runs_with_the_same_seed_agree(cells):
    first, _, _ = cells(None, scenario="all-grad,nan-region", mode="smart")
    second, _, _ = cells(None, scenario="all-grad,nan-region", mode="smart")
    assert first == second


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(DiagError, match="--mode warp") as raised:
        gradients.chosen("smart,warp", gradients.MODE_NAMES, "--mode")
    assert "as-is" in raised.value.mend
    assert gradients.chosen("smart, dual", gradients.MODE_NAMES, "--mode") == ("smart", "dual")


def test_the_table_shows_what_was_not_measured(cells):
    _, _, run = cells(None, scenario="all-grad", mode="smart,as-is")
    cut_short = type(run)(run.header, run.observations[:-5], run.outcome)
    shown = [cell for table in matrix_judge.tables(cut_short) for row in table.rows for cell in row[1:]]
    assert len(shown) == 6
    assert sum(isinstance(cell, str) and cell.startswith("not measured: ") for cell in shown) == 5


def test_an_error_that_is_only_named_like_a_refusal_is_an_error(cells, foreign):
    modes, findings, run = cells(foreign + "Broken", scenario="all-grad", mode="as-is", steps=1)
    assert modes["as-is"]["all-grad"]["finding"] == "MODE-RAISED"
    assert {f.severity for f in findings} == {Severity.ERROR}
    assert "3 cells are not as they should be" in load_all()["gradients"].verdict(run, findings)


def test_a_step_that_never_ends_evaluating_is_stopped(cells, foreign):
    _, _, run = cells(foreign + "Endless", scenario="all-grad", mode="as-is", evaluations=10)
    assert [(o.values["budget_spent"], o.values["evaluations"]) for _, o in run.of_kind("cell")] == [(True, 50)] * 3


def test_grad_mode_and_hooks_that_are_left_behind_are_found_out_and_taken_back(cells, foreign):
    _, findings, run = cells(foreign + "Careless", scenario="all-grad", mode="as-is", steps=1)
    changed = [set(o.values["state_changed"]) for _, o in run.of_kind("cell")]
    assert changed == [{"grad_mode", "hooks"}] * 3
    assert torch.is_grad_enabled()
    assert "MODE-STATE-CHANGED" in {f.code for f in findings}


def test_an_optimizer_that_can_not_be_made_is_one_finding(cells, foreign):
    _, findings, run = cells(foreign + "CannotBeMade")
    assert [(f.code, f.message) for f in findings] == [("TARGET-RAISED", "RuntimeError: no such licence")]
    assert not list(run.of_kind("cell"))


def test_what_a_target_sets_for_all_of_torch_does_not_reach_the_built_in_work(capture, tmp_path):
    path = tmp_path / "double_target.py"
    path.write_text("import torch\ntorch.set_default_dtype(torch.float64)\nclass Mine(torch.optim.SGD):\n    pass\n")
    try:
        run, findings = capture("gradients", f"{path}:Mine", scenario="all-grad", mode="as-is")
    finally:
        torch.set_default_dtype(torch.float32)
    assert findings == ()
    assert {o.values["status"] for _, o in run.of_kind("cell")} == {"trained"}


def test_the_built_in_cases_have_an_id(cells):
    _, _, run = cells(None, scenario="all-grad", mode="smart")
    ((_, case),) = run.of_kind("case")
    assert len(case.values["id"]) == 16


def test_an_optimizer_whose_time_is_up_while_it_is_made_was_not_measured() -> None:
    class Slow(torch.optim.SGD):
        def __init__(self, params) -> None:
            raise TimeLimitReached

    seen = examine("gradients", Slow)
    assert [finding.code for finding in seen.findings] == ["TARGET-TIMED-OUT"]
    assert not list(seen.run.of_kind("plan", "cell"))
    assert seen.report.verdict == "Nothing was measured."
