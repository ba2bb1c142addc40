"""The life of each neuron of a layer, from the turnover events on record. Needs no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bfo_diag.records import JSONValue

Event = Mapping[str, JSONValue]
"""A `pytorch_bfo_optimizer.turnover.TurnoverEvent` as it is on record."""


@dataclass(frozen=True)
class Neuron:
    """A neuron from its birth to its death, in optimizer steps; `died` is None where it lives at the `last` step."""

    serial: int
    parents: tuple[int, ...]
    born: int
    died: int | None
    last: int
    row: int
    """Of the layer, at its birth."""

    @property
    def points(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """The two ends of its line: (step, row)."""
        end = self.last if self.died is None else self.died
        return (float(self.born), float(self.row)), (float(end), float(self.row))


def busiest(events: Sequence[Event]) -> tuple[str, int]:
    """Return the layer with the most events, the first of them, and how many layers have any."""
    counts = Counter(str(event["layer"]) for event in events)
    return counts.most_common(1)[0][0], len(counts)


def neurons(events: Sequence[Event], *, last: int) -> list[Neuron]:
    """Return the neurons of one layer by serial number; `events` are of that layer, in their order.

    `last` is the last step of the training; founders are there from step 0.
    """
    end = max([last, *(int(event["step"]) for event in events)])
    lives = {serial: Neuron(serial, (), 0, None, end, serial) for serial in range(_founders(events))}
    died: dict[int, int] = {}
    for event in events:
        step = int(event["step"])
        if event["kind"] == "death":
            died |= dict.fromkeys(event["neurons"], step)
        elif event["kind"] == "birth":
            for serial, parents, slot in zip(event["neurons"], event["parents"], event["slots"], strict=True):
                lives[serial] = Neuron(serial, tuple(parents), step, None, end, slot)
    return [replace(life, died=died.get(serial)) for serial, life in sorted(lives.items())]


def _founders(events: Sequence[Event]) -> int:
    """Return how wide the layer was at first: the serial numbers of newborns go on from there."""
    newborn = [serial for event in events if event["kind"] == "birth" for serial in event["neurons"]]
    if newborn:
        return int(min(newborn))
    deaths = [event for event in events if event["kind"] == "death"]
    return int(deaths[0]["width"]) + len(deaths[0]["neurons"]) if deaths else int(events[0]["width"])
