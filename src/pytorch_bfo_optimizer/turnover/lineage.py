"""Who descends from whom: a directed acyclic graph of neurons, from turnover events and the first widths alone.

No torch here: a record of events is enough.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pytorch_bfo_optimizer.turnover.events import TurnoverEvent

Neuron = tuple[str, int]
"""Layer and serial number."""


@dataclass(frozen=True)
class Cohort:
    """The neurons that were born at one step (0: the founders), over all layers that were asked for."""

    step: int
    born: int
    alive: int

    @property
    def survival(self) -> float:
        """Share that is alive."""
        return self.alive / self.born


@dataclass(frozen=True)
class Diversity:
    """From how many ancestors the living descend; a neuron that descends from none is its own."""

    founders: int
    """Distinct founders among the ancestors of the living."""
    ancestors: int
    """Distinct first ancestors of the living: founders, and neurons that were born of nobody."""
    effective: float
    """exp of the entropy of the first ancestors' shares: as many ancestors of equal shares would be as diverse.

    Each living neuron counts 1 and is divided equally among its parents, theirs among theirs, up to the first ones.
    """


class Lineage:
    """The graph of all layers. Parents are always born before their children, so there is no cycle."""

    def __init__(self, widths: Mapping[str, int], events: Iterable[TurnoverEvent] = ()) -> None:
        self.widths = dict(widths)
        """First width of each layer: its founders are 0 to width - 1."""
        self._parents: dict[Neuron, tuple[int, ...]] = {}
        self._born: dict[Neuron, int] = {}
        self._died: dict[Neuron, int] = {}
        for layer, width in self.widths.items():
            for serial in range(width):
                self._parents[layer, serial], self._born[layer, serial] = (), 0
        for event in events:
            self.add(event)

    def add(self, event: TurnoverEvent) -> None:
        """Take the next event; what begins to fade changes nobody's descent.

        Raises:
            ValueError: it tells of neurons that are not alive, of parents that never were, or of one born twice.
        """
        for neuron, parents in zip(event.neurons, event.parents, strict=True):
            if event.kind == "birth":
                self._birth((event.layer, neuron), parents, event.step)
            elif event.kind == "death":
                self._death((event.layer, neuron), event.step)

    def _birth(self, neuron: Neuron, parents: tuple[int, ...], step: int) -> None:
        layer, serial = neuron
        if neuron in self._born:
            raise ValueError(f"neuron {serial} of {layer!r} is born a second time, at step {step}")
        unknown = [parent for parent in parents if (layer, parent) not in self._born]
        if unknown:
            raise ValueError(f"neuron {serial} of {layer!r} has parents that never were: {unknown}")
        self._parents[neuron], self._born[neuron] = tuple(parents), step

    def _death(self, neuron: Neuron, step: int) -> None:
        if neuron not in self._born or neuron in self._died:
            raise ValueError(f"neuron {neuron[1]} of {neuron[0]!r} dies at step {step}, and is not alive")
        self._died[neuron] = step

    def alive(self, layer: str) -> tuple[int, ...]:
        """Serial numbers of the living, by age."""
        return tuple(serial for _, serial in self._living(layer))

    def edges(self, layer: str | None = None) -> tuple[tuple[str, int, int], ...]:
        """(layer, parent, child) of each descent, in order of birth; of one layer, or of all."""
        found = ((neuron, parents) for neuron, parents in self._parents.items() if layer in (None, neuron[0]))
        return tuple((where, parent, child) for (where, child), parents in found for parent in parents)

    def founders_alive(self, layer: str | None = None) -> int:
        """How many founders live."""
        return sum(map(self._is_founder, self._living(layer)))

    def survival(self, layer: str | None = None) -> float:
        """Share of the founders that lives; 1.0 where there are none."""
        founders = sum(width for name, width in self.widths.items() if layer in (None, name))
        return self.founders_alive(layer) / founders if founders else 1.0

    def cohorts(self, layer: str | None = None) -> tuple[Cohort, ...]:
        """The neurons by their step of birth, founders first."""
        born: dict[int, int] = {}
        alive: dict[int, int] = {}
        for neuron, step in self._born.items():
            if layer in (None, neuron[0]):
                born[step] = born.get(step, 0) + 1
                alive[step] = alive.get(step, 0) + (neuron not in self._died)
        return tuple(Cohort(step, born[step], alive[step]) for step in sorted(born))

    def diversity(self, layer: str | None = None) -> Diversity:
        """From how many ancestors the living descend, in one layer or in all together."""
        shares = dict.fromkeys(self._living(layer), 1.0)
        first: dict[Neuron, float] = {}
        for neuron in reversed(self._parents):  # children before their parents
            share = shares.pop(neuron, 0.0)
            if not share:
                continue
            parents = self._parents[neuron]
            if not parents:
                first[neuron] = share
            for parent in parents:
                above = (neuron[0], parent)
                shares[above] = shares.get(above, 0.0) + share / len(parents)
        total = math.fsum(first.values())
        entropy = -math.fsum(share / total * math.log(share / total) for share in first.values())
        founders = sum(map(self._is_founder, first))
        return Diversity(founders, len(first), math.exp(entropy) if first else 0.0)

    def _is_founder(self, neuron: Neuron) -> bool:
        return neuron[1] < self.widths[neuron[0]]

    def _living(self, layer: str | None) -> Iterator[Neuron]:
        return (neuron for neuron in self._born if neuron not in self._died and layer in (None, neuron[0]))

    def plain(self) -> dict[str, Any]:
        """Return JSON values: the nodes, each with its parents and the steps of its birth and death."""
        nodes = [
            [layer, serial, list(parents), self._born[layer, serial], self._died.get((layer, serial))]
            for (layer, serial), parents in self._parents.items()
            if not self._is_founder((layer, serial)) or (layer, serial) in self._died
        ]
        return {"widths": dict(self.widths), "nodes": nodes}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Lineage:
        """Return what `plain` was made of. Founders that live are not among the nodes: the widths tell of them.

        Raises:
            ValueError: nodes that are no lineage.
        """
        lineage = cls({str(layer): int(width) for layer, width in plain["widths"].items()})
        for layer, serial, parents, born, died in plain["nodes"]:
            if not lineage._is_founder((layer, serial)):
                lineage._birth((layer, serial), tuple(parents), born)
            if died is not None:
                lineage._death((layer, serial), died)
        return lineage
