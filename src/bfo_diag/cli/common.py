"""What the commands that are no probes share: the workspace option, RUN and FILE as words, and errors as exit codes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bfo_diag.errors import DiagError, ExitCode

if TYPE_CHECKING:
    from rich.console import Console

    from bfo_diag.archive import Verification
    from bfo_diag.records import JSONValue
    from bfo_diag.shown import Table
    from bfo_diag.workspace import Workspace

WorkspaceOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of logs/ and review_packages/.", show_default="$BFO_DIAG_WORKSPACE, else the current folder"
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else.")]


@contextmanager
def errors_told() -> Iterator[Console]:
    """Yield the console of stderr; an error of ours is shown there, and ends the command with its exit code."""
    from bfo_diag.render import console

    err = console.console(stderr=True)
    try:
        yield err
    except DiagError as error:
        console.show_error(error, err)
        raise typer.Exit(int(error.exit_code)) from error
    except BrokenPipeError:
        raise
    except OSError as error:
        told = DiagError(
            f"{error.filename or 'a file'}: {error.strerror or error}", mend="see that it can be read and written"
        )
        console.show_error(told, err)
        raise typer.Exit(int(told.exit_code)) from error
    except KeyboardInterrupt:
        err.print("interrupted; nothing was left half-written")
        raise typer.Exit(int(ExitCode.INTERRUPTED)) from None


def checked_package(path: Path) -> Verification:
    """Verify a package, or the folder of an unpacked one.

    Raises:
        DiagError: there is nothing of that name, or a folder that is no package.
    """
    from bfo_diag import archive

    if not path.exists():
        raise DiagError(f"there is no file {path}", mend="name a package: review_packages/NAME.tar.gz")
    if path.is_dir() and not (path / archive.MANIFEST).is_file():
        raise DiagError(
            f"the folder {path} holds no {archive.MANIFEST}", mend="name the folder that has README.md in it"
        )
    return archive.check_folder(path) if path.is_dir() else archive.verify(path)


def output(*, json: bool) -> Console:
    """Return where to show things: stdout, or stderr where stdout is for one JSON document."""
    from bfo_diag.render import console

    return console.console(stderr=json)


def print_document(document: JSONValue) -> None:
    """Print the one document of --json."""
    from bfo_diag.records import dumps

    sys.stdout.write(dumps(document) + "\n")


def show_table(table: Table, out: Console) -> None:
    """Print one table."""
    from bfo_diag.render import console
    from bfo_diag.shown import Report

    console.show_tables(Report("", True, (table,), ()), out)


def run_folder(text: str, workspace: Workspace) -> Path:
    """Return the folder of RUN: a path, or a run id (or the beginning of one) of the workspace.

    Raises:
        DiagError: there is none, or the beginning fits several.
    """
    from bfo_diag import store

    given = Path(text)
    if (given / store.RUN_FILE).is_file():
        return given
    runs = store.runs(workspace)
    exact = [run for run in runs if run.name == text]
    near = exact or [run for run in runs if run.name.startswith(text)]
    if len(near) == 1:
        return near[0]
    if near:
        some = ", ".join(run.name for run in near[-3:])
        raise DiagError(f"{text} begins {len(near)} runs, the newest {some}", mend="write more of it")
    newest = ", ".join(run.name for run in runs[-3:])
    mend = f"the newest there are {newest}" if runs else "run bfo-diag gradients, compile or bench first"
    raise DiagError(f"there is no run {text} in {workspace.logs}", mend=mend)


def size(count: int) -> str:
    """Return a number of bytes in the unit that suits it."""
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if count >= 1024**power:
            return f"{count / 1024**power:.1f} {unit}"
    return f"{count} B"


def hidden(counts: dict[str, int]) -> str:
    """Return how much was hidden, by kind."""
    if not counts:
        return "Nothing had to be redacted"
    return "Redacted: " + ", ".join(f"{kind.replace('_', ' ')} {count}" for kind, count in counts.items())
