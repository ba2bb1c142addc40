"""`bfo-diag telemetry`: the gradients of a training over its steps: where they vanish, explode, die or turn NaN.

`watching` runs the steps and `sampling` collects; `judge` and `summary` read what was put on record, as `history`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from bfo_diag.probes import Probe, Request, readers
from bfo_diag.records import Observation
from bfo_diag.shown import Progress


def capture(
    request: Request,
    *,
    steps: Annotated[int, typer.Option(min=1, help="Training steps to run.")] = 100,
    every: Annotated[int, typer.Option(min=1, help="Measure the first of every so many steps.")] = 1,
    tensorboard: Annotated[
        str | None, typer.Option(metavar="DIR", help="Write a TensorBoard log there, too.", show_default=False)
    ] = None,
    wandb: Annotated[
        str | None,
        typer.Option(metavar="PROJECT", help="Log to this Weights & Biases project, too.", show_default=False),
    ] = None,
) -> Iterator[Observation | Progress]:
    """Watch the gradients of a training."""
    from bfo_diag.probes.telemetry import sinks, watching

    with sinks.opened(tensorboard=tensorboard, wandb=wandb) as opened:
        yield from watching.run(request, opened, steps=steps, every=every)


PROBE = Probe(
    name="telemetry",
    help="Gradient norms of each layer over the steps: vanishing, exploding, dead, NaN and where it began.",
    capture=capture,
    **readers(__name__),
    local=("tensorboard", "wandb"),
    short=lambda target: {"steps": 20},
)
