"""`bfo-diag gradients`: why a training step gets no gradient, and how each gradient mode fares with an optimizer.

With a TARGET that is a step, closure, factory or module: which parameters got a gradient, and which operation cut
off those that did not. With an Optimizer class, or no TARGET: each gradient mode against each scenario.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from bfo_diag.errors import DiagError
from bfo_diag.probes import Probe, Progress, Request
from bfo_diag.probes.gradients import judge as judging
from bfo_diag.probes.gradients import matrix_judge
from bfo_diag.records import Cell, Chart, Finding, Observation, Run, Series, Table

_LISTED = 40
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


def tables(run: Run) -> Iterator[Table]:
    """Yield the matrix of each workload, and the parameters of a step."""
    yield from matrix_judge.tables(run)
    found = judging.histories(run)
    if not found:
        return
    rows = []
    # What has none comes first; a long list of what is well stays in the log.
    ordered = sorted(found.values(), key=lambda history: history.has_gradient)
    for history in ordered[:_LISTED]:
        values = history.last
        norm = f"{history.norms[-1][1]:.3g}" if history.norms else "-"
        shape = "x".join(map(str, values.get("shape", ()))) or "scalar"
        held = {True: "yes", False: "no", None: "no optimizer seen"}[values.get("in_optimizer")]
        status = "gradient" if history.has_gradient else str(values.get("status", "?")).replace("_", " ")
        lines = (history.lines[-1],)
        rows.append((history.name, shape, Cell(status, evidence=lines), Cell(norm, evidence=lines), held))
    yield Table(
        title="Parameters",
        columns=("parameter", "shape", "gradient", "norm", "in optimizer"),
        rows=tuple(rows),
        caption=f"and {len(ordered) - _LISTED} more in the log" if len(ordered) > _LISTED else "",
    )


def charts(run: Run) -> Iterator[Chart]:
    """Yield the loss curves: of each workload of a matrix, or of a step."""
    yield from matrix_judge.charts(run)
    losses = [
        (number, float(number_of), float(observation.values["loss"]))
        for number, observation in run.of_kind("step")
        if observation.values.get("loss") is not None
        and observation.place is not None
        and (number_of := observation.place.step) is not None
    ]
    if len(losses) > 1:
        points = tuple((step, loss) for _, step, loss in losses)
        series = Series("loss", points, evidence=tuple(number for number, _, _ in losses))
        yield Chart(kind="lines", title="Loss of the step", x_axis="step", y_axis="loss", series=(series,))


def verdict(run: Run, findings: tuple[Finding, ...]) -> str:
    """Return the answer in one line."""
    if not _measured(run):
        return "Nothing was measured."
    cells = [observation.values for _, observation in run.of_kind("cell")]
    if cells:
        count = {name: sum(cell["status"] == name for cell in cells) for name in ("trained", "refused", "failed")}
        odd = sum(cell["status"] != "trained" and not matrix_judge.as_expected(cell) for cell in cells)
        said = f"{count['trained']} of {len(cells)} cells trained, {count['refused']} refused by name, "
        said += f"{count['failed']} failed"
        return said + (f"; {odd} cells are not as they should be." if odd else ", each where it should.")
    found = judging.histories(run)
    with_gradient = sum(history.has_gradient for history in found.values())
    not_measured = [h for h in found.values() if not h.has_gradient and h.last.get("status") == "not_measured"]
    if found and len(not_measured) == len(found):
        if any(observation.values.get("functional") for _, observation in run.of_kind("step")):
            return "Not measured: torch.func takes the gradients, which the trace does not follow."
        return "Not measured: the step ended before its backward pass."
    if not found:
        return "No parameter was seen."
    if with_gradient == len(found):
        worst = max((f.severity.rank for f in findings), default=-1)
        good = "a gradient" if worst >= 1 else "a finite gradient that is not zero"
        return f"Every one of {len(found)} parameters got {good}."
    frozen = sum(h.last.get("status") == "frozen" for h in found.values() if not h.has_gradient)
    lost = len(found) - with_gradient - frozen - len(not_measured)
    parts = [f"{lost} of {len(found)} parameters got no gradient"] if lost else []
    parts += [f"{with_gradient} of {len(found)} parameters got a gradient"] if not lost else []
    parts += [f"{frozen} {'are' if frozen > 1 else 'is'} frozen"] if frozen else []
    parts += [f"{len(not_measured)} not measured"] if not_measured else []
    return "; ".join(parts) + "."


def _measured(run: Run) -> bool:
    return any(run.of_kind("cell", "parameter"))


PROBE = Probe(
    name="gradients",
    help="Why a training step gets no gradient: each cut with its line and mend.",
    capture=capture,
    judge=judging.judge,
    summarise=judging.summarise,
    tables=tables,
    verdict=verdict,
    measured=_measured,
    charts=charts,
    # What torch.compile captured runs out of the trace's sight: the analysis runs it eagerly.
    environment={"TORCHDYNAMO_DISABLE": "1"},
)
