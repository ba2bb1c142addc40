"""What a record says of a shift A -> B -> A: the losses on both over the phases, and what they come to.

Needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bfo_diag.probes.run.results import Line
from bfo_diag.records import JSONValue, Run
from bfo_diag.shown import Cell, Chart, Series, Table

_SAYS = {"permute": "B: the same in another order", "labels": "B: each digit under the name of the next"}


def epochs(run: Run) -> list[Line]:
    """Return the losses on A and B after each epoch, each once, as it was told last."""
    found = {o.values["epoch"]: (number, o.values) for number, o in run.of_kind("shift")}
    return [line for _, line in sorted(found.items())]


def end(run: Run) -> Line | None:
    """Return what it came to, None where the training did not come to its end."""
    found = [(number, o.values) for number, o in run.of_kind("shift_summary")]
    return found[-1] if found else None


def tables(run: Run) -> Iterator[Table]:
    """Yield what each phase left behind, and forgetting, plasticity and reconsolidation."""
    last = {values["phase"]: (number, values) for number, values in epochs(run)}
    if not last:
        return
    yield Table(
        title="Shift A → B → A: after each phase",
        columns=("phase", "learned from", "to epoch", "to step", "val loss on A", "val loss on B", "accuracy A / B"),
        rows=tuple(_row(phase, line) for phase, line in last.items()),
    )
    whole = end(run)
    if whole is not None:
        yield Table(
            title="Shift: what it did",
            columns=("what", "figure", "of"),
            rows=tuple(_figures(*whole)),
            caption=_SAYS.get(str(whole[1]["kind"]), ""),
        )


def _row(phase: int, line: Line) -> tuple[str | Cell, ...]:
    number, values = line
    return (
        str(phase),
        str(values["data"]),
        str(values["epoch"]),
        str(values["steps"]),
        Cell(f"{values['val_loss_a']:.4g}", "", (number,)),
        Cell(f"{values['val_loss_b']:.4g}", "", (number,)),
        f"{values['val_accuracy_a']:.2%} / {values['val_accuracy_b']:.2%}",
    )


def _figures(number: int, values: Mapping[str, JSONValue]) -> Iterator[tuple[str | Cell, ...]]:
    for name, later, earlier, of in (
        ("forgetting", "a_after_b", "a_learned", "loss on A after B, less before it"),
        ("plasticity", "b_learned", "b_fresh", "loss on B, less that of a fresh net that learned B alone"),
    ):
        if values[name] is None:
            yield name, Cell("not measured: it did not come so far", "muted", (number,)), of
        else:
            compared = f"{of}: {values[later]:.4g} - {values[earlier]:.4g}"
            yield name, Cell(f"{values[name]:+.4g} nats", "", (number,)), compared
    of = f"until the loss on A is back at what it was before B; looked at every {values['check_every']} steps"
    yield "reconsolidation", Cell(_back(values), "", (number,)), of


def _back(values: Mapping[str, JSONValue]) -> str:
    steps = values["reconsolidation_steps"]
    if steps is not None:
        return f"{steps} steps"
    return "not measured: it did not come so far" if values["a_at_end"] is None else "never"


def charts(run: Run) -> Iterator[Chart]:
    """Yield the losses on A and B over the epochs."""
    found = epochs(run)
    if found:
        proof = tuple(number for number, _ in found)
        series = tuple(
            Series(f"on {name}", tuple((float(v["epoch"]), v[f"val_loss_{name.lower()}"]) for _, v in found), (), proof)
            for name in ("A", "B")
        )
        phases = {values["phase"]: values["epoch"] for _, values in found}
        caption = "; ".join(f"phase {phase} to epoch {epoch}" for phase, epoch in phases.items())
        yield Chart("lines", "Shift: loss on both", "epoch", "validation loss (nats)", series, caption)


def summarise(run: Run) -> dict[str, JSONValue] | None:
    """Return the figures."""
    whole = end(run)
    return None if whole is None else dict(whole[1])


def verdict(run: Run) -> str:
    """Return them in half a line."""
    whole = end(run)
    if whole is None or whole[1]["forgetting"] is None:
        return ""
    values = whole[1]
    said = f"forgetting {values['forgetting']:+.3g}"
    said += "" if values["plasticity"] is None else f", plasticity {values['plasticity']:+.3g}"
    return f" Shift: {said}, A back after: {_back(values)}."
