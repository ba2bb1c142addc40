"""The right answers that were found by hand, row by row, on the torch that is installed."""

from __future__ import annotations

import warnings

import pytest
import torch

from bfo_diag import api, report
from bfo_diag.probes import load_all
from bfo_diag.probes.compile.analysis import Analysis
from bfo_diag.records import CaseRecord, Observation, Outcome, Run, RunHeader

pytestmark = pytest.mark.compile
TORCH = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])


PROBE = load_all()["compile"]


def codes(analysis: Analysis) -> list[str]:
    return sorted(site.code for site in analysis.sites)


def line_of(targets_folder, text: str, nth: int = 0) -> int:
    lines = (targets_folder / "compile_steps.py").read_text().split("\n")
    return [number for number, line in enumerate(lines, 1) if text in line][nth]


def test_print_before_the_first_operation(examined):
    analysis, done = examined("print_before_the_first_operation")
    assert codes(analysis) == ["GB0059"]
    assert done.summary["captured_graphs"] == 1
    assert done.summary["explain"]["graph_break_count"] == 0
    assert done.summary["coverage"] == 1


def test_print_in_a_loop_skips_the_whole_function(examined, targets_folder):
    analysis, done = examined("print_in_a_loop")
    assert codes(analysis) == ["GB0059"]
    assert analysis.sites[0].place.line == line_of(targets_folder, 'print("hello")', 2)
    if TORCH >= (2, 11):
        assert [code for code, _ in analysis.sites[0].cascade] == ["GB7000"]
    assert done.summary["captured_graphs"] == 0
    assert done.summary["coverage"] == 0
    assert done.summary["applied"] == "NOT APPLIED"
    assert done.summary["explain"]["graph_break_count"] == -1
    assert "GB0059" in done.summary["reason"]


def test_a_nested_helper_that_prints_is_one_site(examined, targets_folder):
    analysis, done = examined("nested_helper_prints")
    assert codes(analysis) == ["GB0059"]
    assert (done.summary["events"], done.summary["captured_graphs"]) == (2, 4)
    assert done.summary["explain"]["graph_break_count"] == 3
    assert analysis.sites[0].place.function == "_helper"
    assert analysis.sites[0].place.source == 'print("hello")'


def test_while_on_a_tensor(examined):
    analysis, done = examined("while_on_a_tensor")
    assert codes(analysis) == ["GB0170"]
    assert (done.summary["events"], sum(done.summary["compiles"])) == (2, 3)


def test_item_in_the_middle_passes_fullgraph_and_breaks_the_default_compile(examined):
    analysis, done = examined("item_in_the_middle", fullgraph=True)
    assert codes(analysis) == ["GB0124"]
    assert done.summary["fullgraph"]["ok"] is (TORCH >= (2, 11))
    if TORCH >= (2, 11):
        assert "COMPILE-FULLGRAPH-DIFFERS" in {finding.code for finding in done.findings}


def test_a_boolean_mask_passes_fullgraph_and_breaks_the_default_compile(examined):
    analysis, done = examined("boolean_mask", fullgraph=True)
    assert len(analysis.sites) == 1
    assert done.summary["fullgraph"]["ok"] is (TORCH >= (2, 11))


@pytest.mark.parametrize("fullgraph", [False, True])
def test_nothing_to_compile_is_no_pass(examined, fullgraph):
    _, done = examined("nothing_to_compile", fullgraph=fullgraph)
    assert done.summary["captured_graphs"] == 0
    assert done.summary["applied"] == "NOT APPLIED"
    assert "nothing to compile" in done.summary["reason"]
    assert done.summary["coverage"] is None
    assert not api.load_all()["compile"].measured(done.run)
    if fullgraph:
        assert done.summary["fullgraph"] == {"ok": False, "error": None}


def test_an_sgd_training_closure(examined):
    analysis, done = examined("sgd_closure")
    assert codes(analysis) == ["GB0008", "GB0025", "GB0123"]
    assert [site.owner for site in sorted(analysis.sites, key=lambda s: s.code)] == [
        "yours",
        "torch on purpose",
        "yours",
    ]
    assert done.summary["user_sites"] == 2
    assert done.summary["events"] == 4
    assert done.summary["graphs"] == {"forward": 1, "backward": 1, "inference": 1}
    place = next(site.place for site in analysis.sites if site.code == "GB0025")
    assert place.source == "optimizer.step()"
    (table,) = PROBE.details(done.run)
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [row["why"].split()[0] for row in rows] == ["GB0008", "GB0123", "GB0025"]  # by line
    for row in rows:
        lines = [done.run.observations[number - 1] for number in row["events"].evidence]
        assert {line.values["code"] for line in lines} == {row["why"].split()[0]}
        assert row["events"].text == str(len(lines))


def test_a_bound_adam_step(examined):
    analysis, done = examined("bound_adam_step", fullgraph=True)
    assert [(site.code, site.owner) for site in analysis.sites] == [("GB0025", "torch on purpose")]
    assert analysis.sites[0].place.file.endswith("optimizer.py")  # and not this file, which called the tool
    assert done.summary["user_sites"] == 0
    assert done.summary["captured_graphs"] == 1
    assert done.summary["fullgraph"]["ok"] is False


def test_lbfgs(examined):
    analysis, done = examined("lbfgs_step")
    assert done.summary["captured_graphs"] == 0
    assert done.summary["coverage"] == 0
    assert len(analysis.sites) == 2


