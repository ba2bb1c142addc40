"""Examine TARGET in every way (gradients, telemetry, compile, a short bench), and pack it all for an expert.

One probe's failure does not stop the others: it is in the package. Without TARGET it takes built-in cases, one of each
kind; a probe by itself takes them all.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bfo_diag.cli.common import JsonOption, WorkspaceOption, errors_told, hidden, output, print_document
from bfo_diag.errors import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

    from bfo_diag.probes import Probe
    from bfo_diag.recorded import Recorded
    from bfo_diag.records import Finding
    from bfo_diag.workspace import Workspace

NAME = "review"
_PROBES = ("gradients", "telemetry", "compile", "bench")
_MOST = 5
"""Findings that are shown in full at the end; the page has all."""
_WORST = (ExitCode.DEFECT, ExitCode.TARGET_RAISED, ExitCode.USAGE, ExitCode.NOTHING_MEASURED, ExitCode.FINDING)


def command(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="TARGET", help="As for each probe: file.py:name or package.module:name.", show_default=False
        ),
    ] = None,
    *,
    input: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="DTYPE[SHAPE]", help="Random input of an nn.Module.", show_default=False),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N; for modules and the built-in cases.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of torch's random numbers in the target's processes.")] = 0,
    timeout: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds that each probe may take.", show_default="none")
    ] = None,
    question: Annotated[
        list[str] | None, typer.Option(help="What you ask the expert; several times for several.", show_default=False)
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the package.", show_default="the time, and what ran")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the package.", show_default="review_packages/")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a package of this name.")] = False,
    fail_on: Annotated[
        str,
        typer.Option(help="finding: exit with 1 where a probe by itself would; none: only where one could not run."),
    ] = "finding",
    json: JsonOption = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Examine it in every way, and pack the evidence: the verdict, a page and a tarball."""
    from bfo_diag import bundle, targets
    from bfo_diag.errors import DiagError
    from bfo_diag.render.console import show_grave, show_written
    from bfo_diag.render.text import clean
    from bfo_diag.workspace import Workspace, make_folder, write_whole

    shown = output(json=json)
    with errors_told() as err:
        if fail_on not in ("finding", "none"):
            raise DiagError(f"--fail-on {fail_on!r} is not known", mend="choose finding or none")
        if target is not None:
            targets.check(target)
        elif input:
            raise DiagError("--input goes with an nn.Module as TARGET", mend="name the module: file.py:Name")
        place = Workspace.find(workspace)
        packages = out or place.packages
        checked = None if name is None else bundle.checked_name(name)
        make_folder(packages)
        if checked is not None and not force:
            _refuse_taken(packages, checked)
        common = {"target": target, "inputs": tuple(input or ()), "device": device, "seed": seed, "timeout": timeout}
        runs: list[Recorded] = []
        codes: list[ExitCode] = []
        for probe_name in _PROBES:
            one, code = _run(probe_name, common, place, err, alone=not runs)
            runs.append(one)
            codes.append(code)
            shown.print(f"{probe_name}: {clean(one.probe.verdict(one.run, one.findings))}", soft_wrap=True)
            shown.file.flush()  # who reads a pipe or a file sees how far it is
            if code is ExitCode.INTERRUPTED:
                raise typer.Exit(int(code))
        wanted = bundle.Wanted(tuple(one.folder for one in runs), checked, tuple(question or ()))
        package, manifest, staged = bundle.build(wanted, packages, force=force)
        page = package.with_name(f"{staged.name}.html")
        write_whole(page, staged.page_text)
        if json:
            written = {"package": str(package), "page": str(page), "content_id": manifest.content_id}
            print_document({**bundle.document(runs), **written})
        found = [finding for one in runs for finding in one.findings]
        show_grave(sorted(found, key=lambda finding: -finding.severity.rank), shown, most=_MOST)
        shown.print()
        for warning in staged.warnings:
            shown.print(f"mind: {clean(warning)}", soft_wrap=True)
        said = hidden(staged.about["redacted"])
        shown.print(f"{said}. Read the page before you send the package: it is what an expert sees.")
        show_written(page, shown)
        show_written(package, shown)
        worst = next((code for code in _WORST if code in codes), ExitCode.CLEAN)
        raise typer.Exit(int(ExitCode.CLEAN if worst is ExitCode.FINDING and fail_on == "none" else worst))


def _refuse_taken(folder: Path, name: str) -> None:
    """Refuse a name before any work is done.

    Raises:
        DiagError: the package or its page is there.
    """
    from bfo_diag.errors import DiagError

    for file in (folder / f"{name}.tar.gz", folder / f"{name}.html"):
        if file.exists():
            raise DiagError(f"{file} exists", mend="choose another --name, or add --force")


def _run(
    name: str, common: dict[str, Any], place: Workspace, err: Console, *, alone: bool
) -> tuple[Recorded, ExitCode]:
    """Run one probe as its own command would, with its short options, and return what it recorded and its exit code.

    Raises:
        DiagError: the first probe (`alone`) was refused: a target that can't be loaded is the same to all.
    """
    from bfo_diag import recorded, report, runner
    from bfo_diag.cli.progress import watching
    from bfo_diag.probes import load_all

    probe = load_all()[name]
    job = runner.Job(probe=probe, **common, options=_options(probe, common["target"]), argv=tuple(sys.argv))
    with watching(err, name) as progress:
        folder, run = runner.run(job, place, progress=progress)
    refused = runner.refusal(run)
    if refused is not None and alone:
        raise refused
    one = recorded.read(folder)
    if refused is not None:
        return one, refused.exit_code
    return one, report.exit_code(run, probe, counted(one.findings), fail_on=tuple(probe.fail_on.split(",")))


def counted(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Return the findings that the exit code goes by: not those of the machine of the moment (that it was busy)."""
    from bfo_diag.findings import catalogue

    entries = catalogue()
    return tuple(finding for finding in findings if not entries[finding.code].of_the_machine)


def _options(probe: Probe, target: str | None) -> dict[str, Any]:
    """Return the defaults of the probe's own options, with what makes it short."""
    return {**{name: option.default for name, option in probe.options.items()}, **probe.short(target)}
