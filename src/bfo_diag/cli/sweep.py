"""The commands of `bfo-diag sweep`: run, resume and report; all three are runs of the probe `sweep`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from bfo_diag.cli.common import JsonOption, WorkspaceOption, errors_told
from bfo_diag.cli.probe_command import Options, probe_command, run_probe
from bfo_diag.probes import Probe

NAME = "sweep"
_StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help="Name of the study: the spec's, or --study.")]
_StorageOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Where it is, as `sweep run` was told; $BFO_DIAG_SWEEP_STORAGE says the same.",
        show_default="a journal file in the workspace",
    ),
]
_TimeoutOption = Annotated[
    float | None, typer.Option(min=0.1, help="Seconds that it may train for.", show_default="none")
]
_HtmlOption = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the page as well.", show_default=False)]
_FailOnOption = Annotated[
    str, typer.Option(help="Exit with 1 at a finding of this severity or above: note, warning, error, none.")
]


def commands(probe: Probe, exit_codes: str) -> typer.Typer:
    """Return the three commands."""
    app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=f"{probe.help}\n\n{exit_codes}")
    app.command(name="run", help=f"{probe.help}\n\n{exit_codes}")(probe_command(probe, prepare=_prepared))

    @app.command(name="resume", help="Go on with a study that was interrupted or killed, from where it is.")
    def resume(
        study: _StudyArgument,
        *,
        storage: _StorageOption = None,
        timeout: _TimeoutOption = None,
        fail_on: _FailOnOption = probe.fail_on,
        json: JsonOption = False,
        workspace: WorkspaceOption = None,
    ) -> None:
        how = {"timeout": timeout, "fail_on": fail_on, "json": json, "workspace": workspace}
        raise typer.Exit(_run(probe, study, storage, report_only=False, **how))

    @app.command(name="report", help="Say what a study holds by now, and train nothing.")
    def report(
        study: _StudyArgument,
        *,
        storage: _StorageOption = None,
        html: _HtmlOption = None,
        fail_on: _FailOnOption = probe.fail_on,
        json: JsonOption = False,
        workspace: WorkspaceOption = None,
    ) -> None:
        how = {"html": html, "fail_on": fail_on, "json": json, "workspace": workspace}
        raise typer.Exit(_run(probe, study, storage, report_only=True, **how))

    return app


def _run(probe: Probe, study: str, storage: str | None, *, report_only: bool, **how: Any) -> int:
    """Run the probe on the spec that the study holds."""
    from bfo_diag.probes import sweep
    from bfo_diag.workspace import Workspace

    options = _prepared({"study": study, "storage": storage, "report_only": report_only})
    with errors_told():
        sweep.needs()
        target, device = _held(Workspace.find(how["workspace"]).root, options)
    return int(run_probe(probe, options, target=target, device=device, **how))


def _held(workspace: Path, options: Options) -> tuple[str, str]:
    """Return the file of the spec, written anew from the study, and the device that the study is trained on.

    Raises:
        DiagError: there is no such study, or it can't be reached.
    """
    from bfo_diag.probes.sweep import files
    from bfo_diag.probes.sweep.place import Place
    from bfo_diag.probes.sweep.storage import errors_told as storage_errors_told

    place = Place.found(workspace, options["study"], options["storage"])
    with storage_errors_told(place.url):
        about = place.there().about
    assert about is not None
    files.written(about.files, place.recipes)
    return str(place.recipes / about.file), about.device


def _prepared(options: Options) -> Options:
    """Return the options as they go on record: a URL goes to the processes of the run by the environment alone."""
    from bfo_diag.probes.sweep import storage

    url = options["storage"] or os.environ.get(storage.VARIABLE)
    if not url:
        return options
    shown = storage.shown(url)
    os.environ[storage.VARIABLE] = url
    sys.argv[:] = [word.replace(url, shown) for word in sys.argv]
    return {**options, "storage": shown}
