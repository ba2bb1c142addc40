"""What a page shows of runs and findings, as values that its template walks through. How much of it is for `html.py`
to say; nothing is escaped here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from bfo_diag.records import Finding
from bfo_diag.render import charts
from bfo_diag.render.text import clean, clip, safe_url
from bfo_diag.shown import Cell, Chart, Excerpt, Review, Section, Table

_NUMBER = re.compile(r"(?:not finite|[-+]?[\d,]+(?:\.\d+)?(?:e[-+]?\d+)?)(?: ?(?:%|x|ns|us|ms|s|min|h|KiB|MiB|GiB))?")
_UTC = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?Z")
_SHORT = 120
_REST = "in the log"


@dataclass(frozen=True)
class Limits:
    """How much of each part is shown: counts of parts, characters of texts."""

    sections: int = 60
    findings: int = 200
    message: int = 6000
    tables: int = 30
    rows: int = 500
    columns: int = 40
    cell: int = 2000
    charts: int = 24
    points: int = 60
    log_lines: int = 4000
    log_line: int = 4000
    cell_links: int = 3
    links: int = 12


@dataclass(frozen=True)
class Link:
    """To a log line; without `href` the line is not on the page."""

    number: int
    href: str


@dataclass(frozen=True)
class Links:
    """The first links of some, and how many more there are."""

    shown: tuple[Link, ...] = ()
    more: int = 0


@dataclass(frozen=True)
class CellPart:
    """A cell; its text leads to the first of its links."""

    text: str
    tone: str
    links: Links


@dataclass(frozen=True)
class TablePart:
    """A table, with what it leaves out in its caption."""

    ident: str
    title: str
    caption: str
    columns: tuple[tuple[str, bool], ...]
    """Head, and whether the column holds numbers alone."""
    rows: tuple[tuple[CellPart, ...], ...]


@dataclass(frozen=True)
class FigurePart:
    """A chart with its drawing, its log lines and its figures as a table."""

    ident: str
    chart: Chart
    svg: Markup
    wide: bool
    """Whether the drawing needs more room than a column."""
    remarks: str
    series: tuple[tuple[str, Links], ...]
    table: TablePart


@dataclass(frozen=True)
class Line:
    """A line of source or of the log."""

    ident: str
    number: int
    text: str
    marked: bool = False


@dataclass(frozen=True)
class FoundPart:
    """A finding: its file apart from the folder, its web address where it is one, its source lines."""

    ident: str
    finding: Finding
    run: RunPart
    folder: str
    file: str
    message: str
    short: str
    """The message in a line, for the list of all findings."""
    fix: str
    href: str
    source: tuple[Line, ...]
    links: Links


@dataclass(frozen=True)
class RunPart:
    """A run, with an id that no other run of the page has."""

    ident: str
    section: Section
    started: str
    verdict: tuple[str, ...]
    tables: tuple[TablePart, ...]
    figures: tuple[FigurePart, ...]
    log: tuple[Line, ...]
    left_out: str


def line_id(run: str, number: int) -> str:
    """Return the id of a log line on the page of a review, for its run's id: `<run id>-L<number>`."""
    return f"{_ident(run)}-L{number}"


