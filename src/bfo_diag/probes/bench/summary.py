"""A bench run as tables, summary and verdict. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator

from bfo_diag.probes.bench import statistics as st
from bfo_diag.probes.bench.arms import AS_IT_IS, EAGER
from bfo_diag.probes.bench.results import Advice, Case, Mode, cases
from bfo_diag.records import Finding, JSONValue, Run
from bfo_diag.shown import Cell, Chart, Series, Table


def tables(run: Run) -> Iterator[Table]:
    """Yield the modes of each case, and the advice."""
    for case in cases(run):
        if not case.of("first"):
            continue
        yield _modes(case)


def _modes(case: Case) -> Table:
    rows: list[tuple[str | Cell, ...]] = []
    eager_s = case.median_s(EAGER)
    timed, first = case.line("measured"), case.line("first", arm=EAGER)
    rows.append(
        (
            EAGER,
            Cell(duration(eager_s), "", timed),
            "1 (baseline)",
            "-",
            "-",
            "-",
            Cell(_memory(case, EAGER), "", first),
            "-",
        )
    )
    control = case.control
    if control is not None:
        tone = "bad" if case.noisy else "muted"
        noisy = Cell("noisy machine" if case.noisy else "control", tone)
        rows.append(("eager again (A/A)", "-", Cell(interval(control), tone, timed), noisy, "-", "-", "-", "-"))
    for mode in case.modes:
        word, compared = case.correctness(mode.name)
        first = case.line("first", arm=mode.name)
        if compared is not None:
            word += f" ({compared['difference']:.1g})"
            word += f", {compared['ill_conditioned']} not judged" if compared["ill_conditioned"] else ""
        failed = [f for f in case.of("mode_failed") if f["arm"] == mode.name and not f["same_stream"]]
        if failed and mode.ratio is None:
            rows.append((mode.name, Cell("not measured: it failed", "bad"), *("-",) * 6))
            continue
        rows.append(
            (
                mode.name,
                Cell(duration(mode.step_s), "", timed),
                Cell("not measured" if mode.ratio is None else interval(mode.ratio), "", timed),
                Cell(_word(case, mode), "bad" if mode.verdict == "slower" else ""),
                Cell(_compile(mode), "", first),
                Cell(_break_even(case, mode), "", (*first, *timed)),
                Cell(_memory(case, mode.name), "", first),
                Cell(word, "bad" if word.startswith("differs") else "", case.line("correctness", arm=mode.name)),
            )
        )
    processes = case.processes
    threads = f", {processes[0]['threads']} threads" if processes else ""
    device = processes[0]["device"] if processes else "?"
    itself = ""
    if any(mode.name == AS_IT_IS for mode in case.modes):
        itself = "; the target calls torch.compile itself: --modes do not reach it, and eager is it with that off"
    cache = next((mode.first_cache for mode in case.modes), "cold")
    return Table(
        title=f"{case.name}: time of a step, {len(processes)} processes on {device}{threads}",
        columns=(
            "mode",
            "step",
            "speed-up [95 %]",
            "verdict",
            f"compile {cache} / warm",
            "pays after",
            "peak",
            "result",
        ),
        rows=tuple(rows),
        caption="speed-up: eager time / mode's time, median of interleaved pairs; peak: of the process, with torch and "
        "what compiles; result: relative difference after 5 steps" + itself,
    )


def charts(run: Run) -> Iterator[Chart]:
    """Yield for each case the speed-ups with their intervals, and the time that so many steps take."""
    for case in cases(run):
        measured = [mode for mode in case.modes if mode.ratio is not None]
        if not measured:
            continue
        timed = case.line("measured")
        ratios = [("eager again (A/A)", case.control), *((mode.name, mode.ratio) for mode in measured)]
        yield Chart(
            kind="intervals",
            title=f"{case.name}: speed-up over eager",
            x_axis="mode",
            y_axis="eager time / mode's time",
            series=tuple(
                Series(name, ((0.0, found.value),), ((found.low, found.high),), timed)
                for name, found in ratios
                if found is not None
            ),
            caption="95 % intervals over processes; an interval that holds 1, or the control's, is no difference",
            reference=1.0,
        )
        yield from _break_even_chart(case, measured)


def _break_even_chart(case: Case, modes: list[Mode]) -> Iterator[Chart]:
    """Yield the total time over steps, eager against compiled: where the lines cross, the compile has paid."""
    eager_s = case.median_s(EAGER)
    even = [mode.break_even(mode.first_cache).steps for mode in modes]
    longest = max((found.value for found in even if found is not None), default=0.0)
    if eager_s is None or not longest:
        return
    end = 2 * longest
    lines = [Series(EAGER, ((0.0, 0.0), (end, end * eager_s)), evidence=case.line("measured"))]
    for mode in modes:
        for cache, cost_s in mode.cost_s.items():
            if mode.step_s is None:
                continue
            points = ((0.0, max(0.0, cost_s)), (end, max(0.0, cost_s) + end * mode.step_s))
            evidence = (*case.line("first", arm=mode.name, cache=cache), *case.line("measured"))
            lines.append(Series(f"{mode.name}, {cache} cache", points, evidence=evidence))
    yield Chart(
        kind="lines",
        title=f"{case.name}: when a compile has paid for itself",
        x_axis="steps",
        y_axis="total time (s)",
        series=tuple(lines),
        caption="what the first calls took beyond steady ones, then the median time of a step",
    )


def duration(seconds: float | None) -> str:
    """Return a time in the unit that suits it."""
    if seconds is None:
        return "not measured"
    for limit, unit, factor in ((1e-3, "us", 1e6), (1.0, "ms", 1e3), (120.0, "s", 1.0), (7200.0, "min", 1 / 60)):
        if seconds < limit:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds / 3600:.3g} h"


def interval(found: st.Interval) -> str:
    """Return `1.52 [1.47, 1.60]`."""
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _word(case: Case, mode: Mode) -> str:
    """Return the verdict of a mode; where the control is off, not to see a difference is not to know."""
    return "too noisy to tell" if case.noisy and mode.verdict == "no difference" else mode.verdict


def _compile(mode: Mode) -> str:
    shown = [duration(mode.compile_s[c]) if c in mode.compile_s else "-" for c in (mode.first_cache, "warm")]
    return " / ".join(shown)


def _break_even(case: Case, mode: Mode) -> str:
    found = mode.break_even(mode.first_cache)
    if found.steps is None and case.noisy and mode.verdict == "no difference":
        return "not known: noisy"
    if found.steps is None:
        return "never" if mode.ratio is not None else "-"
    eager_s = case.median_s(EAGER) or 0.0
    low, high = found.steps.low, found.steps.high
    return f"{found.steps.value:,.0f} steps [{low:,.0f}, {high:,.0f}], {duration(found.steps.value * eager_s)}"


def _memory(case: Case, arm: str) -> str:
    found = case.memory(arm)
    if "cuda_allocated_mib" in found:
        return f"{found['cuda_allocated_mib']:.0f} MiB, {found['cuda_reserved_mib']:.0f} reserved"
    return f"{found['peak_rss_mib']:.0f} MiB" if "peak_rss_mib" in found else "-"


def summarise(run: Run) -> dict[str, JSONValue]:
    """Return the summary of the target, or of each built-in case by its name."""
    found = cases(run)
    if run.header.case.target is None and found:
        return {"cases": {case.name: _summary(case) for case in found}}
    return _summary(found[0]) if found else {}


def _summary(case: Case) -> dict[str, JSONValue]:
    processes = case.processes
    advice = case.advice
    return {
        "device": processes[0]["device"] if processes else None,
        "threads": processes[0]["threads"] if processes else None,
        "processes": len(processes),
        "eager_step_s": case.median_s(EAGER),
        "control": _interval(case.control),
        "noisy": case.noisy,
        "thrown_away": {arm: sum(p["thrown_away"].get(arm, 0) for p in processes) for arm in (EAGER, *case.arms)},
        "modes": {mode.name: _mode(case, mode) for mode in case.modes},
        "advice": None
        if advice is None
        else {
            "steps": advice.steps,
            "runs": advice.runs,
            "mode": advice.best,
            "eager_s": advice.eager_s,
            "mode_s": advice.best_s,
            "totals_s": dict(advice.totals_s),
        },
    }


def _mode(case: Case, mode: Mode) -> dict[str, JSONValue]:
    word, compared = case.correctness(mode.name)
    eager_s = case.median_s(EAGER)
    even = {}
    for cache in mode.cost_s:
        found = mode.break_even(cache)
        even[cache] = {
            "steps": "never" if found.steps is None else _interval(found.steps),
            "minutes": None if found.steps is None or eager_s is None else found.steps.value * eager_s / 60,
            "why": found.why,
        }
    return {
        "step_s": mode.step_s,
        "cuda_step_s": case.cuda_median_s(mode.name),
        "speed_up": _interval(mode.ratio),
        "verdict": mode.verdict,
        "compile_s": dict(mode.compile_s),
        "cache": {
            first["cache"]: {"hits": first["cache_hits"], "misses": first["cache_misses"]}
            for first in case.of("first")
            if first["arm"] == mode.name and not first["same_stream"]
        },
        "break_even": even,
        "memory": case.memory(mode.name),
        "eager_memory": case.memory(EAGER),
        "correctness": {"result": word, **({} if compared is None else {k: compared[k] for k in _COMPARED})},
        "cudagraphs": case.cudagraphs(mode.name),
    }


_COMPARED = ("difference", "where", "tolerance", "against", "eager_difference", "tensors", "ill_conditioned")


def _interval(found: st.Interval | None) -> dict[str, float] | None:
    return None if found is None else {"value": found.value, "low": found.low, "high": found.high}


def measured(run: Run) -> bool:
    """Whether any process timed anything."""
    return any(case.processes for case in cases(run))


def verdict(run: Run, findings: tuple[Finding, ...]) -> str:
    """Return the answer in one line, or one a case."""
    found = [case for case in cases(run) if case.processes]
    if not found:
        return "Nothing was measured: no process timed a step."
    return "\n".join((f"{case.name}: " if len(found) > 1 else "") + _answer(case) for case in found)


def _answer(case: Case) -> str:
    noisy = "Noisy machine, take this with care: " if case.noisy else ""
    parts = [_of_mode(case, mode) for mode in case.modes if mode.ratio is not None]
    text = noisy + "; ".join(parts) + "."
    if len(case.processes) < 5:
        text += f" Only {len(case.processes)} process{'es' if len(case.processes) > 1 else ''}: five tell more."
    advice = case.advice
    return text if advice is None else f"{text} {_advice(advice)}"


def _of_mode(case: Case, mode: Mode) -> str:
    assert mode.ratio is not None
    if case.noisy and mode.verdict == "no difference":
        return f"{mode.name}: can't be told from eager in this noise"
    if mode.verdict == "no difference":
        return f"{mode.name}: no difference, so compiling never pays"
    if mode.verdict == "slower":
        return f"{mode.name}: slower, at {mode.ratio.value:.2f} of eager's speed"
    return f"{mode.name}: {mode.ratio.value:.2f} times eager's speed, pays after {_break_even(case, mode)}"


def _advice(advice: Advice) -> str:
    times = f"{advice.runs} x " if advice.runs > 1 else ""
    what = f"For {times}{advice.steps:,} steps: "
    if advice.best == EAGER:
        return f"{what}do not compile; eager takes {duration(advice.eager_s)}, and no mode is sure to take less."
    saved, whole = duration(advice.eager_s - advice.best_s), duration(advice.eager_s)
    return f"{what}compile with {advice.best}; it takes {duration(advice.best_s)} and saves {saved} of {whole}."
