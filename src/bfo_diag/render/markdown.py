"""A review as Markdown for a GitHub issue: the same order as the page, short enough to be taken. Text of runs is data:
it makes no HTML, link, image, heading, mention or reference.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from bfo_diag.records import Finding, Severity
from bfo_diag.render.text import clean, clip, safe_url, setting
from bfo_diag.shown import Cell, Excerpt, Review, Section, Table

MOST_BYTES = 60_000
"""Of an issue's text: GitHub takes 65,536 characters."""
_ROOM = 1_500
"""Of these, kept free for what says what was left out."""
_MESSAGE, _CELL, _SOURCE_LINE, _ROWS, _COLUMNS, _TABLE_BYTES = 2000, 160, 200, 60, 16, 12_000
_BREAK = "&#8203;"
"""A space of no width: what it stands in is no name, number or address to GitHub any more."""
_MARKUP = re.compile(r"[\\`*_\[\]<>#|~&$]|^[-+=]")
_DIGITS_FIRST = re.compile(r"^(\d+)([.)])(?=\s|$)")
_REFERENCE = re.compile(
    r"@(?=\w)|(?<=#)(?=\d)|(?<=\bgh-)(?=\d)|(?<=:)(?=//)|(?<=\bwww)(?=\.)|(?<=\bmailto)(?=:)|(?<=\bxmpp)(?=:)",
    re.IGNORECASE,
)
"""What GitHub makes links of in plain text: mentions, issues, addresses."""


def issue(review: Review) -> str:
    """Return the review as Markdown, below GitHub's limit; where something is left out, it says what."""
    found = [(section, finding) for section in review.sections for finding in section.report.findings]
    found.sort(key=lambda pair: -pair[1].severity.rank)
    blocks = [("", _head(review)), *_findings(found), *_runs(review)]
    environment = _environment(review)
    left = MOST_BYTES - _ROOM - _bytes(environment)
    kept, dropped = [], []
    for what, text in blocks:
        size = _bytes(text) + 2
        if size <= left:
            kept.append(text)
            left -= size
        else:
            dropped.append(what)
    ending = [environment] if environment else []
    return "\n\n".join([*kept, *_left_out(dropped), *ending]) + "\n"


def _bytes(text: str) -> int:
    return len(text.encode())


def _left_out(dropped: list[str]) -> list[str]:
    if not dropped:
        return []
    named = ", ".join(dropped[:10]) + (f" and {len(dropped) - 10} more" if len(dropped) > 10 else "")
    return [f"*Left out, to stay below GitHub's limit (the page of the report has it):* {named}."]


# Data as Markdown.


def inline(text: str, *, most: int = _MESSAGE) -> str:
    """Return data as text inside a line: it shows as it is, and means nothing to Markdown or GitHub."""
    shown = " ".join(clip(clean(text), most, where="in the log").split())
    escaped = _MARKUP.sub(lambda match: f"\\{match[0]}", shown)
    escaped = _DIGITS_FIRST.sub(r"\1\\\2", escaped)
    return _REFERENCE.sub(lambda match: f"{match[0]}{_BREAK}", escaped)


