"""The command `bfo-diag`: mounts each probe of `probes/`, and the other commands of this folder; nothing of torch.

Exit codes: 0 clean; 1 a finding at or above --fail-on; 2 wrong usage, or a target that can't be loaded;
3 the target itself raised; 4 nothing was measured; 5 a defect of bfo-diag.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from bfo_diag.cli import diff, package, replay, report, review, verify
from bfo_diag.cli.probe_command import probe_command
from bfo_diag.errors import ExitCode
from bfo_diag.probes import load_all

app = typer.Typer(
    name="bfo-diag",
    help="Why a PyTorch training step gets no gradient, why it does not compile, and whether compiling it pays.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help costs half as much as drawn boxes
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        sys.stdout.write(f"bfo-diag {version('bfo-diag')}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")] = False,
) -> None:
    """Find out where a gradient went, what broke the graph, and what compiling is worth."""


for _probe in load_all().values():
    app.command(name=_probe.name, help=f"{_probe.help}\n\n{__doc__.split(chr(10), 2)[2]}")(probe_command(_probe))


for _command in (review, package, verify, replay, diff, report):
    app.command(name=_command.NAME, help=_command.__doc__)(_command.command)


def main() -> None:
    """Be the console script."""
    try:
        app()
        sys.stdout.flush()
    except BrokenPipeError:
        os._exit(int(ExitCode.USAGE))  # the reader of the pipe is gone: nothing more can be said
    except OSError as error:
        sys.stderr.write(f"error: stdout can't be written: {error.strerror}\n")
        os._exit(int(ExitCode.USAGE))