def test_four_shapes_settle_after_one_recompile(examined):
    _, done = examined("four_shapes")
    assert done.summary["compiles"][:4] == [1, 1, 0, 0]
    (chart,) = PROBE.charts(done.run)
    (series,) = chart.series
    assert [y for _, y in series.points][:4] == [1, 1, 0, 0]
    assert [done.run.observations[number - 1].kind for number in series.evidence] == ["call"] * len(series.points)
    assert done.summary["recompiles"] == 1
    assert done.summary["settled"] is True
    finding = next(finding for finding in done.findings if finding.code == "COMPILE-RECOMPILED")
    assert "at call 2" in finding.message
    assert "size mismatch at index 0" in finding.message


def test_a_module_that_counts_its_steps_recompiles_at_every_call(examined, targets_folder):
    _, done = examined("counting_module")
    if TORCH < (2, 8):  # takes the integer to be dynamic from the second compile on
        assert done.summary["compiles"] == [1, 1, 0, 0, 0]
        return
    assert done.summary["compiles"] == [1, 1, 1, 1, 1]
    assert done.summary["settled"] is False
    finding = next(finding for finding in done.findings if finding.code == "COMPILE-RECOMPILES")
    assert finding.fails_at("recompile")
    if TORCH >= (2, 11):
        assert finding.place.line == line_of(targets_folder, "self.step += 1")


def test_twelve_strings_meet_the_limit(examined):
    _, done = examined("twelve_strings")
    assert done.summary["captured_graphs"] == 8
    assert done.summary["compiles"] == [1] * 8 + [0] * 6
    assert done.summary["limit_hit"] is True
    assert done.summary["settled"] is False
    assert done.summary["applied"] == "PARTIAL"
    finding = next(finding for finding in done.findings if finding.code == "COMPILE-LIMIT")
    assert "at call 9; 6 of 14 calls ran it eagerly" in finding.message


def test_the_users_own_exception_is_not_a_break(examined):
    analysis, done = examined("raises_a_value_error")
    assert analysis.sites == []
    assert [finding.code for finding in done.findings] == ["TARGET-RAISED"]
    assert "mine, not the compiler's" in done.findings[0].message


@pytest.mark.parametrize(
    ("name", "fails", "passes"),
    [
        ("nested_helper_prints", {"break", "user-break"}, {"recompile"}),
        ("bound_adam_step", {"break"}, {"user-break", "recompile"}),
        ("twelve_strings", {"recompile"}, {"break", "user-break"}),
        ("clean", set(), {"break", "user-break", "recompile"}),
    ],
)
def test_what_fails_at_which_gate(examined, name, fails, passes):
    _, done = examined(name)
    probe = api.load_all()["compile"]
    codes = {g: report.exit_code(done.run, probe, done.findings, fail_on=(g,)) for g in fails | passes}
    assert {gate for gate, code in codes.items() if code == 1} == fails


def test_a_built_in_case_that_breaks_where_it_should_not_fails_at_every_gate():
    values = {"part": "calls", "case": "bfo_generation", "number": 1, "ok": True, "returned": 1.0, "call_s": 0.1}
    call = Observation("call", {**values, "disabled_by": None, "cudagraph_skips": 0})
    header = RunHeader("run", "compile", (), "2026-01-01T00:00:00Z", CaseRecord("0", "builtin"))
    found = report.findings(Run(header, (call,), Outcome.COMPLETE), api.load_all()["compile"])
    assert [finding.code for finding in found] == ["COMPILE-NOT-AS-EXPECTED"]
    assert all(found[0].fails_at(gate) for gate in ("break", "user-break", "recompile"))


def test_a_compiled_module_that_the_step_goes_around_is_said_to_be_bypassed(examined):
    _, done = examined("bypasses_the_compiled_module")
    finding = next(finding for finding in done.findings if finding.code == "COMPILE-BYPASSED")
    assert finding.message.startswith("model went through torch.compile, and the step compiled nothing")
    assert finding.fails_at("user-break")


def test_fullgraph_is_verified_where_the_target_compiles_itself(examined):
    analysis, done = examined("compiled_module_that_breaks", fullgraph=True)
    assert codes(analysis) == ["GB0059"]
    assert done.summary["fullgraph"]["ok"] is False
    _, done = examined("compiles_itself", fullgraph=True)
    assert done.summary["fullgraph"]["ok"] is True


@pytest.mark.parametrize(("name", "breaks"), [("bfo_generation", 0), ("original_pattern", 1), ("adam_step", 1)])
def test_built_in_cases(name, breaks):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = api.examine("compile", f"bfo_diag.cases.compiled:{name}", backend="aot_eager", fullgraph=breaks == 0)
    assert done.summary["sites"] == breaks
    if not breaks:  # the whole generation is one graph
        assert done.summary["captured_graphs"] == 1
        assert done.summary["fullgraph"]["ok"] is True
        assert done.summary["applied"] == "APPLIED"


@pytest.mark.skipif(TORCH < (2, 11), reason="torch 2.8 gives no hint, and 2.6 does not recompile")
def test_a_switch_that_settles_the_recompiles_is_confirmed(examined):
    _, plain = examined("counting_module")
    _, tried = examined("counting_module", try_fixes=True)
    fixes = [next(f.fix for f in done.findings if f.code == "COMPILE-RECOMPILES") for done in (plain, tried)]
    assert [fix.startswith("confirmed in a run of its own") for fix in fixes] == [False, True]


def test_a_switch_that_mends_nothing_is_said_to_have_been_tried(examined):
    _, done = examined("sgd_closure", try_fixes=True)
    (finding,) = [finding for finding in done.findings if finding.code == "GB0123"]
    assert "confirmed" not in finding.fix
    assert ("tried here, and no mend of it alone: trace_autograd_ops" in finding.fix) is (TORCH >= (2, 11))
