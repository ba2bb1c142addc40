"""A compile run as tables, summary and verdict. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bfo_diag.probes.compile.analysis import Analysis, analyses, percent
from bfo_diag.probes.compile.judge import as_expected
from bfo_diag.probes.compile.sites import YOURS
from bfo_diag.records import Cell, Finding, JSONValue, Outcome, Run, Table


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
                _graphs(summary),
                str(summary["sites"]),
                str(explain.get("graph_break_count", "raised")),
                _share(summary["coverage"]),
                f"{summary['recompiles']}" + ("" if summary["settled"] else " (not settled)"),
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
        said = "not asked: the target compiles itself" if analysis.subject.get("compiles_itself") else "not measured"
        explains = (said, said)
    elif "error" in explain:
        explains = (f"raised {explain['error']}",) * 2
    else:
        explains = (str(explain["graph_break_count"]), str(explain["graph_count"]))
    full = summary["fullgraph"]
    rows: list[tuple[str | Cell, ...]] = [
        (
            "places that break the graph",
            f"{summary['sites']} ({owners['yours']} yours, {others} of libraries), {_count(summary['events'], 'event')}"
            if analysis.sites
            else "none",
            explains[0],
        ),
        ("graphs", f"{summary['captured_graphs']} (forward/backward/inference {_graphs(summary)})", explains[1]),
        ("operations inside graphs", _coverage_text(coverage, summary["coverage"]), "-"),
        (
            "compiles at each call",
            f"{' '.join(map(str, summary['compiles']))}; {summary['recompiles']} recompiles, "
            + ("limit hit" if summary["limit_hit"] else "settled" if summary["settled"] else "not settled"),
            "-",
        ),
        (
            "seconds to compile",
            f"{seconds['total']:.1f} (dynamo {seconds['dynamo']:.1f}, aot {seconds['aot']:.1f}, inductor "
            f"{seconds['inductor']:.1f}, backward {seconds['backward']:.1f})",
            "-",
        ),
    ]
    if full is not None:
        error = "" if full["error"] is None else f": {full['error']}"
        rows.append(("fullgraph=True", "one graph" if full["ok"] else Cell(f"fails{error}", "bad"), "-"))
    skips = max((call["cudagraph_skips"] for call in analysis.calls), default=0)
    if skips:
        rows.append(("CUDA graphs", f"not applied ({skips} skipped)", "-"))
    note = "explain: torch._dynamo.explain, which reports one less than its graphs, of one call"
    if analysis.subject.get("compiles_itself"):
        note = "the target compiles parts of itself: examined as it is, with its own backend and mode"
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
        if wrong:
            return f"{len(wrong)} of {len(builtin)} built-in cases are not as they should be: {', '.join(wrong)}."
        return f"{len(builtin)} built-in cases compile as they should."
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
