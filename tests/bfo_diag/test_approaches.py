"""The ways to mend it: their order follows from what was measured."""

from __future__ import annotations

from pathlib import Path

from bfo_diag import approaches
from bfo_diag.probes import load_all
from bfo_diag.recorded import Recorded
from bfo_diag.records import CaseRecord, Observation, Outcome, Place, Run, RunHeader


def recording(probe, *observations, **options):
    header = RunHeader(f"run-{probe}", probe, (), "2026-01-01T00:00:00Z", CaseRecord("id", "n", "t.py:f"), {}, options)
    run = Run(header, observations, Outcome.COMPLETE)
    return Recorded(Path("nowhere"), Path("nowhere"), run, load_all()[probe])


def cell(mode, scenario, status, evaluations=10, finding=None):
    values = {"workload": "w", "scenario": scenario, "mode": mode, "status": status, "expected": status}
    values |= {"finding": finding, "loss_first": 2.0, "loss_last": 1.0 if status == "trained" else 2.0, "error": None}
    values |= {"evaluations": evaluations, "state_changed": [], "error_type": None, "swallowed_message": None}
    return Observation("cell", {**values, "losses": [], "budget_spent": False, "swallowed": 0})


def matrix(**trained):
    """Return a run of two scenarios, of which as-is trains the first; `trained` says how many each mode trains."""
    cells = [cell("as-is", "easy", "trained"), cell("as-is", "hard", "failed", finding="MODE-NOT-TRAINED")]
    for mode, (count, cost) in trained.items():
        cells.append(cell(mode, "easy", "trained", cost))
        cells.append(cell(mode, "hard", "trained" if count == 2 else "failed", cost))
    return recording("gradients", *cells)


def test_the_mode_that_mends_most_comes_first_and_of_two_the_cheaper():
    ranked = approaches.ranked([matrix(dual=(2, 30), smart=(1, 5), config=(2, 20), minimal=(1, 4))])
    names = [approach.name for approach in ranked]
    assert names[:4] == ["Configuration", "Dual closure", "Minimal fix", "Smart closure wrapper"]
    assert [approach.outcome for approach in ranked[:4]] == ["mends 1 of 1"] * 2 + ["mends 0 of 1"] * 2
    assert names[4] == "Compile compatibility"
    assert ranked[4].measured == ("not measured: the package holds no run of bfo-diag compile",)


def test_other_figures_give_another_order():
    ranked = approaches.ranked([matrix(dual=(1, 30), smart=(2, 50), config=(1, 20), minimal=(1, 4))])
    assert ranked[0].name == "Smart closure wrapper"


def test_a_mode_that_breaks_as_much_as_it_mends_comes_after_one_that_mends_as_much_and_breaks_nothing():
    harmful = [cell("dual", "easy", "failed", 1, finding="MODE-NOT-TRAINED"), cell("dual", "hard", "trained", 1)]
    run = matrix(smart=(2, 50))
    ranked = approaches.ranked([recording("gradients", *run.run.observations, *harmful)])
    assert [approach.name for approach in ranked[:2]] == ["Smart closure wrapper", "Dual closure"]
    assert ranked[1].outcome == "mends 1 of 1, breaks 1"


def test_a_mode_that_the_run_left_out_says_so():
    found = {approach.name: approach for approach in approaches.ranked([matrix(dual=(2, 30))])}
    assert found["Smart closure wrapper"].measured == ("not measured: the run was made without this mode",)
    assert found["Smart closure wrapper"].outcome == "not measured"


def test_what_trained_without_and_no_more_with_it_is_told():
    cells = [cell("as-is", "easy", "trained"), cell("dual", "easy", "failed", finding="MODE-NOT-TRAINED")]
    dual = next(a for a in approaches.ranked([recording("gradients", *cells)]) if a.name == "Dual closure")
    assert "1 that trained without do not train with it" in dual.measured
    assert dual.outcome == "nothing to mend, breaks 1"


def test_without_the_control_nothing_can_be_said_to_be_mended():
    dual = next(a for a in approaches.ranked([recording("gradients", cell("dual", "easy", "trained"))]))
    assert dual.name == "Dual closure"
    assert dual.outcome == "not measured"
    assert "without the control, as-is" in dual.measured[-1]


def test_a_run_that_measured_nothing_is_no_reason_to_say_that_nothing_is_to_mend():
    found = approaches.ranked([recording("compile")])
    compile_ = next(approach for approach in found if approach.name == "Compile compatibility")
    assert compile_.outcome == "not measured"


def test_for_a_step_the_minimal_fix_is_the_mend_of_its_own_lines():
    values = {"op": "detach", "reason": "detach", "parameters": ["w"], "guessed": False, "candidates": 0}
    values |= {"grad_mode_at": None, "left_torch_at": None, "library_at": None, "called_from": []}
    lost = recording(
        "gradients",
        Observation("step", {"step_ms": 1.0, "loss": 1.0, "judged": True, "backwards": 1}, Place(step=1)),
        Observation("parameter", {"status": "cut", "shape": [2], "in_optimizer": True}, Place(parameter="w", step=1)),
        Observation("cut", values, Place(file="/a/t.py", line=4, source="h = x.detach()", step=1)),
    )
    ranked = approaches.ranked([lost])
    assert ranked[0].name == "Minimal fix"
    assert ranked[0].outcome == "proposed for 1 finding, not run"
    assert ranked[0].measured[1].startswith("t.py:4: drop the detach()")
    assert {approach.outcome for approach in ranked[1:]} == {"not measured"}
