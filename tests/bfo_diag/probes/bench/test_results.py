"""What a bench record says, from a record alone."""

from __future__ import annotations

import pytest

from bfo_diag import report
from bfo_diag.errors import DiagError
from bfo_diag.probes import load_all
from bfo_diag.probes.bench.arms import CONTROL, EAGER, chosen
from bfo_diag.records import CaseRecord, Observation, Outcome, Run, RunHeader

PROBE = load_all()["bench"]
MIB = {"peak_rss_mib": 300.0}


def first(arm: str, cache: str, calls: list[float], **more: object) -> Observation:
    frames = [1] + [0] * (len(calls) - 1)
    values = {"arm": arm, "cache": cache, "calls_s": calls, "frames": frames, "compiled": True, "rng_used": False}
    values |= {"same_stream": False, "state": 4, "cache_hits": 0, "cache_misses": 3, "cudagraph_skips": 0, **MIB}
    return Observation("first", {"part": "first", **values, **more})


def measured(
    process: int, eager: float, arm: float, name: str = "default", control: float | None = None
) -> Observation:
    wobble = [1.0, 1.01, 0.99, 1.0, 1.02, 0.98]
    times = {
        EAGER: [eager * w for w in wobble],
        name: [arm * w for w in reversed(wobble)],
        CONTROL: [(control or eager) * w for w in (0.99, 1.0, 1.01, 1.0, 1.0, 1.0)],
    }
    zero = dict.fromkeys(times, 0)
    values = {"process": process, "step_s": times, "events_s": times, "thrown_away": zero, "threads": 2}
    return Observation("measured", {"part": "measure", **values, "device": "cpu", "cudagraph_skips": 0})


def same(ok: bool, arm: str = "default", **more: object) -> Observation:
    values = {"arm": arm, "same_stream": False, "ok": ok, "difference": 1e-6 if ok else 0.5, "where": "state:w"}
    values |= {"tolerance": 1e-5, "eager_difference": 1e-7, "against": "float64 reference", "tensors": 4, "why": ""}
    return Observation("correctness", {"part": "compare", **values, **more})


def run_of(*observations: Observation, **options: object) -> Run:
    header = RunHeader("run", "bench", (), "2026-01-01T00:00:00Z", CaseRecord("0", "case", target="t"), options=options)
    return Run(header, observations, Outcome.COMPLETE)


FIRSTS = (
    first(EAGER, "none", [0.01] * 5),
    first("default", "cold", [10.0, 0.005]),
    first("default", "warm", [2.0, 0.005]),
)


def test_a_faster_mode_has_its_break_even_by_the_formula():
    run = run_of(*FIRSTS, same(True), *(measured(p, 0.010, 0.005) for p in range(5)))
    mode = PROBE.summarise(run)["modes"]["default"]
    assert mode["verdict"] == "faster"
    assert mode["speed_up"]["value"] == pytest.approx(2.0, rel=0.03)
    assert mode["compile_s"] == {"cold": 10.0, "warm": 2.0}
    assert mode["break_even"]["cold"]["steps"]["value"] == pytest.approx((10.0 - 0.010) / 0.005, rel=0.05)
    assert mode["break_even"]["cold"]["minutes"] == pytest.approx(2000 * 0.010 / 60, rel=0.05)
    assert "2.0" in PROBE.verdict(run, ())


@pytest.mark.parametrize(("arm", "verdict"), [(0.010, "no difference"), (0.020, "slower")])
def test_what_is_not_faster_never_pays(arm, verdict):
    run = run_of(*FIRSTS, same(True), *(measured(p, 0.010, arm) for p in range(5)))
    mode = PROBE.summarise(run)["modes"]["default"]
    assert mode["verdict"] == verdict
    assert mode["break_even"]["cold"]["steps"] == "never"


@pytest.mark.parametrize(
    ("options", "best"),
    [
        ({"steps": 100}, "eager"),
        ({"steps": 100_000}, "default"),
        ({"steps": 1000, "folds": 1}, "eager"),
        ({"steps": 1000, "folds": 10}, "default"),
        ({"steps": 100, "trials": 50}, "eager"),
    ],
)
def test_the_advice_counts_every_compile(options, best):
    run = run_of(*FIRSTS, same(True), *(measured(p, 0.010, 0.005) for p in range(5)), **options)
    advice = PROBE.summarise(run)["advice"]
    assert advice["mode"] == best
    runs = options.get("folds", 1) * options.get("trials", 1)
    assert advice["eager_s"] == pytest.approx(runs * options["steps"] * 0.010, rel=0.02)
    expected = 9.99 + (runs - 1) * 1.99 + runs * options["steps"] * 0.005
    assert advice["totals_s"]["default"] == pytest.approx(expected, rel=0.02)


def test_a_mode_that_computes_something_else_is_an_error_and_never_advised():
    run = run_of(*FIRSTS, same(False), *(measured(p, 0.010, 0.005) for p in range(5)), steps=10**6)
    found = report.findings(run, PROBE)
    assert [finding.code for finding in found] == ["BENCH-RESULT-DIFFERS"]
    assert PROBE.summarise(run)["advice"]["mode"] == "eager"


def test_another_stream_of_random_numbers_is_not_wrong():
    run = run_of(*FIRSTS, same(False), same(True, same_stream=True), *(measured(p, 0.010, 0.005) for p in range(5)))
    assert [finding.code for finding in report.findings(run, PROBE)] == ["BENCH-OTHER-STREAM"]
    assert PROBE.summarise(run)["modes"]["default"]["correctness"]["result"] == "different random stream"


def test_a_control_that_is_off_marks_the_whole_result():
    run = run_of(*FIRSTS, same(True), *(measured(p, 0.010, 0.005, control=0.011) for p in range(5)))
    assert "BENCH-NOISY" in [finding.code for finding in report.findings(run, PROBE)]
    assert PROBE.summarise(run)["noisy"] is True
    assert PROBE.verdict(run, ()).startswith("Noisy machine")


def test_blocks_with_a_compile_in_them_do_not_count():
    spoiled = measured(0, 0.010, 0.005)
    times = {**spoiled.values["step_s"], "default": [9.0, *spoiled.values["step_s"]["default"][1:]]}
    times["default"][0] = None
    run = run_of(*FIRSTS, Observation("measured", {**spoiled.values, "step_s": times}))
    assert PROBE.summarise(run)["modes"]["default"]["speed_up"]["value"] == pytest.approx(2.0, rel=0.05)


def test_no_timing_is_no_result():
    run = run_of(*FIRSTS)
    assert not PROBE.measured(run)
    assert PROBE.verdict(run, ()).startswith("Nothing was measured")


def test_cuda_graphs_on_a_cpu_are_said_not_to_be_applied():
    firsts = [first("reduce-overhead", cache, [1.0, 0.005]) for cache in ("cold", "warm")]
    run = run_of(FIRSTS[0], *firsts, *(measured(p, 0.010, 0.005, "reduce-overhead") for p in range(5)))
    assert "CUDA graphs not applied" in PROBE.summarise(run)["modes"]["reduce-overhead"]["cudagraphs"]
    assert "BENCH-NO-CUDAGRAPHS" in [finding.code for finding in report.findings(run, PROBE)]


def test_modes_are_checked():
    assert chosen("default, eager,default") == ["eager", "default"]
    assert chosen("backend:aot_eager") == ["eager", "backend:aot_eager"]
    with pytest.raises(DiagError, match="--modes fast"):
        chosen("fast")
    with pytest.raises(DiagError, match="nothing to compare"):
        chosen("eager")