def _ident(text: str) -> str:
    """Return a text as an id: letters, digits, '_', '.' and '-'."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text)[:100] or "run"


# A run.


def runs(review: Review, limits: Limits) -> tuple[RunPart, ...]:
    """Return the runs, each with an id of its own, though two records may share one."""
    taken: set[str] = set()
    made = []
    for section in review.sections[: limits.sections]:
        base = ident = _ident(section.run_id)
        copy = 1
        while ident in taken:
            copy += 1
            ident = f"{base}-{copy}"
        taken.add(ident)
        made.append(_run(section, ident, limits))
    return tuple(made)


def _run(section: Section, ident: str, limits: Limits) -> RunPart:
    log = _log(section, ident, limits)
    on_page = {line.number: line.ident for line in log}
    report = section.report
    utc = _UTC.fullmatch(section.started_utc)
    lines = len(section.log) - len(log)
    left_out = [
        f"{count:,} more {what}"
        for count, what in (
            (lines, "of the log lines that figures name"),
            (len(report.tables) - limits.tables, "tables"),
            (len(report.charts) - limits.charts, "charts"),
        )
        if count > 0
    ]
    return RunPart(
        ident=ident,
        section=section,
        started=f"{utc[1]} {utc[2]} UTC" if utc else section.started_utc,
        verdict=tuple(report.verdict.split("\n")),
        tables=tuple(
            _table(table, f"{ident}-table-{i}", on_page, limits)
            for i, table in enumerate(report.tables[: limits.tables], 1)
        ),
        figures=tuple(
            _figure(chart, f"{ident}-chart-{i}", on_page, limits)
            for i, chart in enumerate(report.charts[: limits.charts], 1)
        ),
        log=log,
        left_out=", ".join(left_out),
    )


def _log(section: Section, ident: str, limits: Limits) -> tuple[Line, ...]:
    """Return the log lines that fit: those that prove findings first, in their order on the page."""
    cited = {number for finding in section.report.findings for number in finding.evidence}
    first = sorted(section.log, key=lambda number: (number not in cited, number))
    kept = sorted(first[: limits.log_lines])
    where = f"in {section.log_file}, line"
    return tuple(
        Line(f"{ident}-L{n}", n, clip(clean(section.log[n]), limits.log_line, where=f"{where} {n}")) for n in kept
    )


def _links(evidence: Iterable[int], on_page: Mapping[int, str], most: int) -> Links:
    numbers = list(dict.fromkeys(evidence))
    shown = tuple(Link(n, f"#{on_page[n]}" if n in on_page else "") for n in numbers[:most])
    return Links(shown, max(0, len(numbers) - most))


def _table(table: Table, ident: str, on_page: Mapping[int, str], limits: Limits) -> TablePart:
    rows = tuple(
        tuple(_cell(cell, on_page, limits) for cell in row[: limits.columns]) for row in table.rows[: limits.rows]
    )
    columns = tuple(
        (head, index > 0 and _numbers([row[index].text for row in rows if index < len(row)]))
        for index, head in enumerate(table.columns[: limits.columns])
    )
    more_rows, more_columns = len(table.rows) - limits.rows, len(table.columns) - limits.columns
    left_out = [
        f"{count:,} more {what}" for count, what in ((more_rows, "rows"), (more_columns, "columns")) if count > 0
    ]
    caption = "; ".join([*([table.caption] if table.caption else []), *left_out])
    return TablePart(ident, table.title, caption, columns, rows)


def _cell(cell: str | Cell, on_page: Mapping[int, str], limits: Limits) -> CellPart:
    given = cell if isinstance(cell, Cell) else Cell(cell)
    return CellPart(
        clip(clean(given.text), limits.cell, where=_REST),
        given.tone,
        _links(given.evidence, on_page, limits.cell_links),
    )


def _numbers(texts: Sequence[str]) -> bool:
    told = [text.strip() for text in texts if text.strip() not in ("", "-", "not measured")]
    return bool(told) and all(_NUMBER.fullmatch(text) for text in told)


def _figure(chart: Chart, ident: str, on_page: Mapping[int, str], limits: Limits) -> FigurePart:
    figures = charts.as_table(chart, most=limits.points)
    return FigurePart(
        ident=ident,
        chart=chart,
        svg=Markup(charts.svg(chart, ident=ident)),
        wide=charts.drawing(chart).wide,
        remarks="; ".join(charts.remarks(chart)),
        series=tuple((name, _links(evidence, on_page, limits.links)) for name, evidence in charts.cited(chart)),
        table=_table(figures, f"{ident}-table", on_page, limits),
    )


# Findings.


def findings(runs: Sequence[RunPart], limits: Limits) -> list[FoundPart]:
    """Return the findings of all runs, the gravest first, else in their order."""
    found = [(run, finding) for run in runs for finding in run.section.report.findings]
    found.sort(key=lambda pair: -pair[1].severity.rank)
    seen: set[tuple[str, str, int]] = set()
    return [_finding(number, run, finding, limits, seen) for number, (run, finding) in enumerate(found, 1)]


def _in_short(message: str) -> str:
    """Return the beginning of a message, to its last whole word; the finding below has it all."""
    line = clean(message.split("\n", 1)[0])
    return line if len(line) <= _SHORT else line[:_SHORT].rpartition(" ")[0] + "…"


def _finding(number: int, run: RunPart, finding: Finding, limits: Limits, seen: set[tuple[str, str, int]]) -> FoundPart:
    place = finding.place
    file = (place.file or "") if place is not None else ""
    folder, slash, name = file.rpartition("/")
    if place is not None and place.line is not None and name:
        name = f"{name}:{place.line}"
    on_page = {line.number: line.ident for line in run.log}
    return FoundPart(
        ident=f"finding-{number}",
        finding=finding,
        run=run,
        folder=folder + slash,
        file=name,
        message=clip(clean(finding.message), limits.message, where=_REST),
        short=_in_short(finding.message),
        fix=clip(clean(finding.fix), limits.message, where=_REST),
        href=safe_url(finding.url),
        source=_source(run, finding, limits, seen),
        links=_links(finding.evidence, on_page, limits.links),
    )


def _source(run: RunPart, finding: Finding, limits: Limits, seen: set[tuple[str, str, int]]) -> tuple[Line, ...]:
    """Return the source around a finding's line, the first time that the page shows it; then the line alone.

    Where no source is at hand, it is the line that the record holds.
    """
    place = finding.place
    if place is None or place.line is None:
        return ()
    key = (run.ident, place.file or "", place.line)
    excerpt = run.section.excerpts.get(key[1:])
    if excerpt is None and not place.source:
        return ()
    given = excerpt or Excerpt(place.file or "", place.line, (place.source or "",))
    numbered = list(enumerate(given.lines[:60], given.first))
    blank = {number for number, text in numbered if not text.strip() and number != place.line}
    while numbered and numbered[0][0] in blank:
        del numbered[0]
    while numbered and numbered[-1][0] in blank:
        del numbered[-1]
    if key in seen:
        numbered = [(number, text) for number, text in numbered if number == place.line]
    seen.add(key)
    width = min(limits.cell, 400)
    return tuple(
        Line("", number, clip(clean(text).replace("\n", " "), width, where="on this line"), number == place.line)
        for number, text in numbered
    )
