"""What a record says of neuron turnover: how many died and were born, how wide the layers became, who descends from
whom. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bfo_diag.findings import catalogue
from bfo_diag.neurons import busiest, neurons
from bfo_diag.probes.run.results import Line, recipe
from bfo_diag.records import Finding, JSONValue, Run
from bfo_diag.shown import Cell, Chart, Series, Table

_EVENTS_SHOWN = 200
_NEURONS_NAMED = 8


def asked(run: Run) -> Mapping[str, JSONValue]:
    """Return the recipe's table; empty where no neuron was to turn over."""
    table: Mapping[str, JSONValue] = recipe(run).get("turnover") or {}
    return table if table.get("preset", "none") != "none" else {}


def ends(run: Run) -> list[Line]:
    """Return what came of it in each fold that came to its end."""
    last = {o.values["fold"]: (number, o.values) for number, o in run.of_kind("turnover_summary")}
    return [line for _, line in sorted(last.items())]


def events(run: Run) -> dict[int, list[Line]]:
    """Return the events of each fold in their order, each once: who goes on tells them again."""
    found: dict[int, dict[tuple[JSONValue, ...], Line]] = {}
    for number, observation in run.of_kind("turnover"):
        values = observation.values
        key = (values["step"], values["layer"], values["kind"], *values["neurons"])
        found.setdefault(values["fold"], {})[key] = (number, values)
    return {fold: list(lines.values()) for fold, lines in sorted(found.items())}


def judge(run: Run) -> Iterator[Finding]:
    """Yield that a whole training went by without an event."""
    found = ends(run)
    if found and not any(values["events"] for _, values in found):
        table = asked(run)
        steps = max((o.values["steps"] for _, o in run.of_kind("fold_end")), default=0)
        message = f'turnover.preset = "{table.get("preset")}", and not one event in {steps} steps'
        message += f" of a fold: turnover.every is {table.get('every')}"
        yield catalogue()["RUN-TURNOVER-NEVER-FIRED"].finding(message, evidence=tuple(n for n, _ in found))


def tables(run: Run) -> Iterator[Table]:
    """Yield a row for each fold that came to its end."""
    found = ends(run)
    if found:
        yield Table(
            title=f"Turnover: {found[0][1]['preset']}",
            columns=("fold", "events", "births", "deaths", "width", "founders alive", "jump: mean / max"),
            rows=tuple(_row(line) for line in found),
            caption="width: of all layers together, at first and at last; jump: by how much the loss on samples that "
            "are held back changes at a turnover",
        )


def _row(line: Line) -> tuple[str | Cell, ...]:
    number, values = line
    widths = values["widths"].values()
    jump = "not measured: turnover.measure is off" if values["events"] else "not measured: no turnover"
    if values["jump_mean"] is not None:
        jump = f"{values['jump_mean']:.2g} / {values['jump_max']:.2g} nats"
    return (
        str(values["fold"]),
        Cell(str(values["events"]), "" if values["events"] else "bad", (number,)),
        str(values["births"]),
        str(values["deaths"]),
        f"{sum(width['first'] for width in widths)} → {sum(width['last'] for width in widths)}",
        f"{values['founders_alive']} of {values['founders']}",
        jump,
    )


def details(run: Run) -> Iterator[Table]:
    """Yield each layer, and each event."""
    layers = [_layer(values["fold"], *found) for _, values in ends(run) for found in values["widths"].items()]
    if layers:
        columns = ("fold", "layer", "births", "deaths", "first width", "last width", "founders alive")
        yield Table("Turnover: layers", columns, tuple(layers))
    every = [line for lines in events(run).values() for line in lines]
    if every:
        shown = every[:_EVENTS_SHOWN]
        left = f"; {len(every) - len(shown)} more are in the log" if len(shown) < len(every) else ""
        yield Table(
            "Turnover: events",
            ("fold", "step", "layer", "what", "neurons", "why", "width", "loss before", "loss after"),
            tuple(_event(line) for line in shown),
            caption=f"neurons by their serial numbers, the founders' first{left}",
        )


def _layer(fold: int, layer: str, width: Mapping[str, JSONValue]) -> tuple[str, ...]:
    figures = (str(width[name]) for name in ("births", "deaths", "first", "last"))
    return (str(fold), layer, *figures, f"{width['founders_alive']} of {width['first']}")


def _event(line: Line) -> tuple[str | Cell, ...]:
    number, values = line
    named = ", ".join(map(str, values["neurons"][:_NEURONS_NAMED]))
    more = len(values["neurons"]) - _NEURONS_NAMED
    return (
        str(values["fold"]),
        Cell(str(values["step"]), "", (number,)),
        str(values["layer"]),
        str(values["kind"]),
        named + (f" and {more} more" if more > 0 else ""),
        str(values["why"]),
        str(values["width"]),
        *("-" if values[name] is None else f"{values[name]:.4g}" for name in ("loss_before", "loss_after")),
    )


def charts(run: Run) -> Iterator[Chart]:
    """Yield the lineage of the layer with the most events, in the first fold that has any."""
    for fold, lines in events(run).items():
        layer, others = busiest([values for _, values in lines])
        own = [line for line in lines if line[1]["layer"] == layer]
        last = max((o.values["steps"] for _, o in run.of_kind("epoch") if o.values["fold"] == fold), default=0)
        caption = f"{layer}, fold {fold}: a bar from birth to death for each neuron"
        caption += f"; the layer of {others} with the most events" if others > 1 else ""
        yield Chart("lineage", "Lineage", "step", "neuron", tuple(_lives(own, last)), caption)
        return


def _lives(lines: list[Line], last: int) -> Iterator[Series]:
    proof: dict[int, list[int]] = {}
    for number, values in lines:
        for serial in values["neurons"]:
            proof.setdefault(serial, []).append(number)
    for neuron in neurons([values for _, values in lines], last=last):
        yield Series(
            str(neuron.serial),
            neuron.points,
            evidence=tuple(proof.get(neuron.serial, ())),
            parents=tuple(map(str, neuron.parents)),
            tone="alive" if neuron.died is None else "",
        )


def summarise(run: Run) -> list[JSONValue]:
    """Return the figures of each fold, without the lineage's nodes."""
    return [{key: value for key, value in values.items() if key != "lineage"} for _, values in ends(run)]


def verdict(run: Run) -> str:
    """Return the births and deaths of all folds, in half a line."""
    found = [values for _, values in ends(run)]
    if not found:
        return ""
    births, deaths = (sum(values[name] for values in found) for name in ("births", "deaths"))
    return f" Turnover ({found[0]['preset']}): {births} births, {deaths} deaths."
