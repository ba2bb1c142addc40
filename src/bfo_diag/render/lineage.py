"""The geometry of a lineage: steps to the right, a lane a row of the layer, neurons as bars, joined to their parents.

Bars of one kind are one path: a layer of hundreds of neurons needs some ten kilobytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from bfo_diag.render.family import Family, Neuron, family
from bfo_diag.render.scales import Scale, number, scale_of
from bfo_diag.render.strokes import CHARACTER, MARGIN, WIDTH, Drawing, at, not_measured
from bfo_diag.render.text import cut
from bfo_diag.shown import Chart

_TOP, _BOTTOM, _BAND = 48, 42, 20
_HIGHEST, _TALLEST = 16.0, 450.0
"""Of a lane; of all lanes."""
_NAMED = 11.0
"""Lanes so high have room for the name of each neuron."""
_BEND = 40.0
"""The most that the stroke from a parent begins before a birth: strokes straight down would lie on each other."""


@dataclass(frozen=True)
class _Lanes:
    """Where the lanes of a drawing are."""

    x: Scale
    step: float
    made: Drawing

    @property
    def bar(self) -> float:
        """The height of a bar; the name of a neuron stands above it."""
        return 3.0 if self.named else min(4.0, 0.7 * self.step)

    @property
    def named(self) -> bool:
        return self.step >= _NAMED

    def middle(self, lane: int) -> float:
        """Return the middle of a lane's bars."""
        return _TOP + self.step * (lane + (0.8 if self.named else 0.5))


def lineage(chart: Chart) -> Drawing:
    """Return the family tree of a layer's neurons."""
    found = family(chart)
    if not found.neurons:
        return not_measured()
    step = min(_HIGHEST, _TALLEST / max(1, len(found.rows)))
    bottom = _TOP + step * len(found.rows) + (6 if found.drawn else 0)
    height = bottom + (_BAND if found.quiet else 0)
    numbers = [number(row) for row in found.rows] if step >= _NAMED else []
    left = MARGIN + CHARACTER * max(map(len, numbers), default=0)
    steps = [step for neuron in found.neurons for step in (neuron.born, neuron.ended)]
    made = Drawing(height=height + _BOTTOM)
    lanes = _Lanes(scale_of(steps, log=False, start=left, end=WIDTH - MARGIN), step, made)
    ticks = [(lanes.x(tick), lanes.x.label(tick)) for tick in lanes.x.ticks]
    for place, _ in ticks:
        made.stroke(f"M{at(place)} {_TOP}V{at(bottom)}", "grid")
    made.ruler(ticks, left=left, right=WIDTH - MARGIN, bottom=height)
    made.write(MARGIN - 10, 14, cut(chart.y_axis, 60), "axis")
    made.write(WIDTH - MARGIN, made.height - 6, cut(chart.x_axis, 40), "axis end")
    _legend(found, made)
    _rows(found, lanes)
    _strokes(found, lanes)
    _names(found, lanes)
    _band(found, lanes, bottom)
    return made


def _rows(found: Family, lanes: _Lanes) -> None:
    """Number the rows, where all of them have room."""
    for lane, row in enumerate(found.rows) if lanes.named else ():
        if lane == 0 or found.rows[lane - 1] != row:
            lanes.made.write(lanes.x.start - 5, lanes.middle(lane) + 4, number(row), "tick end")


def _strokes(found: Family, lanes: _Lanes) -> None:
    """Draw who descends from whom, then the neurons over it, then where they died."""
    placed = list(zip(found.drawn, found.lanes, strict=True))
    by_name = {neuron.name: (neuron, lane) for neuron, lane in reversed(placed)}
    links: list[str] = []
    bars: dict[bool, list[str]] = {True: [], False: []}
    deaths = []
    bend = _bend(found, lanes.x)
    for neuron, lane in placed:
        parents = [by_name[name] for name in neuron.parents if name in by_name]
        links += [_link((neuron, lane), parent, lanes, bend) for parent in parents if parent[0] is not neuron]
        bars[neuron.founder].append(_bar(neuron, lane, lanes))
        if not neuron.alive:
            deaths.append(_death(neuron, lane, lanes))
    lanes.made.stroke("".join(links), "descent")
    lanes.made.stroke("".join(bars[True]), "neuron founder")
    lanes.made.stroke("".join(bars[False]), "neuron")
    lanes.made.stroke("".join(deaths), "death")


