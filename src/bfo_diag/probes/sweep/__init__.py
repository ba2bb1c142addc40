"""`bfo-diag sweep`: many arms trained with the same seeds, and each compared with the control.

`spec`, `factors`, `designs` and `arms` say what is tried; `study` keeps which arm is done, `conduct` and `work` have
them done by `trial` in processes of their own; `judge`, `summary` and what they import read the record.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Annotated

import typer

from bfo_diag.errors import DiagError
from bfo_diag.probes import FileTarget, Probe, Request, later, readers
from bfo_diag.records import Observation
from bfo_diag.shown import Progress


def capture(
    request: Request,
    *,
    study: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the study; another begins another one.", show_default="the spec's"),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Where the study is, for workers on many machines: a storage URL of Optuna, such as "
            "postgresql://USER:PASSWORD@HOST/DATABASE; $BFO_DIAG_SWEEP_STORAGE says the same.",
            show_default="a journal file in the workspace",
        ),
    ] = None,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Train nothing, and report what the study holds.")
    ] = False,
) -> Iterator[Observation | Progress]:
    """Train what of a study is not done yet, and tell what it holds."""
    from bfo_diag.probes.sweep import conduct

    yield from conduct.conducted(request, study=study, url=storage, report_only=report_only)


def needs() -> None:
    """Raise DiagError where the libraries of a sweep are not installed."""
    missing = [name for name in ("optuna", "tomli_w") if importlib.util.find_spec(name) is None]
    if missing:
        raise DiagError(f"bfo-diag sweep needs {' and '.join(missing)}", mend="pip install 'bfo-diag[sweep]'")


def check(text: str | None) -> None:
    """Refuse what is wrong with a spec or one of its arms, as far as it can be told without torch."""
    from bfo_diag.probes.sweep import arms, spec

    needs()
    arms.check(spec.read(text))


PROBE = Probe(
    name="sweep",
    help="Trains the arms of a sweep, each with the same seeds, and says which of them beats the control.",
    capture=capture,
    **readers(__name__),
    details=later(f"{__name__}.summary", "details"),
    parts={"check": later(f"{__name__}.trial", "check"), "trial": later(f"{__name__}.trial", "trial")},
    needs_processes=True,
    defaults={"device": "auto"},
    local=("study", "storage", "report_only"),
    command=("sweep", "run"),
    seeded=False,
    file_target=FileTarget(
        metavar="SPEC.toml|PRESET",
        help="What to try: a recipe, and the levels of its factors. Where its study is there, this worker joins it.",
        check=check,
    ),
)
