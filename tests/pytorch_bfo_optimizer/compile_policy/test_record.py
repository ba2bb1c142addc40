from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bfo_diag.probes import load_all
from bfo_diag.probes.bench.arms import CONTROL, EAGER
from bfo_diag.records import CaseRecord, Observation, Outcome, Run, RunHeader
from pytorch_bfo_optimizer.compile_policy import CompilePolicy
from pytorch_bfo_optimizer.compile_policy.decision import Plan, by_record
from pytorch_bfo_optimizer.compile_policy.record import read_record
from pytorch_bfo_optimizer.errors import HyperparameterError

from .conftest import training

EVEN = {"value": 9000.0, "low": 8000.0, "high": 11000.0}


def mode(**changed: Any) -> dict[str, Any]:
    """One mode as `bfo-diag bench --json` writes it."""
    return {
        "step_s": 0.008,
        "speed_up": {"value": 1.25, "low": 1.2, "high": 1.3},
        "verdict": "faster",
        "compile_s": {"cold": 20.0, "warm": 3.0},
        "break_even": {
            "cold": {"steps": EVEN, "minutes": 1.5, "why": ""},
            "warm": {"steps": {**EVEN, "value": 900.0}, "minutes": 0.15, "why": ""},
        },
        "correctness": {"result": "same", "difference": 1e-7},
        **changed,
    }


def document(**modes: Any) -> dict[str, Any]:
    summary = {"device": "cpu", "eager_step_s": 0.01, "modes": modes or {"default": mode()}}
    return {"schema": 1, "probe": "bench", "summary": summary}


def test_a_path_a_document_and_a_summary_are_read_alike(tmp_path: Path) -> None:
    written = tmp_path / "bench.json"
    written.write_text(json.dumps(document()), "utf-8")
    case = {"summary": {"cases": {"mlp": document()["summary"]}}}
    for record in (written, str(written), document(), document()["summary"], case):
        found = read_record(record, "default")
        assert (found.cold, found.warm, found.why_not) == (9000, 900, "")
        assert (found.t_eager, found.t_compiled, found.compile_s, found.device) == (0.01, 0.008, 20.0, "cpu")


def test_a_cache_as_it_is_stands_for_cold() -> None:
    even = {"as it is": {"steps": EVEN}}
    found = read_record(document(default=mode(break_even=even, compile_s={"as it is": 7.0})), "default")
    assert (found.cold, found.warm, found.compile_s) == (9000, None, 7.0)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"verdict": "slower"}, "slower"),
        ({"verdict": "no difference"}, "no difference"),
        ({"correctness": {"result": "differs"}}, "differ"),
        ({"correctness": {"result": "different random stream"}}, ""),
        ({"correctness": None}, ""),
    ],
)
def test_what_speaks_against_a_mode(changed: dict[str, Any], why: str) -> None:
    found = read_record(document(default=mode(**changed)), "default").why_not
    assert (why in found) if why else found == ""


def test_never_is_no_number() -> None:
    even = {"cold": {"steps": "never"}, "warm": {"steps": "never"}}
    assert read_record(document(default=mode(break_even=even)), "default").cold is None


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ("no/such/file.json", "can't be read"),
        (document(**{"max-autotune": mode()}), "it has: max-autotune"),
        ({"summary": {}}, "no bench"),
        ({"summary": {"cases": {"a": {}, "b": {}}}}, "several cases"),
        (document(default=mode(break_even={})), "not measured"),
        (document(default={"step_s": 1}), "does not read"),
        (document(default=mode(break_even={"cold": {"steps": None}})), "does not read"),
    ],
)
def test_what_is_no_record_of_the_mode_is_said(record: Any, says: str) -> None:
    with pytest.raises(HyperparameterError, match=says):
        read_record(record, "default")


def test_a_file_that_holds_something_else(tmp_path: Path) -> None:
    for text, says in (("[1]", "no JSON object"), ("{", "can't be read")):
        (tmp_path / "r.json").write_text(text)
        with pytest.raises(HyperparameterError, match=says):
            read_record(tmp_path / "r.json", "default")


@pytest.mark.parametrize(("steps", "applied"), [(9001, True), (9000, False)])
def test_the_policy_follows_the_record_and_times_nothing(steps: int, applied: bool) -> None:
    def no_clock() -> float:
        raise AssertionError("something was timed")

    run = training()
    record = document(**{"backend:eager": mode()})
    policy = CompilePolicy(steps=steps, record=record, backend="eager", clock=no_clock)
    policy.apply(run.model, probe=run.step)
    report = policy.report()
    assert report.status == ("APPLIED" if applied else "NOT APPLIED")
    assert report.decision is not None
    assert (report.decision.source, report.decision.use_compile) == ("record", applied)
    assert report.proved == (("forward", "backward", "optimizer step") if applied else ())
    assert run.losses == []


def test_a_record_of_another_device_decides_nothing() -> None:
    record = document()
    record["summary"]["device"] = "cuda:0"
    with pytest.raises(HyperparameterError, match="measured on cuda:0, and Net is on cpu"):
        CompilePolicy(steps=10, record=record).apply(training().model)


def summary_of_a_bench(steps: int) -> dict[str, Any]:
    """What the tool itself makes of timings: eager 10 ms, compiled 5 ms, a compile of 10 s cold and 2 s warm."""
    wobble = (1.0, 1.01, 0.99, 1.0, 1.02, 0.98)
    times = {"default": 0.005, EAGER: 0.01, CONTROL: 0.01}
    step_s = {arm: [seconds * w for w in wobble] for arm, seconds in times.items()}
    zero = dict.fromkeys(times, 0)
    timed = {"part": "measure", "step_s": step_s, "cuda_step_s": {}, "thrown_away": zero, "threads": 2, "device": "cpu"}
    first = {"part": "first", "arm": "default", "compile_events": [1, 0], "same_stream": False, "cache_hits": 0}
    first |= {"cache_misses": 3, "cudagraph_skips": 0, "cudagraph_reasons": [], "peak_rss_mib": 300.0}
    observations = [Observation("measured", {**timed, "process": process}) for process in range(5)]
    for cache, seconds in (("cold", 10.0), ("warm", 2.0)):
        observations.append(Observation("first", {**first, "cache": cache, "calls_s": [seconds, 0.005]}))
    case = CaseRecord("0", "case", target="t")
    header = RunHeader("run", "bench", (), "2026-01-01T00:00:00Z", case, options={"steps": steps, "folds": 3})
    return load_all()["bench"].summarise(Run(header, tuple(observations), Outcome.COMPLETE))


@pytest.mark.parametrize("steps", [200, 900, 1000, 50_000])
def test_the_policy_decides_as_the_bench_advises(steps: int) -> None:
    """In units of steps: 2,000 cold and two times 400 warm, for three trainings."""
    summary = json.loads(json.dumps(summary_of_a_bench(steps)))
    recorded = read_record({"summary": summary}, "default")
    assert (recorded.cold, recorded.warm) == (pytest.approx(2000, rel=0.05), pytest.approx(400, rel=0.05))
    advised = summary["advice"]["mode"] == "default"
    assert advised == (steps > 933)
    assert by_record(Plan(steps, folds=3), recorded).use_compile == advised
