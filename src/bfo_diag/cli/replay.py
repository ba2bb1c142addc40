"""Verify a package, show the commands that it stands for, ask, run them on the packed source, and compare.

Exit codes: 0 every finding is reproduced; 1 something changed, is gone or is new, or the package does not verify.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bfo_diag.cli.common import JsonOption, checked_package, errors_told, output, print_document

NAME = "replay"


def command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A package, or the folder of an unpacked one.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Run without asking.")] = False,
    probe: Annotated[
        list[str] | None,
        typer.Option(help="Only the runs of this probe; several times for several.", show_default=False),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Workspace in which to keep the new runs.", show_default="they are not kept"),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Run what a package recorded again, on its own source, and compare finding by finding."""
    from bfo_diag import difference, opening, replay
    from bfo_diag.errors import DiagError, ExitCode
    from bfo_diag.render import console
    from bfo_diag.render.text import clean, one_line

    out = output(json=json)
    with errors_told() as err:
        checked = checked_package(file)
        faults = [f"{entry.path}: {entry.state} {entry.why}" for entry in checked.entries if entry.state != "ok"]
        if not checked.ok and not (file.is_dir() and checked.manifest is not None):
            console.show_error(
                DiagError(
                    f"{file} does not verify, so nothing of it is run: {'; '.join((*checked.refusals, *faults))[:500]}",
                    mend=f"bfo-diag verify {file} lists all; ask for the package again",
                ),
                err,
            )
            raise typer.Exit(int(ExitCode.FINDING))
        for fault in faults:
            out.print(f"edited since it was packed: {clean(fault)}", style="yellow", soft_wrap=True)
        with opening.opened(file) as (runs, sources):
            commands = replay.plan([run for run in runs if not probe or run.probe.name in probe])
            if not commands:
                held = ", ".join(dict.fromkeys(run.probe.name for run in runs)) or "none at all"
                raise DiagError(
                    f"{file} holds no run{' of ' + ', '.join(probe) if probe else ''}", mend=f"it holds runs of {held}"
                )
            out.print("This runs Python code of the package with your rights:", style="bold")
            for one in commands:
                out.print(
                    f"  {one_line(str(one))}" if not one.why_not else f"  not replayed: {clean(one.why_not)}",
                    soft_wrap=True,
                )
            possible = [one for one in commands if not one.why_not]
            if not possible:
                raise DiagError(f"nothing in {file} can be replayed: {commands[0].why_not}")
            _ask(yes=yes)
            found = []
            for index, one in enumerate(possible, 1):
                err.print(f"{index}/{len(possible)} {clean(str(one))}", style="dim", soft_wrap=True)
                found.append(replay.compare(one, sources, keep=None if keep is None else keep.absolute()))
        changed = [entry.path for entry in checked.entries if entry.state != "ok"]
        alone = [f"a run of {one.recorded.probe.name}, since {one.why_not}" for one in commands if one.why_not]
        report = difference.as_report(found, edited=changed, alone=alone)
        if json:
            print_document(difference.document(found, edited=changed, alone=alone))
        else:
            console.show(report, out)
        raise typer.Exit(int(ExitCode.CLEAN if report.clean else ExitCode.FINDING))


def _ask(*, yes: bool) -> None:
    """Ask the person whether to run it.

    Raises:
        DiagError: there is nobody to ask.
    """
    from bfo_diag.errors import DiagError

    if yes:
        return
    if not sys.stdin.isatty():
        raise DiagError("nobody is there to be asked whether to run this", mend="read the commands, then add --yes")
    try:
        agreed = typer.confirm("Run these?", err=True)
    except typer.Abort:
        raise KeyboardInterrupt from None
    if not agreed:
        raise DiagError("nothing was run", mend="--yes runs without asking")