def _bar(neuron: Neuron, lane: int, lanes: _Lanes) -> str:
    start, end = lanes.x(neuron.born), lanes.x(neuron.ended)
    length = max(1.5, end - start - (0 if neuron.alive else 1))  # apart from the next one of the lane
    height = lanes.bar if lanes.named or not neuron.founder else max(0.8, 0.4 * lanes.bar)  # many founders: a backdrop
    return f"M{at(start)} {at(lanes.middle(lane) - height / 2)}h{at(length)}v{at(height)}h-{at(length)}z"


def _death(neuron: Neuron, lane: int, lanes: _Lanes) -> str:
    half = lanes.bar / 2 + min(2.0, (lanes.step - lanes.bar) / 2)
    return f"M{at(lanes.x(neuron.ended) - 0.8)} {at(lanes.middle(lane) - half)}v{at(2 * half)}"


def _bend(found: Family, x: Scale) -> float:
    """Return how far before a birth strokes may begin: within half of the time between two events."""
    births = sorted({x(neuron.born) for neuron in found.drawn})
    return min([_BEND, *(0.6 * (b - a) for a, b in pairwise(births))])


def _link(child: tuple[Neuron, int], parent: tuple[Neuron, int], lanes: _Lanes, bend: float) -> str:
    """Return a stroke that leaves the parent's bar a little before the birth; from its end, if it died before."""
    birth = lanes.x(child[0].born)
    leaves = min(max(lanes.x(parent[0].born), birth - bend), lanes.x(parent[0].ended), birth)
    middle, y, parent_y = at((leaves + birth) / 2), at(lanes.middle(child[1])), at(lanes.middle(parent[1]))
    return f"M{at(leaves)} {parent_y}C{middle} {parent_y} {middle} {y} {at(birth)} {y}"


def _names(found: Family, lanes: _Lanes) -> None:
    """Name the neurons above their bars, where a lane is high and a life is long enough."""
    for neuron, lane in zip(found.drawn, found.lanes, strict=True) if lanes.named else ():
        name = cut(neuron.name, 12)
        start = lanes.x(neuron.born)
        if lanes.x(neuron.ended) - start >= CHARACTER * len(name):
            lanes.made.write(start + 2, lanes.middle(lane) - 3, name, "serial")


def _band(found: Family, lanes: _Lanes, top: float) -> None:
    """Draw the founders that nothing happened to as one band."""
    if found.quiet:
        left, right = lanes.x(min(n.born for n in found.quiet)), lanes.x(max(n.ended for n in found.quiet))
        lanes.made.stroke(f"M{at(left)} {at(top + 2)}H{at(right)}v{_BAND - 6}H{at(left)}z", "quiet")
        lanes.made.write((lanes.x.start + WIDTH - MARGIN) / 2, top + 13, found.unchanged, "tick middle")


def _legend(found: Family, made: Drawing) -> None:
    """Draw what the strokes mean: those that occur."""
    x = float(MARGIN)
    for text, kind, d in _marks(found):
        made.stroke(f"M{at(x)} {d}", kind)
        made.write(x + 19, 36, text, "tick")
        x += 19 + CHARACTER * len(text) + 12


def _marks(found: Family) -> Iterator[tuple[str, str, str]]:
    """Yield text, kind and stroke of each mark; the stroke begins at the left of its place."""
    drawn = found.drawn
    if any(neuron.founder for neuron in drawn):
        yield "founder", "neuron founder", "30.5h14v3h-14z"
    if any(not neuron.founder for neuron in drawn):
        yield "born later", "neuron", "30.5h14v3h-14z"
    if any(not neuron.alive for neuron in drawn):
        yield "died", "death", "32m7 -3.5v7"
    names = {neuron.name for neuron in drawn}
    if any(names.difference([neuron.name]).intersection(neuron.parents) for neuron in drawn):
        yield "parent to child", "descent", "28c7 0 7 8 14 8"
