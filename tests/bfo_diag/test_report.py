from __future__ import annotations

import pytest

from bfo_diag import report
from bfo_diag.errors import ExitCode
from bfo_diag.probes import load_all
from bfo_diag.records import CaseRecord, Observation, Outcome, Place, Run, RunHeader

PROBE = load_all()["gradients"]
PARAMETER = Observation(
    "parameter", {"status": "gradient", "grad_norm": 1.0, "nan_count": 0, "inf_count": 0}, Place(parameter="w", step=1)
)
UNUSED = Observation("parameter", {"status": "unused"}, Place(parameter="v", step=1))


def run_of(*observations: Observation, outcome: Outcome = Outcome.COMPLETE) -> Run:
    header = RunHeader("run", "gradients", (), "2026-01-01T00:00:00Z", CaseRecord("0", "case"))
    return Run(header, observations, outcome)


def raised(*, by_target: bool) -> Observation:
    return Observation("raised", {"type": "E", "message": "m", "by_target": by_target, "traceback": ""})


@pytest.mark.parametrize(
    ("observations", "outcome", "code"),
    [
        ([PARAMETER], Outcome.COMPLETE, ExitCode.CLEAN),
        ([PARAMETER, UNUSED], Outcome.COMPLETE, ExitCode.FINDING),
        ([], Outcome.COMPLETE, ExitCode.NOTHING_MEASURED),
        ([Observation("environment")], Outcome.COMPLETE, ExitCode.NOTHING_MEASURED),
        ([PARAMETER, UNUSED, raised(by_target=True)], Outcome.CRASHED, ExitCode.TARGET_RAISED),
        ([PARAMETER, raised(by_target=False)], Outcome.CRASHED, ExitCode.DEFECT),
        ([raised(by_target=True), raised(by_target=False)], Outcome.CRASHED, ExitCode.DEFECT),
        ([Observation("died", {"exit_status": -9, "signal": "SIGKILL"})], Outcome.CRASHED, ExitCode.TARGET_RAISED),
        ([PARAMETER, Observation("timed_out", {"phase": "step"})], Outcome.TIMED_OUT, ExitCode.TARGET_RAISED),
        ([PARAMETER, Observation("interrupted")], Outcome.INTERRUPTED, ExitCode.INTERRUPTED),
    ],
)
def test_the_exit_code_says_first_how_the_run_ended_and_then_what_was_found(observations, outcome, code):
    run = run_of(*observations, outcome=outcome)
    found = report.findings(run, PROBE)
    assert report.exit_code(run, PROBE, found, fail_on=("warning",)) is code


def test_findings_come_gravest_first_and_point_to_their_lines():
    run = run_of(PARAMETER, UNUSED, Observation("damaged", {"why": "cut short"}), raised(by_target=True))
    found = report.findings(run, PROBE)
    assert [(f.code, f.evidence) for f in found] == [
        ("TARGET-RAISED", (4,)),
        ("LOG-DAMAGED", (3,)),
        ("GRAD-UNUSED", (2,)),
    ]


def test_what_the_reader_passed_over_is_shown():
    run = run_of(PARAMETER)
    damaged = type(run)(run.header, run.observations, run.outcome, damaged=("line 3: cut short",))
    assert report.build(damaged, PROBE, ()).lines == ("line 3: cut short",)


def test_what_was_not_measured_is_never_a_pass():
    run = run_of()
    built = report.build(run, PROBE, report.findings(run, PROBE))
    assert built.verdict == "Nothing was measured."
    stopped = run_of(Observation("parameter", {"status": "not_measured"}, Place(parameter="w", step=1)))
    assert PROBE.verdict(stopped, ()).startswith("Not measured")
