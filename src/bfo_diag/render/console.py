"""A report as text for a terminal or a pipe. All text of a run is data: shown as it is, never as markup."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from bfo_diag.errors import DiagError
from bfo_diag.records import Finding, Place, Severity
from bfo_diag.render.text import clean
from bfo_diag.shown import Cell, Report, Table

_STYLE = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}
TONE = {"bad": "bold red", "muted": "dim", "": ""}
_PIPE_WIDTH = 160
_LEAST_WIDTH = 10


def console(*, stderr: bool = False) -> Console:
    """Return a console; in a pipe it is wide, so that a table's cells stay on one line."""
    made = Console(stderr=stderr, highlight=False, emoji=False, markup=False, soft_wrap=False)
    if made.is_terminal or os.environ.get("COLUMNS"):
        return made
    return Console(stderr=stderr, highlight=False, emoji=False, markup=False, width=_PIPE_WIDTH)


def show(report: Report, out: Console) -> None:
    """Print the report: findings, tables, then the verdict, which is what should stand next to the prompt."""
    show_tables(report, out)
    show_grave(report.findings, out)
    notes = [finding for finding in report.findings if finding.severity is Severity.NOTE]
    if notes:
        out.print(Text(f"{len(notes)} note{'s' if len(notes) > 1 else ''}:", style="bold"))
    for finding in notes:
        _note(finding, out)
    for line in report.lines:
        out.print(Text(clean(f"log: {line}"), style="yellow"))
    out.print()
    out.print(Text(clean(report.verdict), style="bold green" if report.clean else "bold red"))


def show_grave(findings: Sequence[Finding], out: Console, *, most: int | None = None) -> None:
    """Print the findings that are more than notes, the first `most` of them."""
    grave = [finding for finding in findings if finding.severity is not Severity.NOTE]
    for finding in grave[:most]:
        _finding(finding, out)
    if most is not None and len(grave) > most:
        out.print(Text(f"\nand {len(grave) - most} more, on the page"))


def show_tables(report: Report, out: Console) -> None:
    """Print the tables alone."""
    for table in report.tables:
        _table(table, out)


def _table(table: Table, out: Console) -> None:
    least_width = (
        sum(
            3 + min(_LEAST_WIDTH, max(len(c), *(len(_text(row[i])) for row in table.rows), 1))
            for i, c in enumerate(table.columns)
        )
        if table.rows
        else 0
    )
    if least_width > out.width:
        _rows(table, out)
        return
    drawn = RichTable(title=Text(clean(table.title), style="bold"), title_justify="left", caption_justify="left")
    if table.caption:
        drawn.caption = Text(clean(table.caption))
    for index, column in enumerate(table.columns):
        # The first column, of names, gives way where the terminal is narrow; the others keep room to be read.
        longest = max((len(_text(row[index])) for row in table.rows), default=0)
        least = None if index == 0 else min(_LEAST_WIDTH, max(longest, len(column)))
        drawn.add_column(
            Text(clean(column)), no_wrap=index == 0, overflow="ellipsis" if index == 0 else "fold", min_width=least
        )
    for row in table.rows:
        drawn.add_row(*(Text(clean(_text(cell)), style=TONE[getattr(cell, "tone", "")]) for cell in row))
    out.print(drawn)


def _rows(table: Table, out: Console) -> None:
    """Print a table that is wider than the terminal row by row: no column is lost."""
    out.print(Text(clean(table.title), style="bold"))
    for row in table.rows:
        out.print(_indented(_text(row[0]), 2, style="bold"))
        for column, cell in zip(table.columns[1:], row[1:], strict=True):
            if _text(cell) not in ("-", ""):
                out.print(_indented(f"{column}: {_text(cell)}", 4, style=TONE[getattr(cell, "tone", "")]))
    if table.caption:
        out.print(_indented(table.caption, 2, style="dim"))


def _text(cell: str | Cell) -> str:
    return cell.text if isinstance(cell, Cell) else cell


def _finding(finding: Finding, out: Console) -> None:
    out.print()
    head = Text()
    head.append(finding.severity.value, style=_STYLE[finding.severity])
    head.append(f" {clean(finding.code)}", style="bold")
    place = finding.place
    if place is not None and place.file is not None:
        head.append(f"  {clean(_near(place))}")
    out.print(head, soft_wrap=True)
    if place is not None and place.source:
        out.print(_indented(f"> {place.source}", 4, style="bold"))
    out.print(_indented(finding.message, 4))
    if finding.fix:
        out.print(_indented(f"mend: {finding.fix}", 4))
    if finding.url:
        out.print(_indented(f"see:  {finding.url}", 4, style="dim"))


def _near(place: Place) -> str:
    """Return `file:line`, the file as seen from the current folder where it lies below it."""
    try:
        file = str(Path(place.file or "").relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(place)
    return str(replace(place, file=file))


def _note(finding: Finding, out: Console) -> None:
    place = f" {_near(finding.place)}" if finding.place is not None and finding.place.file is not None else ""
    first_line = finding.message.split("\n", 1)[0]
    out.print(_indented(f"{finding.code}{place}  {first_line}", 2))


def _indented(text: str, by: int, *, style: str = "") -> Padding:
    return Padding(Text(clean(text), style=style), (0, 0, 0, by), expand=False)


def show_error(error: DiagError, out: Console) -> None:
    """Print what was wrong, its details, and the mend last."""
    out.print(Text("error: ", style="bold red").append(clean(error.message), style=""), soft_wrap=True)
    if error.detail:
        for line in error.detail.rstrip().split("\n"):
            out.print(Text(f"  | {clean(line)}"), soft_wrap=True)
    if error.mend:
        out.print(Text(f"mend:  {clean(error.mend)}"), soft_wrap=True)


def show_written(path: Path, out: Console) -> None:
    """Print the last line of every run."""
    out.print(Text(f"Wrote {path}"), soft_wrap=True)
