"""Findings from a record alone."""

from __future__ import annotations

from pathlib import Path

from bfo_diag import report
from bfo_diag.probes import load_all
from bfo_diag.probes.compile.sites import group
from bfo_diag.records import CaseRecord, Observation, Outcome, Place, Run, RunHeader, Severity

PROBE = load_all()["compile"]
USER = {"file": "/home/me/train.py", "line": 3, "function": "step", "source": "print(x)", "owner": "user"}
TORCH = {"file": "/env/site-packages/torch/optim/optimizer.py", "line": 79, "function": "f", "source": "graph_break()"}


def graph_break(code: str, *frames: dict, call: int = 1, kind: str = "break", **more: object) -> Observation:
    values = {
        "part": "calls",
        "call": call,
        "compile_id": "0/0",
        "code": code,
        "type": "a type",
        "explanation": "",
        "hints": [],
        "context": "",
        "url": "",
        "cascade": [],
        "frames": list(frames),
        "raw": "",
        **more,
    }
    shown = next((f for f in reversed(frames) if f["owner"] == "user"), frames[-1] if frames else None)
    place = None if shown is None else Place(shown["file"], shown["line"], shown["source"], shown["function"])
    return Observation(kind, values, place)


def call(number: int, **more: object) -> Observation:
    values = {"number": number, "ok": True, "returned": 1.0, "disabled_by": None, "cudagraph_skips": 0, "call_s": 0.1}
    return Observation("call", {"part": "calls", **values, **more})


def compiled(call: int, compile_id: str = "0/0") -> list[Observation]:
    common = {"part": "calls", "call": call, "compile_id": compile_id}
    return [
        Observation("compile", {**common, "function": "step", "file": "/home/me/train.py", "line": 1}),
        Observation("graph", {**common, "direction": "captured"}),
        Observation("graph", {**common, "direction": "inference"}),
    ]


def run_of(*observations: Observation) -> Run:
    case = CaseRecord("0", "case", target="t.py:step")
    return Run(RunHeader("run", "compile", (), "2026-01-01T00:00:00Z", case), observations, Outcome.COMPLETE)


def test_breaks_are_grouped_by_place_and_reason():
    other = {**USER, "line": 9}
    sites = group(
        enumerate([graph_break("GB0059", USER), graph_break("GB0059", USER), graph_break("GB0059", other)], 1)
    )
    assert [(site.place.line, site.events) for site in sites] == [(3, 2), (9, 1)]


def test_two_reasons_on_one_line_are_two_sites():
    assert len(group(enumerate([graph_break("GB0059", USER), graph_break("GB0124", USER)], 1))) == 2


def test_owners():
    torch = {**TORCH, "owner": "torch"}
    library = {**TORCH, "file": "/env/site-packages/einops/einops.py", "owner": "library"}
    python = {**TORCH, "file": "/usr/lib/python3.11/logging/__init__.py", "owner": "python"}
    breaks = [
        graph_break("GB0025", USER, torch),
        graph_break("GB0170", USER, torch),
        graph_break("GB0170", USER, library),
        graph_break("GB0059", USER, python),
        graph_break("GB0025", USER),
        graph_break("GB0025", torch),
    ]
    owners = [group([(1, seen)])[0].owner for seen in breaks]
    assert owners == ["torch on purpose", "library", "library", "yours", "yours", "torch on purpose"]


def test_an_exception_that_left_the_call_is_no_break():
    seen = graph_break("GB0088", USER, call=2)
    assert len(group([(1, seen)])) == 1
    assert group([(1, seen)], raised_in=frozenset({2})) == []


def test_a_break_of_yours_fails_and_one_of_torch_does_not():
    torch = {**TORCH, "owner": "torch"}
    run = run_of(*compiled(1), graph_break("GB0059", USER), graph_break("GB0025", torch), call(1), call(2))
    found = {finding.code: finding for finding in report.findings(run, PROBE)}
    assert found["GB0059"].severity is Severity.WARNING
    assert found["GB0059"].fails_at("user-break")
    assert found["GB0025"].severity is Severity.NOTE
    assert not found["GB0025"].fails_at("user-break")
    assert found["GB0025"].fails_at("break")
    assert report.exit_code(run, PROBE, tuple(found.values()), fail_on=("user-break",)) == 1


def test_a_hostile_line_of_source_stays_text():
    nasty = "</script><b>[link=http://a]x[/link]\x1b[31m"
    run = run_of(*compiled(1), graph_break("GB0059", {**USER, "source": nasty}, explanation=nasty), call(1))
    (finding,) = [f for f in report.findings(run, PROBE) if f.code == "GB0059"]
    assert finding.place.source == nasty
    assert nasty in finding.message


def test_a_record_without_any_call_is_never_a_pass():
    run = run_of(Observation("part_started", {"part": "survey"}))
    assert not PROBE.measured(run)
    assert PROBE.verdict(run, ()).startswith("Nothing was measured")
    assert PROBE.summarise(run)["applied"] == "NOT APPLIED"


def test_the_key_of_a_site_holds_no_line_number_and_no_folder_above_the_package(tmp_path):
    def key(file: str, line: int, source: str, root: Path | None, kind: str = "a type") -> str:
        frame = {"file": file, "line": line, "function": "f", "source": source, "owner": "user"}
        return group([(1, graph_break("GB0059", frame, type=kind))])[0].key(root)

    library = key("/one/site-packages/lib/a.py", 3, "x  =  1", None)
    assert library == key("/two/lib/python3/site-packages/lib/a.py", 99, "x = 1", tmp_path)
    assert library != key("/one/site-packages/lib/a.py", 3, "x = 1", None, "another type")
    here, there = tmp_path / "here", tmp_path / "there"
    assert key(f"{here}/src/a.py", 3, "x = 1", here) == key(f"{there}/src/a.py", 7, "x = 1", there)
    assert key(f"{here}/src/a.py", 3, "x = 1", here) != key(f"{here}/other/a.py", 3, "x = 1", here)


def test_a_process_that_died_under_fullgraph_is_said_to_have_died():
    full = Observation("fullgraph", {"part": "fullgraph", "ok": False, "graphs": 0, "raised": False, "died": "SIGSEGV"})
    run = run_of(*compiled(1), call(1), call(2), full)
    (finding,) = [f for f in report.findings(run, PROBE) if f.code == "COMPILE-FULLGRAPH"]
    assert finding.message == "with fullgraph=True the process died: SIGSEGV."
