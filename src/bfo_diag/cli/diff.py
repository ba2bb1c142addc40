"""Compare two packages, unpacked packages or runs, finding by finding, without running anything."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from bfo_diag.cli.common import JsonOption, WorkspaceOption, errors_told, output, print_document, run_folder

NAME = "diff"


def command(
    before: Annotated[str, typer.Argument(metavar="A", help="A package, an unpacked one, or a run.")],
    after: Annotated[str, typer.Argument(metavar="B", help="What to compare with it.")],
    *,
    json: JsonOption = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Compare two packages or runs, finding by finding; exit 0 when they find the same, else 1."""
    from bfo_diag import difference, opening
    from bfo_diag.errors import DiagError, ExitCode
    from bfo_diag.recorded import Recorded
    from bfo_diag.render import console
    from bfo_diag.render.text import clean
    from bfo_diag.workspace import Workspace

    out = output(json=json)
    with errors_told(), ExitStack() as stack:

        def opened(text: str) -> list[Recorded]:
            path = Path(text)
            for name in opening.edited(path):
                out.print(
                    f"{clean(text)}: {clean(name)} was edited since it was packed; its logs are compared as they are"
                )
            return stack.enter_context(
                opening.opened(path if path.exists() else run_folder(text, Workspace.find(workspace, write=False)))
            )[0]

        pairs, alone = difference.pairs(opened(before), opened(after))
        if not pairs:
            raise DiagError(f"{before} and {after} have no run of the same probe and target", mend="; ".join(alone))
        found = [difference.between(old, new) for old, new in pairs]
        report = difference.as_report(found, alone=alone, ran=False)
        if json:
            print_document(difference.document(found, alone=alone, ran=False))
        else:
            console.show(report, out)
        raise typer.Exit(int(ExitCode.CLEAN if report.clean else ExitCode.FINDING))
