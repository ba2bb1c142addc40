"""The command of a probe: its own options from `capture`'s signature, and those that every probe has."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bfo_diag.errors import DiagError, ExitCode
from bfo_diag.probes import Probe

if TYPE_CHECKING:
    from rich.console import Console

    from bfo_diag.records import Run


Options = dict[str, Any]
_SEVERITIES = "note", "warning", "error"


def _common(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="TARGET",
            help="path/to/file.py:name or package.module:name, where name is a step or closure without arguments, a "
            "factory of a bfo_diag.Case, an nn.Module, what a framework trains (a LightningModule, a Trainer, a "
            "Learner), or a torch.optim.Optimizer class. Without it the built-in cases run.",
            show_default=False,
        ),
    ] = None,
    input: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="DTYPE[SHAPE]",
            help="Random input of an nn.Module, one for each argument of forward: 'float32[32,64]', 'int64[8,16]<100'.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N; for modules and the built-in cases.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of torch's random numbers in the target's process.")] = 0,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0.1, help="Seconds the target may run; what was seen until then is judged.", show_default="none"
        ),
    ] = None,
    fail_on: Annotated[str, typer.Option()] = "warning",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else.")] = False,
    workspace: Annotated[
        Path | None,
        typer.Option(
            help="Folder for logs/ and review_packages/.", show_default="$BFO_DIAG_WORKSPACE, else the current folder"
        ),
    ] = None,
) -> None:
    """Hold the options that every probe has: their signature is what counts."""


def probe_command(probe: Probe, *, prepare: Callable[[Options], Options] = dict) -> Callable[..., None]:
    """Return a function with the signature that typer reads: TARGET, the probe's options, the common ones.

    `prepare` returns the probe's options as they go on record.
    """
    own = probe.options
    common = dict(inspect.signature(_common, eval_str=True).parameters)
    for name, default in {**probe.defaults, "fail_on": probe.fail_on}.items():
        common[name] = common[name].replace(default=default)
    common["fail_on"] = common["fail_on"].replace(annotation=Annotated[str, typer.Option(help=_fail_on_help(probe))])
    if probe.file_target is not None:
        named = typer.Argument(metavar=probe.file_target.metavar, help=probe.file_target.help, show_default=False)
        common["target"] = common["target"].replace(annotation=Annotated[str | None, named])
        del common["input"]
    if not probe.seeded:
        del common["seed"]

    def command(**given: Any) -> None:
        options = prepare({name: given.pop(name) for name in own})
        raise typer.Exit(int(run_probe(probe, options, **given)))

    parameters = [common.pop("target"), *own.values(), *common.values()]
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    )
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__name__ = probe.name
    return command


def _fail_on_help(probe: Probe) -> str:
    names = ", ".join((*probe.gates, "none"))
    if probe.gates == _SEVERITIES:
        return f"Exit with 1 at a finding of this severity or above: {names}."
    return f"Exit with 1 at one of these: {names}; several with commas."


def _gates(probe: Probe, text: str) -> tuple[str, ...]:
    """Return what --fail-on names.

    Raises:
        DiagError: a name that the probe does not know.
    """
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    wrong = [name for name in names if name not in (*probe.gates, "none")]
    if wrong or not names:
        raise DiagError(
            f"--fail-on {', '.join(wrong) or repr(text)} is not known",
            mend=f"choose from {', '.join(probe.gates)}, or none",
        )
    if "none" in names and len(names) > 1:
        raise DiagError(f"--fail-on {text}: none goes with no other", mend="--fail-on none, or the others alone")
    return () if names == ("none",) else names


def run_probe(
    probe: Probe,
    options: Options,
    *,
    target: str | None,
    device: str,
    fail_on: str,
    json: bool,
    workspace: Path | None,
    timeout: float | None = None,
    seed: int = 0,
    input: list[str] | None = None,
    html: Path | None = None,
) -> ExitCode:
    """Run a probe, show what it found, and return what the process ends with; `html` is where a page goes."""
    # Imported here, so that --help costs no more than typer and rich do.
    from bfo_diag import report, runner, targets
    from bfo_diag.cli.progress import watching
    from bfo_diag.records import dumps
    from bfo_diag.render import console as rendering
    from bfo_diag.workspace import Workspace

    errors = rendering.console(stderr=True)
    out = errors if json else rendering.console()
    try:
        gates = _gates(probe, fail_on)
        if probe.file_target is not None:
            probe.file_target.check(target)
        elif target is not None:
            targets.check(target)
        elif input:
            raise DiagError("--input goes with an nn.Module as TARGET", mend="name the module: file.py:Name")
        job = runner.Job(
            probe=probe,
            target=target,
            inputs=tuple(input or ()),
            device=device,
            seed=seed,
            timeout=timeout,
            options=options,
            argv=tuple(sys.argv),
        )
        place = Workspace.find(workspace)
        with watching(errors, probe.name) as progress:
            folder, run = runner.run(job, place, progress=progress)
        refused = runner.refusal(run)
        if refused is not None:
            if json:
                sys.stdout.write(dumps(report.document(run, probe, report.findings(run, probe))) + "\n")
            rendering.show_error(refused, errors)
            rendering.show_written(folder, errors)
            return refused.exit_code
    except DiagError as error:
        rendering.show_error(error, errors)
        return error.exit_code
    except KeyboardInterrupt:
        errors.print("interrupted before the run began")
        return ExitCode.INTERRUPTED
    found = report.findings(run, probe)
    if json:
        sys.stdout.write(dumps(report.document(run, probe, found)) + "\n")
    else:
        rendering.show(report.build(run, probe, found), out)
        _show_traceback(run, errors)
    rendering.show_written(folder, out)
    if html is not None:
        _write_page(folder, html, out)
    return report.exit_code(run, probe, found, fail_on=gates)


def _write_page(folder: Path, file: Path, out: Console) -> None:
    from bfo_diag import bundle, recorded
    from bfo_diag.render import html
    from bfo_diag.render.console import show_written
    from bfo_diag.workspace import write_whole

    write_whole(file, html.page(bundle.page([recorded.read(folder)])))
    show_written(file, out)


def _show_traceback(run: Run, errors: Console) -> None:
    from bfo_diag.render.text import clean

    for _, observation in run.of_kind("raised"):
        for line in str(observation.values["traceback"]).rstrip().split("\n"):
            errors.print(f"  | {clean(line)}", soft_wrap=True)
