"""What a lineage shows of a layer's neurons: who descends from whom, which of them have room, and in which lane each
lives. Knows nothing of SVG; `lineage.py` draws it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bfo_diag.render.scales import drawable
from bfo_diag.shown import Chart, Series

MOST_NEURONS, MOST_ROWS = 400, 150
"""That are drawn; those that followed each other in a row of the layer share a lane."""


@dataclass(frozen=True)
class Neuron:
    """A neuron with a place: it lives from `born` to `ended` in `row`."""

    name: str
    born: float
    ended: float
    row: float
    founder: bool
    alive: bool
    parents: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """The neurons of a layer, those drawn in their lanes: no two of one lane live at the same time."""

    neurons: tuple[Neuron, ...]
    """All that have a place, in the order of their birth."""
    quiet: tuple[Neuron, ...]
    """Founders that live to the end and have no children."""
    drawn: tuple[Neuron, ...]
    lanes: tuple[int, ...]
    """Of each that is drawn."""
    rows: tuple[float, ...]
    """Of each lane; several lanes where the neurons of a row overlap. Rows lie beside those that they descend from."""
    lost: int
    """How many have no place, as a step or a row of theirs is not finite."""

    @property
    def founders(self) -> int:
        """How many lived at the first step."""
        return sum(neuron.founder for neuron in self.neurons)

    @property
    def deaths(self) -> int:
        """How many do not live at the last step."""
        return sum(not neuron.alive for neuron in self.neurons)

    @property
    def unchanged(self) -> str:
        """How many founders live throughout and have no children, in words."""
        lives = "founder lives" if len(self.quiet) == 1 else "founders live"
        return f"{len(self.quiet):,} {lives} throughout, without children"


def family(chart: Chart) -> Family:
    """Return who of a chart's neurons is drawn where."""
    placed = [series for series in chart.series if _has_a_place(series)]
    first = min((_first(series) for series in placed), default=0.0)
    neurons = sorted((_neuron(series, first) for series in placed), key=lambda neuron: (neuron.born, neuron.row))
    parents = {name for neuron in neurons for name in neuron.parents}
    quiet = tuple(n for n in neurons if n.founder and n.alive and n.name not in parents)
    settled = set(map(id, quiet))
    drawn = _with_room([neuron for neuron in neurons if id(neuron) not in settled])
    lanes, rows = _lanes(drawn)
    return Family(tuple(neurons), quiet, tuple(drawn), lanes, rows, len(chart.series) - len(placed))


def _has_a_place(series: Series) -> bool:
    return bool(series.points) and all(drawable(value, log=False) for point in series.points for value in point)


def _first(series: Series) -> float:
    return min(step for step, _ in series.points)


def _neuron(series: Series, first: float) -> Neuron:
    born = _first(series)
    return Neuron(
        name=series.name,
        born=born,
        ended=max(step for step, _ in series.points),
        row=series.points[0][1],
        founder=born == first and not series.parents,
        alive=series.tone == "alive",
        parents=series.parents,
    )


def _with_room(neurons: Sequence[Neuron]) -> list[Neuron]:
    """Return those that are drawn, in their order; where there are too many, the latest of those alive come first.

    Then come their parents and all their ancestors, the nearest first; then those that died, and founders last.
    """
    by_name = {neuron.name: neuron for neuron in reversed(neurons)}
    queue = sorted((n for n in neurons if n.alive and not n.founder), key=lambda one: -one.born)
    seen = set(map(id, queue))
    for neuron in queue:
        parents = [by_name[name] for name in neuron.parents if name in by_name]
        queue += [parent for parent in dict.fromkeys(parents) if id(parent) not in seen]
        seen |= set(map(id, parents))
    queue += sorted((n for n in neurons if id(n) not in seen), key=lambda one: (one.founder, -one.born))
    chosen: set[int] = set()
    rows: set[float] = set()
    for neuron in queue:
        if len(chosen) < MOST_NEURONS and (neuron.row in rows or len(rows) < MOST_ROWS):
            chosen.add(id(neuron))
            rows.add(neuron.row)
    return [neuron for neuron in neurons if id(neuron) in chosen]


def _lanes(neurons: Sequence[Neuron]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return the lane of each neuron, and the row of each lane."""
    order = {row: place for place, row in enumerate(_order_of_descent(neurons))}
    lanes = [0] * len(neurons)
    rows: list[float] = []
    ends: list[float] = []
    for index in sorted(range(len(neurons)), key=lambda index: (order[neurons[index].row], neurons[index].born)):
        neuron = neurons[index]
        free = (lane for lane in reversed(range(len(rows))) if rows[lane] == neuron.row and ends[lane] <= neuron.born)
        lane = next(free, len(rows))
        if lane == len(rows):
            rows.append(neuron.row)
            ends.append(neuron.ended)
        lanes[index], ends[lane] = lane, neuron.ended
    return tuple(lanes), tuple(rows)


def _order_of_descent(neurons: Sequence[Neuron]) -> list[float]:
    """Return the rows so that those with children stand next to their children's: a layer's rows have no order.

    In the order of their numbers the strokes from parents to children would cross the whole drawing.
    """
    by_name = {neuron.name: neuron for neuron in reversed(neurons)}
    children: dict[float, list[float]] = {}
    for neuron in neurons:
        for parent in (by_name[name] for name in neuron.parents if name in by_name):
            children.setdefault(parent.row, []).append(neuron.row)
    born_into = {row for rows in children.values() for row in rows}
    rows = sorted({neuron.row for neuron in neurons}, key=lambda row: (row in born_into, row))
    order: dict[float, None] = {}
    for first in rows:
        waiting = [first]
        while waiting:
            row = waiting.pop()
            if row not in order:
                order[row] = None
                waiting.extend(reversed(children.get(row, [])))
    return list(order)
