"""A compile run as tables, summary and verdict. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bfo_diag.probes.compile.analysis import Analysis, analyses, percent
from bfo_diag.probes.compile.builtin import NAMES
from bfo_diag.probes.compile.judge import as_expected
from bfo_diag.probes.compile.sites import YOURS
from bfo_diag.records import Finding, JSONValue, Outcome, Place, Run
from bfo_diag.shown import Cell, Chart, Series, Table

_MOST_LINES = 8


def tables(run: Run) -> Iterator[Table]:
    """Yield the built-in cases in one table; of a target what explain says and what happened, side by side."""
    found = analyses(run)
    builtin = [analysis for analysis in found if analysis.builtin is not None]
    if builtin:
        yield _builtin_table(builtin)
    for analysis in found:
        if analysis.builtin is None and analysis.calls:
            yield _target_table(analysis)


def _builtin_table(found: list[Analysis]) -> Table:
    rows: list[tuple[str | Cell, ...]] = []
    for analysis in found:
        summary = analysis.summary()
        wrong = as_expected(analysis)
        explain = summary["explain"] or {}
        full = summary["fullgraph"]
        rows.append(
            (
                analysis.name,
                summary["applied"].lower() if analysis.calls else "not measured",
                Cell(_graphs(summary), "", _lines(analysis, "graph")),
                Cell(str(summary["sites"]), "", _lines(analysis, "break")),
                Cell(str(explain.get("graph_break_count", "raised")), "", _lines(analysis, "explain")),
                Cell(_share(summary["coverage"]), "", _lines(analysis, "coverage")),
                Cell(
                    f"{summary['recompiles']}" + ("" if summary["settled"] else " (not settled)"),
                    "",
                    _lines(analysis, "recompile"),
                ),
                "-" if full is None else "one graph" if full["ok"] else "fails",
                "as it should" if wrong is None else Cell(wrong, "bad"),
            )
        )
    return Table(
        title="Built-in cases",
        columns=(
            "case",
            "compile",
            "graphs",
            "sites",
            "explain says",
            "coverage",
            "recompiles",
            "fullgraph",
            "verdict",
        ),
        rows=tuple(rows),
        caption="graphs: forward/backward/inference; sites: places that break the graph; explain says: its break count",
    )


def _lines(analysis: Analysis, kind: str) -> tuple[int, ...]:
    """Return the log lines behind a figure, the first ones of many."""
    part = "calls" if kind in ("break", "graph", "recompile", "call", "compiled") else None
    return tuple(number for number, _ in analysis.of(kind, part=part))[:_MOST_LINES]


def details(run: Run) -> Iterator[Table]:
    """Yield every place that breaks a graph, by file and line."""
    found = [(analysis, site) for analysis in analyses(run) for site in analysis.sites]
    if not found:
        return
    several = len({analysis.name for analysis, _ in found}) > 1
    rows: dict[tuple[str, int, int], tuple[str | Cell, ...]] = {}
    for analysis, site in found:
        place = site.place or site.inner or Place()
        lines = tuple(number for number, _ in site.observations)[:_MOST_LINES]
        case = (analysis.name,) if several else ()
        where = str(place) or "no line: the call of the target"
        row = (
            *case,
            where,
            place.source or "",
            f"{site.code} {site.type}",
            site.owner,
            Cell(str(site.events), "", lines),
        )
        rows[place.file or "", place.line or 0, len(rows)] = row
    head = ("case",) if several else ()
    yield Table(
        title="Places that break the graph",
        columns=(*head, "place", "source", "why", "whose", "events"),
        rows=tuple(rows[key] for key in sorted(rows)),
    )


def charts(run: Run) -> Iterator[Chart]:
    """Yield what was compiled at each call of a target."""
    for analysis in analyses(run):
        if analysis.builtin is not None or not analysis.calls or not any(analysis.compiles):
            continue
        points = tuple(
            (float(call["number"]), float(n)) for call, n in zip(analysis.calls, analysis.compiles, strict=True)
        )
        lines = tuple(number for number, _ in analysis.of("call", part="calls"))
        yield Chart(
            kind="lines",
            title="Compiles at each call",
            x_axis="call",
            y_axis="compiles",
            series=(Series("compiles", points, evidence=lines),),
            caption="a step whose shapes and values have settled compiles nothing at its last calls",
        )


def _graphs(summary: dict[str, JSONValue]) -> str:
    graphs = summary["graphs"]
    return f"{graphs['forward']}/{graphs['backward']}/{graphs['inference']}"


def _share(share: float | None) -> str:
    return "not measured" if share is None else percent(share)


def _target_table(analysis: Analysis) -> Table:
    summary = analysis.summary()
    explain = summary["explain"]
    coverage = analysis.one("coverage") or {}
    seconds = summary["compile_s"]
    owners = {"yours": sum(site.owner == YOURS for site in analysis.sites)}
    others = len(analysis.sites) - owners["yours"]
    if explain is None:
        why = "not asked: the target compiles itself" if analysis.subject.get("compiles_itself") else "not measured"
        explains = (why, why)
    elif "error" in explain:
        explains = (f"raised {explain['error']}",) * 2
    else:
        explains = (str(explain["graph_break_count"]), str(explain["graph_count"]))
    full = summary["fullgraph"]
    rows: list[tuple[str | Cell, ...]] = [
        (
            "places that break the graph",
            Cell(
                f"{summary['sites']} ({owners['yours']} yours, {others} of libraries), "
                f"{_count(summary['events'], 'event')}"
                if analysis.sites
                else "none",
                "",
                _lines(analysis, "break"),
            ),
            Cell(explains[0], "", _lines(analysis, "explain")),
        ),
        (
            "graphs",
            Cell(
                f"{summary['captured_graphs']} (forward/backward/inference {_graphs(summary)})",
                "",
                _lines(analysis, "graph"),
            ),
            Cell(explains[1], "", _lines(analysis, "explain")),
        ),
        (
            "operations inside graphs",
            Cell(_coverage_text(coverage, summary["coverage"]), "", _lines(analysis, "coverage")),
            "-",
        ),
        (
            "compiles at each call",
            Cell(
                f"{' '.join(map(str, summary['compiles']))}; {summary['recompiles']} recompiles, "
                + ("limit hit" if summary["limit_hit"] else "settled" if summary["settled"] else "not settled"),
                "",
                _lines(analysis, "call"),
            ),
            "-",
        ),
        (
            "seconds to compile",
            Cell(
                f"{seconds['total']:.1f} (dynamo {seconds['dynamo']:.1f}, aot {seconds['aot']:.1f}, inductor "
                f"{seconds['inductor']:.1f}, backward {seconds['backward']:.1f})",
                "",
                _lines(analysis, "compiled"),
            ),
            "-",
        ),
    ]
    if full is not None:
        error = "" if full["error"] is None else f": {full['error']}"
        lines = _lines(analysis, "fullgraph")
        said = Cell("one graph", "", lines) if full["ok"] else Cell(f"fails{error}", "bad", lines)
        rows.append(("fullgraph=True", said, "-"))
    skips = max((call["cudagraph_skips"] for call in analysis.calls), default=0)
    if skips:
        rows.append(("CUDA graphs", f"not applied ({skips} skipped)", "-"))
    note = "explain: torch._dynamo.explain, which reports one less than its graphs, of one call"
    if analysis.subject.get("compiles_itself"):
        note = "the target compiles parts of itself: examined as it is, with its own backend and mode"
    part = analysis.subject.get("compiled")
    if part is not None:
        note += f"\ncompiled: {part}, as its framework does it; operations are those of forward, loss and backward"
    return Table(title="Compile", columns=("", "what happened", "what explain says"), rows=tuple(rows), caption=note)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _coverage_text(coverage: Any, share: float | None) -> str:
    if share is None:
        return f"not measured: {coverage.get('why') or 'the survey ended before'}"
    outside = ", ".join(f"{name} x{count}" for name, count in list(coverage.get("outside", {}).items())[:4])
    return percent(share) + (f" (outside: {outside})" if outside and share < 1 else "")


def summarise(run: Run) -> dict[str, JSONValue]:
    """Return the summary of the target, or of each built-in case by its name."""
    found = analyses(run)
    if any(analysis.builtin is not None for analysis in found):
        return {"cases": {analysis.name: analysis.summary() for analysis in found}}
    return found[0].summary() if found else {}


def measured(run: Run) -> bool:
    """Whether anything was compiled, or failed to: of nothing there is nothing to judge."""
    return any(any(analysis.graphs.values()) or analysis.of("compile_error") for analysis in analyses(run))


def verdict(run: Run, findings: tuple[Finding, ...]) -> str:
    """Return the answer in one line."""
    found = analyses(run)
    builtin = [analysis for analysis in found if analysis.builtin is not None]
    if builtin:
        wrong = [analysis.name for analysis in builtin if as_expected(analysis) is not None]
        left = [name for name in NAMES if name not in {analysis.name for analysis in builtin}]
        rest = f" Not examined: {', '.join(left)}." if left else ""
        if wrong:
            named = ", ".join(wrong)
            return f"{len(wrong)} of {len(builtin)} built-in cases are not as they should be: {named}.{rest}"
        return f"{len(builtin)} built-in cases compile as they should.{rest}"
    if found and found[0].of("compile_error"):
        return "NOT APPLIED: torch.compile raised."
    if not found or not found[0].calls:
        return f"Nothing was measured: {_how_it_ended(run)} before a compiled call."
    analysis = found[0]
    state, reason = analysis.applied
    text = f"{state}: {reason}."
    if analysis.subject.get("bypassed"):
        text = f"Your own torch.compile is bypassed. If the whole step were compiled: {text}"
    sites = analysis.sites
    yours = sum(site.owner == YOURS for site in sites)
    if sites:
        text += f" {len(sites)} place{'s' if len(sites) > 1 else ''} break{'s' if len(sites) == 1 else ''} the graph, "
        text += f"{yours} of them yours."
        text += _of_baseline(run, analysis)
    if not analysis.settled and any(analysis.graphs.values()):
        text += " It is compiled again up to the last call." if not analysis.limits else ""
    full = analysis.fullgraph
    if full is None and run.header.options.get("fullgraph"):
        text += f" fullgraph=True: not verified, {_how_it_ended(run)}."
    if full is not None:
        text += " fullgraph=True: one graph." if full["ok"] else " fullgraph=True: fails."
    return text


def _how_it_ended(run: Run) -> str:
    if run.outcome is Outcome.INTERRUPTED:
        return "the run was interrupted"
    for _, observation in run.of_kind("timed_out"):
        return f"the time limit was reached ({observation.values.get('phase')})"
    return "the target ended"


def _of_baseline(run: Run, analysis: Analysis) -> str:
    for _, observation in run.of_kind("baseline"):
        file = Path(observation.values["file"])
        known = {entry["key"] for entry in observation.values["sites"]}
        if observation.values["written"]:
            return f" Wrote {len(known)} to {file}."
        new = sum(site.key(file.parent) not in known for site in analysis.sites)
        return f" {new} new, {len(analysis.sites) - new} known from {file.name}."
    return ""
