"""Pack what was recorded for an expert: logs, source, page and checks in one tarball, redacted on the way in.

Without RUN, the latest run of each probe goes in. The receiver reads report.html in a browser, and runs
`bfo-diag verify FILE` and `bfo-diag replay FILE`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from bfo_diag.cli.common import (
    JsonOption,
    WorkspaceOption,
    errors_told,
    hidden,
    output,
    print_document,
    run_folder,
    show_table,
    size,
)

NAME = "package"


def command(
    *,
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN ...]",
            help="Run ids, or folders under logs/; the latest of each probe without.",
            show_default=False,
        ),
    ] = None,
    case: Annotated[
        str | None,
        typer.Option(metavar="TARGET", help="Only runs of this TARGET, written as it was then.", show_default=False),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the package.", show_default="the time of its latest run, and what ran")
    ] = None,
    question: Annotated[
        list[str] | None, typer.Option(help="What you ask the expert; several times for several.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the package.", show_default="review_packages/")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a package of this name.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would go in, and write nothing.")] = False,
    max_file_mib: Annotated[
        float,
        typer.Option(min=0.01, max=2**20, help="MiB of a log that are packed; of a larger one its beginning and end."),
    ] = 16,
    json: JsonOption = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Pack the evidence into one tarball that can be read, verified and re-run."""
    from bfo_diag import archive, bundle
    from bfo_diag.errors import DiagError
    from bfo_diag.render.console import show_written
    from bfo_diag.render.text import clean
    from bfo_diag.shown import Table
    from bfo_diag.workspace import Workspace, make_folder

    shown = output(json=json)
    with errors_told():
        if not math.isfinite(max_file_mib):
            raise DiagError("--max-file-mib nan is no size", mend="name a number of MiB, such as 16")
        if runs and case is not None:
            raise DiagError("--case and RUN name runs in two ways", mend="leave one of the two out")
        place = Workspace.find(workspace, write=False)
        folders = [run_folder(text, place) for text in runs or ()] or bundle.latest(place, target=case)
        folders = sorted(set(folders), key=lambda folder: folder.name)
        wanted = bundle.Wanted(
            runs=tuple(folders),
            name=None if name is None else bundle.checked_name(name),
            questions=tuple(question or ()),
            cap=int(max_file_mib * 2**20),
        )
        target = None
        if dry_run:
            with bundle.staged(wanted) as staged:
                files = staged.files()
            manifest = None
        else:
            make_folder(out or place.packages)
            target, manifest, staged = bundle.build(wanted, out or place.packages, force=force)
            files = [(listed.path, listed.bytes) for listed in manifest.files]
        if json:
            print_document(
                {
                    "schema": archive.manifest.SCHEMA,
                    "file": None if target is None else str(target),
                    "content_id": None if manifest is None else manifest.content_id,
                    "files": [{"path": path, "bytes": count} for path, count in files],
                    **staged.about,
                }
            )
        else:
            rows = tuple((path, size(count)) for path, count in files)
            title = f"{staged.name}: {'what would go in' if dry_run else 'packed'}"
            show_table(Table(title, ("file", "size"), rows, hidden(staged.about["redacted"])), shown)
        for warning in staged.warnings:
            shown.print(f"mind: {clean(warning)}", soft_wrap=True)
        if target is not None:
            show_written(target, shown)
