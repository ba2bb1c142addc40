"""From a run and its probe to findings, exit code, a `Report`, and the sections of a page. Values only, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from bfo_diag.commands import command_line
from bfo_diag.errors import ExitCode
from bfo_diag.findings import catalogue
from bfo_diag.probes import Probe
from bfo_diag.recognised import recognise, recognise_refusal
from bfo_diag.records import SCHEMA, Finding, JSONValue, Outcome, Place, Run, Severity, dumps
from bfo_diag.shown import Cell, Excerpt, Report, Review, Section

_DAMAGED = 5
"""Damaged lines that are named; a log may hold a million."""
_AROUND = 4
"""Source lines shown before and after a finding's."""
SourceText = Callable[[str], "str | None"]
"""Returns the text of a file as it was when it ran, by the name it has in the record; None where it is not kept."""


def findings(run: Run, probe: Probe) -> tuple[Finding, ...]:
    """Return how the run ended and what the probe makes of it, the gravest first, else in the probe's order."""
    found = [*_of_the_run(run), *probe.judge(run)]
    return tuple(sorted(found, key=lambda finding: -finding.severity.rank))


def _of_the_run(run: Run) -> list[Finding]:
    entries = catalogue()
    found: list[Finding] = []
    for number, observation in run.of_kind("raised"):
        values = observation.values
        code = "TARGET-RAISED" if values["by_target"] else "DIAG-DEFECT"
        message = f"{values['type']}: {values['message']}"
        known = recognise(values) if values["by_target"] else None
        found.extend(_named(known, observation.place, number))
        found.append(entries[code].finding(message, place=observation.place, evidence=(number,)))
    for number, observation in run.of_kind("refused"):
        values = observation.values
        found.append(entries["TARGET-REFUSED"].finding(values["message"], fix=values["mend"], evidence=(number,)))
        found.extend(_named(recognise_refusal(values), None, number))
    for number, observation in run.of_kind("died"):
        how = observation.values.get("signal") or f"exit status {observation.values.get('exit_status')}"
        found.append(entries["TARGET-DIED"].finding(f"the target's process ended: {how}", evidence=(number,)))
    interrupted = run.outcome is Outcome.INTERRUPTED
    for number, observation in () if interrupted else run.of_kind("timed_out"):
        phase = observation.values.get("phase")
        message = f"the time limit was reached ({phase}); what was seen until then is judged"
        found.append(entries["TARGET-TIMED-OUT"].finding(message, place=observation.place, evidence=(number,)))
    for number, _ in run.of_kind("interrupted"):
        found.append(entries["RUN-INTERRUPTED"].finding("stopped from the keyboard", evidence=(number,)))
    damaged = list(run.of_kind("damaged"))
    if damaged:
        said = str(damaged[0][1].values.get("why"))
        more = f" ({len(damaged) - 1} more lines are damaged)" if len(damaged) > 1 else ""
        lines = tuple(number for number, _ in damaged[:_DAMAGED])
        found.append(entries["LOG-DAMAGED"].finding(f"{said}{more}", evidence=lines))
    return found


def _named(code: str | None, place: Place | None, number: int) -> Iterator[Finding]:
    """Yield the finding for an exception that has a name, beside that for its having been raised."""
    if code is not None:
        entry = catalogue()[code]
        yield entry.finding(entry.why, place=place, evidence=(number,))


def exit_code(run: Run, probe: Probe, found: tuple[Finding, ...], *, fail_on: tuple[str, ...]) -> ExitCode:
    """Return what the process ends with. How the run ended comes before what was found."""
    codes = {finding.code for finding in found}
    if run.outcome is Outcome.INTERRUPTED:
        return ExitCode.INTERRUPTED
    if "DIAG-DEFECT" in codes:
        return ExitCode.DEFECT
    if codes & {"TARGET-RAISED", "TARGET-DIED", "TARGET-TIMED-OUT"}:
        return ExitCode.TARGET_RAISED
    if not probe.measured(run):
        return ExitCode.NOTHING_MEASURED
    if any(finding.fails_at(gate) for finding in found for gate in fail_on):
        return ExitCode.FINDING
    return ExitCode.CLEAN