def code(text: str, *, most: int = 300) -> str:
    """Return data as code inside a line, fenced by more backticks than it holds."""
    shown = " ".join(clip(clean(text), most, where="in the log").split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    room = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{room}{shown}{room}{fence}" if shown else ""


def block(text: str, language: str = "") -> str:
    """Return data as a block of code, fenced by more backticks than it holds in a row."""
    shown = clean(text).rstrip("\n")
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    return f"{fence}{language}\n{shown}\n{fence}"


def _table(table: Table) -> str:
    columns = max(1, min(len(table.columns), _COLUMNS))
    head = [inline(column, most=_CELL) or " " for column in table.columns[:columns]] or [" "]
    lines = [f"**{inline(table.title)}**", "", f"| {' | '.join(head)} |", "|" + " --- |" * columns]
    left, shown = _TABLE_BYTES, 0
    for row in table.rows[:_ROWS]:
        line = f"| {' | '.join(_cell(cell) for cell in row[:columns])} |"
        left -= _bytes(line)
        if left < 0:
            break
        lines.append(line)
        shown += 1
    more = [
        f"{count:,} more {what}"
        for count, what in ((len(table.rows) - shown, "rows"), (len(table.columns) - columns, "columns"))
        if count > 0
    ]
    if more:
        lines += ["", f"({' and '.join(more)} on the page of the report)"]
    if table.caption:
        lines += ["", inline(table.caption)]
    return "\n".join(lines)


def _cell(cell: str | Cell) -> str:
    text = cell.text if isinstance(cell, Cell) else cell
    shown = inline(text, most=_CELL)
    return f"**{shown}**" if shown and isinstance(cell, Cell) and cell.tone == "bad" else shown


def _folded(summary: str, body: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{body}\n\n</details>"


# The parts.


def _head(review: Review) -> str:
    lines = [f"## {inline(review.title, most=200) or 'bfo-diag report'}", ""]
    if made := setting(review):
        lines += [inline(made, most=300), ""]
    lines += [f"- **{inline(said)}**" for said in review.verdict[:40]]
    if review.missing:
        lines += ["", "### Not measured, and why", ""]
        lines += [f"- {inline(probe, most=200)}: {inline(why, most=500)}" for probe, why in review.missing[:30]]
    if review.questions:
        lines += ["", "### Questions", ""]
        lines += [f"{number}. {inline(question)}" for number, question in enumerate(review.questions[:20], 1)]
    return "\n".join(lines)


def _findings(found: list[tuple[Section, Finding]]) -> Iterator[tuple[str, str]]:
    """Yield what is graver than a note each in full, and then the notes in a fold."""
    grave = [(section, finding) for section, finding in found if finding.severity is not Severity.NOTE]
    for number, (section, finding) in enumerate(grave):
        head = "### Findings\n\n" if number == 0 else ""
        yield f"the {finding.severity.value} {code(finding.code)}", head + _finding(section, finding)
    notes = [_note(section, finding) for section, finding in found if finding.severity is Severity.NOTE]
    if notes:
        shown, more = notes[:40], len(notes) - 40
        text = "\n".join([*shown, *([f"- and {more} more"] if more > 0 else [])])
        yield "the notes", _folded(f"{len(notes)} note{'s' if len(notes) > 1 else ''}", text)


def _where(finding: Finding) -> str:
    return code(str(finding.place)) if finding.place is not None and str(finding.place) else ""


def _finding(section: Section, finding: Finding) -> str:
    where = _where(finding)
    lines = [f"#### {finding.severity.value}: {code(finding.code)}{f' at {where}' if where else ''}", ""]
    lines += [inline(finding.message)]
    source = _source(section, finding)
    if source:
        lines += ["", block(source)]
    if finding.fix:
        lines += ["", f"**Mend:** {inline(finding.fix)}"]
    url = safe_url(finding.url)
    if finding.url:
        lines += ["", f"See {f'<{url}>' if url else code(finding.url)}"]
    if finding.evidence:
        numbers = ", ".join(map(str, finding.evidence[:12])) + (" ..." if len(finding.evidence) > 12 else "")
        lines += ["", f"Log lines {numbers} of {code(section.log_file)}"]
    return "\n".join(lines)


def _note(section: Section, finding: Finding) -> str:
    where = _where(finding)
    return f"- {code(finding.code)}{f' at {where}' if where else ''}: {inline(finding.message, most=500)}"


def _source(section: Section, finding: Finding) -> str:
    place = finding.place
    if place is None or place.line is None:
        return ""
    excerpt = section.excerpts.get((place.file or "", place.line))
    if excerpt is None:
        excerpt = Excerpt(place.file or "", place.line, (place.source,) if place.source else ())
    lines = [
        f"{'>' if number == place.line else ' '} {number:>4}  {clip(clean(text), _SOURCE_LINE, where='on this line')}"
        for number, text in enumerate(excerpt.lines[:20], excerpt.first)
    ]
    return "\n".join(line.replace("\n", " ") for line in lines)


def _runs(review: Review) -> Iterator[tuple[str, str]]:
    for section in review.sections:
        target = section.target or "the built-in cases"
        lines = [f"### {inline(section.probe, most=100)}: {inline(target, most=200)}", ""]
        lines += [block(clip(section.command, 2000, where="in the log"), "sh"), ""]
        lines += [
            f"{inline(section.outcome)}, started {inline(section.started_utc, most=60)}, log {code(section.log_file)}"
        ]
        lines += ["", *(inline(line) for line in section.report.verdict.split("\n")[:20])]
        yield f"the run {code(target, most=100)}", "\n".join(lines)
        for table in section.report.tables:
            yield f"the table {code(table.title, most=100)}", _folded("Table", _table(table))


def _environment(review: Review) -> str:
    if not review.environment:
        return ""
    rows = tuple((name, value) for name, value in review.environment[:40])
    return _folded("Environment", _table(Table("Environment", ("name", "value"), rows)))
