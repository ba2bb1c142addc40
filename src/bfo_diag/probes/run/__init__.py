"""`bfo-diag run`: trains what a recipe says, with early stopping, folds, checkpoints, compile and telemetry.

What trains is in `bfo_diag.training`; `judge` and `summary` read the record.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from bfo_diag.probes import FileTarget, Probe, Request, later, readers
from bfo_diag.records import CaseRecord, Observation
from bfo_diag.shown import Progress


def capture(
    request: Request,
    *,
    compile: Annotated[
        str | None,
        typer.Option(help="Whether to compile, in place of the recipe's: auto, on, off.", show_default="the recipe's"),
    ] = None,
    telemetry: Annotated[
        str | None,
        typer.Option(
            metavar="every=N",
            help="Measure the gradients at every N-th step, in place of the recipe's; every=0 for never.",
            show_default="the recipe's",
        ),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Go on from the last checkpoint of a run of the same recipe: its folder, its id, or the file.",
            show_default=False,
        ),
    ] = None,
) -> Iterator[Observation | Progress]:
    """Train what the recipe says."""
    import torch

    from bfo_diag import targets
    from bfo_diag.training import checkpoint, loop, reading

    recipe = reading.read(request.text).with_options(seed=request.seed, compile=compile, telemetry=telemetry)
    path = Path(request.text or "").resolve()
    identity = targets.case_id(path.name, str(path), (), request.device, recipe.seed)
    case = CaseRecord(identity, recipe.name, request.text, "recipe", str(path), device=request.device, seed=recipe.seed)
    yield Observation("case", case.to_json())
    yield Observation("recipe", {"optimizer": recipe.optimizer.name, "recipe": recipe.to_json()})
    torch.manual_seed(recipe.seed)
    trainer = loop.Trainer(recipe, path.parent, device=request.device, raw=request.raw)
    yield trainer.described()
    state = None
    if resume is not None:
        found = checkpoint.find(resume, None if request.raw is None else request.raw.parent.parent)
        state = checkpoint.load(found)
        checkpoint.refuse_another(state, trainer.identity, found)
        where = {"from": str(found), "torch": state["torch"], "fold": state["fold"] + 1, "epoch": state["epoch"]}
        yield Observation("resumed", where)
        if request.raw is not None:
            checkpoint.bring_weights(found, request.raw, folds=state["fold"])
    yield from trainer.run(state)


PROBE = Probe(
    name="run",
    help="Trains what a recipe says, on real data: early stopping, folds, checkpoints, compile policy and telemetry.",
    capture=capture,
    **readers(__name__),
    details=later(f"{__name__}.summary", "details"),
    defaults={"device": "auto"},
    local=("resume",),
    file_target=FileTarget(
        metavar="RECIPE.toml",
        help="What to train: data, model, optimizer and how long. --seed other than 0 stands in for the recipe's.",
        check=later("bfo_diag.training.reading", "read"),
    ),
)