def build(run: Run, probe: Probe, found: tuple[Finding, ...]) -> Report:
    """Return what a renderer shows."""
    return Report(
        verdict=probe.verdict(run, found),
        clean=not any(finding.severity.rank >= Severity.WARNING.rank for finding in found),
        tables=tuple(probe.tables(run)),
        findings=found,
        lines=run.damaged,
        charts=tuple(probe.charts(run)),
    )


def document(run: Run, probe: Probe, found: tuple[Finding, ...]) -> dict[str, JSONValue]:
    """Return the one document of `--json`."""
    return {
        "schema": SCHEMA,
        "run_id": run.header.run_id,
        "probe": probe.name,
        "case": run.header.case.to_json(),
        "outcome": run.outcome.value,
        "verdict": build(run, probe, found).verdict,
        "environment": dict(run.header.environment),
        "observations": [observation.to_json() for observation in run.observations],
        "findings": [finding.to_json() for finding in found],
        "summary": probe.summarise(run),
    }


def section(run: Run, probe: Probe, found: tuple[Finding, ...], *, source: SourceText, log_file: str) -> Section:
    """Return a run as a page shows it: its report, the log lines that prove it, and the source around its findings."""
    shown = build(run, probe, found)
    shown = replace(shown, tables=(*shown.tables, *probe.details(run)))
    header = run.header
    excerpts = {}
    for finding in found:
        place = finding.place
        if place is not None and place.file is not None and place.line is not None:
            excerpt = _excerpt(source(place.file), place)
            if excerpt is not None:
                excerpts[place.file, place.line] = excerpt
    return Section(
        run_id=header.run_id,
        probe=probe.name,
        target=header.case.target or "built-in cases",
        command=command_line(header, probe),
        started_utc=header.started_utc,
        outcome=run.outcome.value,
        report=shown,
        log_file=log_file,
        log={number: dumps(run.observations[number - 1].to_json()) for number in sorted(_evidence(shown))},
        excerpts=excerpts,
    )


def _evidence(shown: Report) -> set[int]:
    """Return the numbers of all log lines that something on the page points to."""
    numbers = {number for finding in shown.findings for number in finding.evidence}
    for table in shown.tables:
        numbers.update(n for row in table.rows for cell in row if isinstance(cell, Cell) for n in cell.evidence)
    for chart in shown.charts:
        numbers.update(number for series in chart.series for number in series.evidence)
    return numbers


def _excerpt(text: str | None, place: Place) -> Excerpt | None:
    """Return the lines around a place, None where the text at hand is not the one that ran."""
    lines = [] if text is None else text.split("\n")
    line = place.line or 0
    if not 1 <= line <= len(lines) or (place.source and lines[line - 1].strip() != place.source.strip()):
        return None
    first = max(1, line - _AROUND)
    return Excerpt(place.file or "", first, tuple(lines[first - 1 : line + _AROUND]))


def review(
    sections: Sequence[Section],
    *,
    title: str,
    environment: Mapping[str, JSONValue],
    missing: Sequence[tuple[str, str]] = (),
) -> Review:
    """Return the page of several runs: the verdict of each first."""
    return Review(
        title=title,
        verdict=tuple(f"{section.probe}: {section.report.verdict}" for section in sections),
        clean=bool(sections) and all(section.report.clean for section in sections),
        sections=tuple(sections),
        environment=tuple(_flat(environment)),
        missing=tuple(missing),
    )


def _flat(values: Mapping[str, JSONValue], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, (list, tuple)):
            yield prefix + key, ", ".join(str(item) for item in value) or "none"
        else:
            yield prefix + key, "none" if value is None else str(value)
