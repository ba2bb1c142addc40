"""Show runs, or a package, as one self-contained page, as Markdown for an issue, or as JSON."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bfo_diag.cli.common import WorkspaceOption, checked_package, errors_told, output, run_folder

NAME = "report"
_FORMATS = ("html", "md", "json")


def command(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN|FILE]", help="A run, or a package; the latest run of each probe without.", show_default=False
        ),
    ] = None,
    *,
    format: Annotated[str, typer.Option(help=f"{', '.join(_FORMATS)}; md is for a GitHub issue.")] = "html",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Where to write it; - for stdout.", show_default="report.html; stdout for md, json"
        ),
    ] = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Write a page that opens from disk, needs no network, and links each figure to its log line."""
    from dataclasses import replace

    from bfo_diag import archive, bundle, opening, recorded
    from bfo_diag.errors import DiagError
    from bfo_diag.records import dumps
    from bfo_diag.render import html, markdown
    from bfo_diag.render.console import show_written
    from bfo_diag.workspace import Workspace, write_whole

    with errors_told():
        if format not in _FORMATS:
            raise DiagError(f"--format {format!r} is not known", mend=f"choose from {', '.join(_FORMATS)}")
        unpacked = what is not None and (Path(what) / archive.MANIFEST).is_file()
        if what is not None and (Path(what).is_file() or unpacked):
            beside = Path(what).with_name(Path(what).name.removesuffix(".tar.gz") + ".html")
            said = checked_package(Path(what)).manifest
            questions = () if said is None else tuple(map(str, said.about.get("questions") or ()))
            with opening.opened(Path(what)) as (runs, _):
                review = replace(bundle.page(runs), questions=questions)
                document = bundle.document(runs)
        else:
            place = Workspace.find(workspace, write=False)
            folders = [run_folder(what, place)] if what is not None else bundle.latest(place)
            runs = [recorded.read(folder) for folder in folders]
            beside = folders[-1] / "report.html"
            review, document = bundle.page(runs), bundle.document(runs)
        if format == "html":
            text = html.page(review)
        else:
            text = markdown.issue(review) if format == "md" else dumps(document) + "\n"
        if str(out) == "-" or (out is None and format != "html"):
            sys.stdout.write(text)
            return
        target = out or beside
        write_whole(target, text)
        show_written(target, output(json=False))
