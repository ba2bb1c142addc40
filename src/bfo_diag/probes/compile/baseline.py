"""The sites that are known and accepted: a small file of sorted JSON, made to be committed. Needs no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from bfo_diag.errors import DiagError

SCHEMA = 1
FIELDS = ("key", "code", "file", "function", "source", "type")


def read(path: Path) -> list[dict[str, str]]:
    """Return the entries of a baseline.

    Raises:
        DiagError: it is not there, or is no baseline of this schema.
    """
    try:
        data = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise DiagError(
            f"the baseline {path} can't be read: {error.strerror or error}",
            mend="write one with --update-baseline, or leave --baseline out",
        ) from error
    except ValueError as error:
        raise DiagError(
            f"the baseline {path} is no JSON: {error}", mend="write it anew with --update-baseline"
        ) from error
    entries = data.get("sites") if isinstance(data, dict) and data.get("schema") == SCHEMA else None
    if not isinstance(entries, list) or not all(_is_entry(entry) for entry in entries):
        raise DiagError(
            f"the baseline {path} is none of schema {SCHEMA}: each of its sites needs {', '.join(FIELDS)}, all text",
            mend="write it anew with --update-baseline",
        )
    return entries


def _is_entry(entry: object) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(name), str) for name in FIELDS)


def write(path: Path, entries: Sequence[dict[str, str]]) -> None:
    """Replace the baseline in one step.

    Raises:
        DiagError: it can't be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(
            json.dumps({"schema": SCHEMA, "sites": list(entries)}, indent=1, sort_keys=True) + "\n", "utf-8"
        )
        partial.replace(path)
    except OSError as error:
        raise DiagError(
            f"the baseline {path} can't be written: {error.strerror or error}", mend="name another file with --baseline"
        ) from error
