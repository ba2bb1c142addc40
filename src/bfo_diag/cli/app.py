"""The command `bfo-diag`: mounts each probe of `probes/`, and the other commands of this folder; nothing of torch.

Exit codes: 0 clean; 1 a finding at or above --fail-on; 2 wrong usage, or a target that can't be loaded;
3 the target itself raised; 4 nothing was measured; 5 a defect of bfo-diag.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer

from bfo_diag.cli import diff, package, replay, report, review, sweep, verify
from bfo_diag.cli.probe_command import probe_command
from bfo_diag.errors import ExitCode
from bfo_diag.probes import load_all

_EXIT_CODES = __doc__.split("\n", 2)[2]
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


def _mount(wanted: str | None) -> None:
    """Add the commands to the app: all of them, or the one that is asked for (the others cost as much again)."""
    probes = load_all()
    others = {command.NAME: command for command in (review, package, verify, replay, diff, report)}
    every = (*probes, *others)
    for name in [wanted] if wanted in every else every:
        if name == sweep.NAME:
            app.add_typer(sweep.commands(probes[name], _EXIT_CODES), name=name, help=probes[name].help)
        elif name in probes:
            app.command(name=name, help=f"{probes[name].help}\n\n{_EXIT_CODES}")(probe_command(probes[name]))
        else:
            app.command(name=name, help=others[name].__doc__)(others[name].command)


def main() -> None:
    """Be the console script."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends what was started, as Ctrl-C does
    try:
        _mount(sys.argv[1] if len(sys.argv) > 1 else None)
        app()
        sys.stdout.flush()
    except BrokenPipeError:
        os._exit(int(ExitCode.USAGE))  # the reader of the pipe is gone: nothing more can be said
    except OSError as error:
        sys.stderr.write(f"error: stdout can't be written: {error.strerror}\n")
        os._exit(int(ExitCode.USAGE))
