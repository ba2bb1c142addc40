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
    events = [1] + [0] * (len(calls) - 1)
    values = {"arm": arm, "cache": cache, "calls_s": calls, "compile_events": events, "graphs": 1, "rng_used": False}
    values |= {"same_stream": False, "cache_hits": 0, "cache_misses": 3, "cudagraph_skips": 0, **MIB}
    values |= {"cudagraph_reasons": []}
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
    values = {"process": process, "step_s": times, "cuda_step_s": {}, "thrown_away": zero, "threads": 2}
    return Observation("measured", {"part": "measure", **values, "device": "cpu"})


def same(ok: bool, arm: str = "default", **more: object) -> Observation:
    values = {"arm": arm, "same_stream": False, "ok": ok, "difference": 1e-6 if ok else 0.5, "where": "state:w"}
    values |= {"tolerance": 1e-5, "eager_difference": 1e-7, "against": "float64 reference", "tensors": 4, "why": ""}
    values |= {"ill_conditioned": 0}
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
    assert mode["break_even"]["cold"]["steps"]["value"] == pytest.approx(1 + (10.0 - 0.010) / 0.005, rel=0.05)
    assert mode["break_even"]["cold"]["minutes"] == pytest.approx(2000 * 0.010 / 60, rel=0.05)
    assert mode["cache"] == {name: {"hits": 0, "misses": 3} for name in ("cold", "warm")}
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
    expected = 9.995 + (runs - 1) * 1.995 + runs * options["steps"] * 0.005
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


def test_with_the_cache_as_it_is_the_first_run_is_what_counts():
    firsts = (FIRSTS[0], first("default", "as it is", [60.0, 0.005]), first("default", "warm", [6.0, 0.005]))
    run = run_of(*firsts, *(measured(p, 0.010, 0.005) for p in range(5)), steps=2000, cold=False)
    summary = PROBE.summarise(run)
    assert summary["modes"]["default"]["break_even"]["as it is"]["steps"]["value"] == pytest.approx(12_000, rel=0.05)
    assert summary["advice"]["mode"] == "eager"


def test_a_backward_that_is_compiled_at_a_later_call_is_part_of_the_cost():
    late = first("default", "cold", [4.0, 0.005, 2.0, 0.005], compile_events=[9, 0, 3, 0])
    run = run_of(FIRSTS[0], late, *(measured(p, 0.010, 0.005) for p in range(5)))
    assert PROBE.summarise(run)["modes"]["default"]["compile_s"]["cold"] == pytest.approx(6.005)


def test_no_graph_is_no_compile():
    none = [first("default", cache, [1.0, 0.010], graphs=0) for cache in ("cold", "warm")]
    run = run_of(FIRSTS[0], *none, same(True), *(measured(p, 0.010, 0.010) for p in range(5)))
    assert [finding.code for finding in report.findings(run, PROBE)] == ["BENCH-NOT-COMPILED"]


def test_a_rerun_with_eagers_stream_that_fails_hides_nothing():
    failed = {"part": "first", "arm": "default", "cache": "warm", "same_stream": True, "step": 1, "error": "E: x"}
    again = Observation("correctness", {**same(False, same_stream=True).values, "ok": None})
    run = run_of(
        *FIRSTS,
        same(False),
        Observation("mode_failed", failed),
        again,
        *(measured(p, 0.010, 0.005) for p in range(5)),
    )
    assert [finding.code for finding in report.findings(run, PROBE)] == ["BENCH-RESULT-DIFFERS"]


def charts_of(run):
    return {chart.title.partition(": ")[2]: chart for chart in PROBE.charts(run)}


def test_the_chart_of_speed_ups_has_each_mode_with_its_interval_beside_the_control():
    run = run_of(*FIRSTS, same(True), *(measured(p, 0.010, 0.005) for p in range(5)))
    chart = charts_of(run)["speed-up over eager"]
    summary = PROBE.summarise(run)
    assert chart.reference == 1.0
    assert [series.name for series in chart.series] == ["eager again (A/A)", "default"]
    for series, found in zip(chart.series, (summary["control"], summary["modes"]["default"]["speed_up"]), strict=True):
        assert series.points == ((0.0, found["value"]),)
        assert series.intervals == ((found["low"], found["high"]),)
        assert [run.observations[number - 1].kind for number in series.evidence] == ["measured"] * 5


def test_the_lines_of_the_break_even_chart_cross_where_the_compile_has_paid():
    run = run_of(*FIRSTS, same(True), *(measured(p, 0.010, 0.005) for p in range(5)))
    eager, cold, warm = charts_of(run)["when a compile has paid for itself"].series
    steps = PROBE.summarise(run)["modes"]["default"]["break_even"]["cold"]["steps"]["value"]
    assert [cold.name, warm.name] == ["default, cold cache", "default, warm cache"]

    def at(series, x):
        (x0, y0), (x1, y1) = series.points
        return y0 + (y1 - y0) * (x - x0) / (x1 - x0)

    assert at(eager, steps) == pytest.approx(at(cold, steps), rel=0.02)
    assert at(eager, steps / 2) < at(cold, steps / 2)
    assert at(warm, steps) < at(cold, steps)
    kinds = {run.observations[number - 1].kind for number in cold.evidence}
    assert kinds == {"first", "measured"}


def test_a_mode_that_never_pays_has_no_break_even_chart():
    run = run_of(*FIRSTS, same(True), *(measured(p, 0.010, 0.020) for p in range(5)))
    assert list(charts_of(run)) == ["speed-up over eager"]


def test_on_a_noisy_machine_no_difference_is_not_known_and_not_never():
    run = run_of(*FIRSTS, same(True), *(measured(p, 0.010, 0.010, control=0.016) for p in range(5)))
    assert PROBE.summarise(run)["noisy"]
    assert "default: can't be told from eager in this noise" in PROBE.verdict(run, ())
    assert "never pays" not in PROBE.verdict(run, ())
    cells = [getattr(cell, "text", cell) for table in PROBE.tables(run) for row in table.rows for cell in row]
    assert "too noisy to tell" in cells
    assert "not known: noisy" in cells


def test_figures_of_the_table_name_the_lines_that_they_come_from():
    run = run_of(*FIRSTS, same(True), *(measured(p, 0.010, 0.005) for p in range(5)))
    (table,) = PROBE.tables(run)
    row = dict(zip(table.columns, next(row for row in table.rows if row[0] == "default"), strict=True))
    kinds = {
        head: sorted({run.observations[number - 1].kind for number in cell.evidence})
        for head, cell in row.items()
        if getattr(cell, "evidence", ())
    }
    assert kinds == {
        "step": ["measured"],
        "speed-up [95 %]": ["measured"],
        "compile cold / warm": ["first"],
        "pays after": ["first", "measured"],
        "peak": ["first"],
        "result": ["correctness"],
    }
