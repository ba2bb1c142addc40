"""Tables and words of the report."""

from __future__ import annotations

from collections.abc import Sequence

NOT_ON_REGISTRY = "not measured: not on the registry"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def verdict(reached: bool) -> str:
    """What the column "reached" says."""
    return "yes" if reached else "**no**"
