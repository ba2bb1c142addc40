"""A gradients run as tables, charts and verdict. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator

from bfo_diag.probes.gradients import closure_judge, matrix_judge
from bfo_diag.probes.gradients import judge as judging
from bfo_diag.probes.gradients.judge import summarise as summarise
from bfo_diag.records import Finding, Run
from bfo_diag.shown import Cell, Chart, Series, Table

_LISTED = 40


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
    if not measured(run):
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
    if not with_gradient and closure_judge.takes_no_gradient(run):
        return f"The optimizer asks for losses alone: none of {len(found)} parameters needs a gradient."
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


def measured(run: Run) -> bool:
    """Whether a parameter or a cell of the matrix was seen."""
    return any(run.of_kind("cell", "parameter"))
