"""Check a package without running or unpacking anything: names, sizes and SHA-256 of each file, as it streams by."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bfo_diag.cli.common import (
    JsonOption,
    checked_package,
    errors_told,
    output,
    print_document,
    show_table,
    size,
)

NAME = "verify"


def command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A package, or the folder of an unpacked one.")],
    *,
    json: JsonOption = False,
) -> None:
    """Check a package without running or unpacking anything; exit 0 when all is as its manifest says, else 1."""
    from bfo_diag import archive
    from bfo_diag.errors import ExitCode
    from bfo_diag.render.text import clean
    from bfo_diag.shown import Cell, Table

    out = output(json=json)
    with errors_told():
        checked = checked_package(file)
        if json:
            print_document(
                {
                    "schema": archive.manifest.SCHEMA,
                    "file": str(file),
                    "ok": checked.ok,
                    "name": checked.root,
                    "content_id": checked.content_id,
                    "refused": list(checked.refusals),
                    "files": [
                        {"path": entry.path, "bytes": entry.bytes, "state": entry.state, "why": entry.why}
                        for entry in checked.entries
                    ],
                }
            )
        else:
            rows = tuple(
                (
                    entry.path,
                    size(entry.bytes),
                    Cell(entry.state, "muted" if entry.state == "ok" else "bad"),
                    entry.why,
                )
                for entry in sorted(checked.entries, key=lambda entry: entry.state == "ok")
            )
            if rows:
                show_table(Table(checked.root or file.name, ("file", "size", "state", "why"), rows), out)
            for refusal in checked.refusals:
                out.print(f"refused: {clean(refusal)}", style="bold red", soft_wrap=True)
            wrong = [entry.path for entry in checked.entries if entry.state != "ok"]
            if checked.ok:
                out.print(f"Verified: {len(rows)} files, content id {checked.content_id}.", style="bold green")
                out.print("(The hashes say that nothing changed since it was packed, not who packed it.)", style="dim")
            elif checked.manifest is None:
                out.print(f"{clean(str(file))} is no package that can be trusted.", style="bold red", soft_wrap=True)
            else:
                named = f": {clean(', '.join(wrong[:3]))}" if wrong and not checked.refusals else ""
                out.print(f"Not as its manifest says{named}. Do not trust it.", style="bold red", soft_wrap=True)
        raise typer.Exit(int(ExitCode.CLEAN if checked.ok else ExitCode.FINDING))
