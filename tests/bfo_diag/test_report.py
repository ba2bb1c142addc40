from __future__ import annotations

from dataclasses import replace

import pytest

from bfo_diag import report
from bfo_diag.errors import ExitCode
from bfo_diag.probes import load_all
from bfo_diag.records import CaseRecord, Observation, Outcome, Place, Run, RunHeader
from bfo_diag.shown import Table

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


LOST = (
    Observation("step", {"step_ms": 1.0, "loss": 2.0, "judged": True, "backwards": 1}, Place(step=1)),
    Observation("parameter", {"status": "cut", "shape": [2], "in_optimizer": True}, Place(parameter="w", step=1)),
    Observation(
        "cut",
        {
            **{"op": "detach", "reason": "detach", "parameters": ["w"], "guessed": False, "candidates": 0},
            **{"grad_mode_at": None, "left_torch_at": None, "library_at": None, "called_from": []},
        },
        Place(file="/a/train.py", line=12, source="h = x.detach()", step=1),
    ),
    Observation("step", {"step_ms": 1.0, "loss": 1.0, "judged": True, "backwards": 1}, Place(step=2)),
    Observation("unrelated", {"said": "nothing points here"}),
)
TEXT = "".join(f"line {number}\n" for number in range(1, 12)) + "    h = x.detach()\n" + "after\n" * 9


def section_of(text):
    run = run_of(*LOST)
    found = report.findings(run, PROBE)
    return report.section(run, PROBE, found, source=lambda file: text, log_file="logs/run/observations.jsonl")


def test_a_section_holds_each_log_line_that_something_on_it_points_to_and_no_other():
    section = section_of(TEXT)
    assert sorted(section.log) == [1, 2, 3, 4]  # the loss curve, the table of parameters, the cut
    assert '"kind": "cut"' in section.log[3]
    (chart,) = section.report.charts
    assert [(series.points, series.evidence) for series in chart.series] == [(((1.0, 2.0), (2.0, 1.0)), (1, 4))]


def test_the_source_around_a_finding_is_shown_where_it_is_the_text_that_ran():
    excerpt = section_of(TEXT).excerpts["/a/train.py", 12]
    assert excerpt.first == 8
    assert excerpt.lines[4].strip() == "h = x.detach()"
    assert len(excerpt.lines) == 9
    for other in (TEXT.replace("x.detach()", "x"), "too short", None):
        assert section_of(other).excerpts == {}


def test_tables_for_a_page_alone_follow_those_of_the_terminal():
    more = Table("more", ("a",), (("1",),))
    probe = replace(PROBE, details=lambda run: iter([more]))
    run = run_of(*LOST)
    section = report.section(run, probe, (), source=lambda file: None, log_file="x")
    assert [table.title for table in section.report.tables] == ["Parameters", "more"]
    assert [table.title for table in report.build(run, probe, ()).tables] == ["Parameters"]


def test_the_loss_curves_of_a_matrix_are_those_of_the_plain_scenario():
    def cell(mode, scenario, losses):
        values = {"workload": "digits", "scenario": scenario, "mode": mode, "losses": losses}
        return Observation("cell", values)

    cells = [cell("dual", "all-grad", [[0, 3.0], [5, None], [9, 1.0]]), cell("dual", "raises", [[0, 3.0], [5, 2.0]])]
    (chart,) = PROBE.charts(run_of(*cells, cell("smart", "all-grad", [[0, 3.0]])))
    assert [(series.name, series.points, series.evidence) for series in chart.series] == [
        ("dual", ((0.0, 3.0), (9.0, 1.0)), (1,))
    ]
