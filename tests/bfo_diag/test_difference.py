"""Two recordings beside each other: what is reproduced, changed, gone or new."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bfo_diag import difference
from bfo_diag.probes import load_all
from bfo_diag.recorded import Recorded
from bfo_diag.records import CaseRecord, Observation, Outcome, Place, Run, RunHeader, Severity

ENVIRONMENT = {"torch": "2.13.0", "python": "3.11.7", "versions": {"numpy": "2.4"}, "flags": {}, "cpu_count": 2}


def cut(line, source, parameter="w", folder="/home/a"):
    place = Place(file=f"{folder}/train.py", line=line, source=source, function="step", step=1)
    values = {"op": "detach", "reason": "detach", "parameters": [parameter], "guessed": False, "candidates": 0}
    none = {"grad_mode_at": None, "left_torch_at": None, "library_at": None, "called_from": []}
    return Observation("cut", {**values, **none}, place)


def parameter(name="w", status="cut"):
    return Observation(
        "parameter", {"status": status, "shape": [2], "in_optimizer": True}, Place(parameter=name, step=1)
    )


def step(loss=1.0):
    return Observation("step", {"step_ms": 1.0, "loss": loss, "judged": True, "backwards": 1}, Place(step=1))


def recording(*observations, folder="/home/a", outcome=Outcome.COMPLETE, environment=ENVIRONMENT):
    source = Observation("source", {"file": f"{folder}/train.py", "path": "train.py", "target": True})
    case = CaseRecord("id", "train-step", target=f"{folder}/train.py:step")
    header = RunHeader("id", "gradients", (), "2026-01-01T00:00:00Z", case, environment)
    run = Run(header, (source, *observations), outcome)
    return Recorded(Path("nowhere"), Path("nowhere/src"), run, load_all()["gradients"])


def statuses(before, after):
    return [(one.status, one.finding.code) for one in difference.between(before, after).compared]


def test_the_same_in_another_folder_is_reproduced():
    before = recording(step(), parameter(), cut(9, "h = x.detach()"))
    after = recording(step(), parameter(), cut(9, "h = x.detach()", folder="/tmp/z"), folder="/tmp/z")
    assert statuses(before, after) == [("reproduced", "GRAD-CUT-DETACH")]
    assert difference.between(before, after).reproduced


def test_a_line_that_moved_or_reads_otherwise_is_changed_and_says_how():
    before = recording(step(), parameter(), cut(9, "h = x.detach()"))
    moved = difference.between(before, recording(step(), parameter(), cut(12, "h = x.detach()")))
    assert [(one.status, one.what) for one in moved.compared] == [("changed", "line 9 -> 12")]
    edited = difference.between(before, recording(step(), parameter(), cut(9, "h = net(x).detach()")))
    assert "«h = x.detach()» -> «h = net(x).detach()»" in edited.compared[0].what
    assert not moved.reproduced
    assert not edited.reproduced


def test_what_is_there_no_more_is_gone_and_what_was_not_there_is_new():
    lost = recording(step(), parameter(), cut(9, "h = x.detach()"))
    fine = recording(step(), parameter(status="gradient"))
    assert statuses(lost, fine) == [("gone", "GRAD-CUT-DETACH")]
    assert statuses(fine, lost) == [("new", "GRAD-CUT-DETACH")]


def test_each_finding_is_paired_with_the_one_of_its_own_line():
    both = [step(), parameter("a"), parameter("b"), cut(3, "a.detach()", "a"), cut(7, "b.detach()", "b")]
    swapped = [step(), parameter("b"), parameter("a"), cut(7, "b.detach()", "b"), cut(3, "a.detach()", "a")]
    assert statuses(recording(*both), recording(*swapped)) == [("reproduced", "GRAD-CUT-DETACH")] * 2


def test_another_end_of_the_run_is_not_reproduced():
    before = recording(step(), parameter(status="gradient"))
    after = replace(before, run=replace(before.run, outcome=Outcome.CRASHED))
    found = difference.between(before, after)
    assert not found.reproduced
    assert "ended crashed, before complete" in difference.as_report([found]).verdict


def test_figures_stand_side_by_side_with_their_ratio():
    before = recording(step(2.0), parameter(status="gradient"))
    after = recording(step(1.0), parameter(status="gradient"))
    found = difference.between(before, after)
    assert ("loss_first", 2.0, 1.0) in found.figures
    table = next(table for table in difference.as_report([found]).tables if "figures" in table.title)
    assert ("loss_first", "2", "1", "0.50") in table.rows
    assert found.reproduced


def test_only_what_may_explain_a_difference_is_told_of_the_environment():
    other = {**ENVIRONMENT, "torch": "2.8.0", "executable": "/other/python", "versions": {"numpy": "1.26"}}
    before = recording(parameter(status="gradient"))
    found = difference.between(before, recording(parameter(status="gradient"), environment=other))
    assert {name for name, _, _ in found.environment} == {"torch", "versions.numpy"}


def test_what_a_message_says_of_a_file_is_compared_without_its_folder():
    def raised(folder):
        values = {"by_target": True, "type": "ValueError", "message": f"see {folder}/train.py", "traceback": "t"}
        return recording(Observation("raised", {**values, "phase": "step"}), folder=folder, outcome=Outcome.CRASHED)

    found = difference.between(raised("/home/a"), raised("/tmp/z"))
    assert [one.status for one in found.compared] == ["reproduced"]
    assert found.compared[0].finding.message == "ValueError: see src/train.py"


def test_a_file_of_a_library_is_named_from_site_packages_on():
    one = recording(step())
    assert one.portable("/v/lib/python3.11/site-packages/torch/optim/adam.py") == "torch/optim/adam.py"
    assert one.portable("/home/a/train.py") == "src/train.py"
    assert one.portable("/elsewhere/other.py") == "other.py"


def test_that_a_machine_was_busy_makes_no_difference():
    entry = difference.catalogue()["BENCH-NOISY"]
    told = difference.Compared(difference.NEW, None, entry.finding("the machine is busy"))
    assert entry.of_the_machine
    assert not told.counts
    slower = difference.catalogue()["BENCH-SLOWER"].finding("slower")
    assert difference.Compared(difference.NEW, None, slower).counts


@pytest.mark.parametrize("hostile", ["gpus", "flags", "versions"])
def test_a_record_of_odd_values_can_be_compared(hostile):
    odd = {**ENVIRONMENT, "gpus": [{"name": "A"}, "B"], "flags": {"X": "1"}, "versions": {}}
    one = recording(parameter(status="gradient"), environment=odd)
    two = recording(parameter(status="gradient"), environment={**odd, hostile: None})
    assert difference.as_report([difference.between(one, two)]).tables


def test_runs_are_paired_by_probe_and_target():
    one, two = recording(step()), recording(step(), folder="/tmp/z")
    pairs, alone = difference.pairs([one], [two])
    assert pairs == [(one, two)]
    assert alone == []
    renamed = replace(
        two, run=replace(two.run, header=replace(two.run.header, case=CaseRecord("id", "x", target="m:y")))
    )
    assert difference.pairs([one], [renamed]) == ([(one, renamed)], [])
    other = replace(one, probe=load_all()["compile"])
    assert difference.pairs([one], [other])[0] == []
    assert len(difference.pairs([one], [other])[1]) == 2


def test_an_address_in_a_message_is_a_figure():
    raised = difference.catalogue()["TARGET-RAISED"]
    assert difference._said(raised.finding("<object at 0x7f3ac0de>, 3.5e-3 of 1,024")) == "<object at #>, # of #"


def test_a_severity_and_a_parameter_that_changed_are_said():
    entry = difference.catalogue()["GRAD-CUT-DETACH"]
    old = entry.finding("said", place=Place(parameter="w"))
    new = replace(entry.finding("said", place=Place(parameter="v")), severity=Severity.NOTE)
    assert difference._what_changed(old, new) == "severity error -> note; parameter w -> v"


def test_what_was_not_compared_is_no_reproduction():
    one = difference.between(recording(parameter(status="gradient")), recording(parameter(status="gradient")))
    assert difference.as_report([one]).clean
    told = difference.as_report([one], alone=["bench, since it was left out"])
    assert not told.clean
    assert "not compared: bench, since it was left out" in told.verdict
    assert difference.document([one], alone=["x"])["reproduced"] is False


def test_an_edit_is_told_as_one():
    lost = recording(step(), parameter(), cut(9, "h = x.detach()"))
    one = difference.between(lost, recording(step(), parameter(status="gradient")))
    assert difference.as_report([one], edited=["src/a.py"]).verdict == "With your edit of src/a.py: 1 gone."
    assert difference.as_report([one], ran=False).verdict == "Different: 1 gone."
    assert ("parameters.without_grad (how many)", 1, 0) in one.figures


def test_many_findings_are_paired_in_no_time():
    lines = [Observation("cut", {}, Place(file="x.py", line=n, source=f"line {n}")) for n in range(3000)]
    findings = [
        difference.catalogue()["GRAD-CUT-DETACH"].finding(f"of {line.place.source}", place=line.place) for line in lines
    ]
    found = list(difference._findings(findings, findings[::-1]))
    assert [one.status for one in found] == ["reproduced"] * 3000
