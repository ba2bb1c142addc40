"""A run's latest figures on a terminal while it goes on: a table that never leaves its window, a line a row."""

from __future__ import annotations

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from bfo_diag.render.console import TONE
from bfo_diag.render.text import cut_apart, one_line
from bfo_diag.shown import Cell, Table

LEAST_HEIGHT = 4
"""Title, heads, a row, and the line that counts what has no room."""
_LEAST_WIDTH, _GAP = 10, 2


def live_table(table: Table, *, width: int, height: int) -> Group:
    """Return a table of at most `width` columns and `height` lines of a terminal; what has no room is counted below.

    It never has less than `LEAST_HEIGHT` lines.
    """
    widths = _widths(table, width)
    rows = table.rows[: max(height, LEAST_HEIGHT) - LEAST_HEIGHT + 1]
    names = cut_apart([_text(row[0]) for row in rows], widths[0])
    drawn = RichTable.grid(padding=(0, _GAP, 0, 0))
    for room in widths:
        drawn.add_column(width=room, no_wrap=True, overflow="ellipsis")
    drawn.add_row(*(_line(head, "dim") for head in table.columns[: len(widths)]))
    for name, row in zip(names, rows, strict=True):
        texts = [name, *map(_text, row[1:])]
        styles = [TONE.get(cell.tone, "") if isinstance(cell, Cell) else "" for cell in row]
        drawn.add_row(*map(_line, texts[: len(widths)], styles))
    left_out = ((len(table.rows) - len(rows), "row"), (len(table.columns) - len(widths), "column"))
    said = [f"{count} more {what}{'s' if count > 1 else ''}" for count, what in left_out if count]
    said += [table.caption] if table.caption else []
    lines: list[RenderableType] = [drawn]
    if table.title:
        lines.insert(0, _line(table.title, "bold"))
    if said:
        lines.append(_line("; ".join(said), "dim"))
    return Group(*lines)


def _widths(table: Table, width: int) -> list[int]:
    """Return the widths of the columns that have room to be read, at least of one; the widest give way first."""
    wanted: list[int] = []
    least: list[int] = []
    for index, head in enumerate(table.columns):
        longest = max(cell_len(one_line(text)) for text in (head, *(_text(row[index]) for row in table.rows)))
        if index and sum(least) + min(longest, _LEAST_WIDTH) + _GAP * index > width:
            break
        wanted.append(min(longest, width))
        least.append(min(longest, _LEAST_WIDTH))
    while sum(wanted) > width - _GAP * (len(wanted) - 1):
        wanted[wanted.index(max(wanted))] -= 1
    return wanted


def _text(cell: str | Cell) -> str:
    return cell.text if isinstance(cell, Cell) else cell


def _line(text: str, style: str) -> Text:
    return Text(one_line(text), style=style, no_wrap=True, overflow="ellipsis")
