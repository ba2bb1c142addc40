"""`bfo-diag gradients`: why a training step gets no gradient, and how each gradient mode fares with an optimizer.

With a TARGET that is a step, closure, factory or module: which parameters got a gradient, and which operation cut
off those that did not. With an Optimizer class, or no TARGET: each gradient mode against each scenario.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from bfo_diag.errors import DiagError
from bfo_diag.probes import Probe, Request, readers
from bfo_diag.records import Observation
from bfo_diag.shown import Progress

MODE_NAMES = ("dual", "smart", "config", "minimal", "as-is")
SCENARIO_NAMES = (
    "all-grad",
    "no-grad",
    "mixed",
    "toggled",
    "detached",
    "under-no-grad",
    "item-loss",
    "frozen-backbone",
    "nan-region",
    "raises",
    "autocast",
    "accumulation",
)


def capture(
    request: Request,
    *,
    mode: Annotated[
        str, typer.Option(help=f"Gradient mode for an optimizer: {', '.join(MODE_NAMES)}; several with commas, or all.")
    ] = "all",
    scenario: Annotated[
        str,
        typer.Option(help=f"Scenario for an optimizer: {', '.join(SCENARIO_NAMES)}; several with commas, or all."),
    ] = "all",
    steps: Annotated[int, typer.Option(min=1, help="Training steps to run, of the target or in each cell.")] = 3,
    evaluations: Annotated[
        int, typer.Option(min=1, help="Evaluations of the closure after which a cell of the matrix begins no new step.")
    ] = 200,
) -> Iterator[Observation | Progress]:
    """Find out where gradients get lost, and which gradient mode trains."""
    from bfo_diag.probes.gradients import matrix, step
    from bfo_diag.probes.gradients.trace import Trace

    modes, scenarios = chosen(mode, MODE_NAMES, "--mode"), chosen(scenario, SCENARIO_NAMES, "--scenario")
    optimizer_class: object
    if request.text is None:
        from bfo_diag.targets import builtin_record
        from pytorch_bfo_optimizer import HybridBFO

        yield Observation("case", builtin_record(request.device, request.seed).to_json())

        optimizer_class = HybridBFO
    else:
        with Trace() as trace:
            target = request.load()
            yield Observation("case", target.record.to_json())
            if target.kind != "optimizer":
                if (modes, scenarios) != (MODE_NAMES, SCENARIO_NAMES):
                    raise DiagError(
                        f"--mode and --scenario go with an Optimizer class; {request.text} is a {target.kind}",
                        mend="leave them out to examine the step as it is",
                    )
                yield from step.examine(trace, target, steps=steps)
                return
        optimizer_class = target.value
    plan = matrix.Plan(
        modes=modes,
        scenarios=scenarios,
        steps=steps,
        evaluations=evaluations,
        device=request.device,
        seed=request.seed,
    )
    yield from matrix.run(plan, optimizer_class)


def chosen(text: str, known: tuple[str, ...], option: str) -> tuple[str, ...]:
    """Return the names in a comma-separated list, or all of them.

    Raises:
        DiagError: a name that is not known.
    """
    if text == "all":
        return known
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    wrong = [name for name in names if name not in known]
    if wrong or not names:
        raise DiagError(
            f"{option} {', '.join(wrong) or repr(text)} is not known", mend=f"choose from {', '.join(known)}, or all"
        )
    return names


PROBE = Probe(
    name="gradients",
    help="Why a training step gets no gradient: each cut with its line and mend.",
    capture=capture,
    **readers(__name__),
    # What torch.compile captured runs out of the trace's sight: the analysis runs it eagerly.
    environment={"TORCHDYNAMO_DISABLE": "1"},
)
