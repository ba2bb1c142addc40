"""The vertical axes of parallel coordinates: where each stands, its scale, and the texts at it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from bfo_diag.render.arms import Arm, named_axes
from bfo_diag.render.scales import Scale, drawable, scale_of, short_number
from bfo_diag.render.strokes import CHARACTER, MARGIN, WIDTH
from bfo_diag.render.text import cut, cut_apart
from bfo_diag.shown import Axis, Chart

TOP, BOTTOM = 46, 262
"""Of the axes."""
_NARROWEST, _WIDEST, _TOGETHER = 96.0, 150.0, 720.0
"""Of the room that an axis is given, and of all of them, if they are few."""
CHARACTERS, _BOLD = 18, 7.8
"""The most of a name or of the text at a level; about the width of one in the name of an axis."""
_SPREAD = 16.0
"""The most that the arms of a level lie apart."""


@dataclass(frozen=True)
class Post:
    """An axis in the drawing: its place, its scale, and its texts (position, label)."""

    axis: Axis
    x: float
    scale: Scale
    texts: tuple[tuple[float, str], ...]

    def place(self, position: float, aside: float) -> float:
        """Return the height of an arm; at a level it lies `aside` (-0.5 to 0.5) of the others that share it."""
        return self.scale(position) + (aside * self._spread if position in self._levels else 0.0)

    @cached_property
    def _levels(self) -> frozenset[float]:
        return frozenset(position for position, _ in self.axis.ticks)

    @cached_property
    def _spread(self) -> float:
        """How far the arms of a level lie apart, all together."""
        places = sorted(self.scale(position) for position in self._levels)
        return min([_SPREAD, *(0.6 * (b - a) for a, b in pairwise(places) if b > a)])


def posts(chart: Chart, drawn: Sequence[Arm]) -> list[Post]:
    """Return the axes in their places: as far apart as their texts ask for, and over the whole width at least."""
    axes = named_axes(chart)
    scales = [_scale(axis, [arm.places[i] for arm in drawn if i in arm.places]) for i, axis in enumerate(axes)]
    texts = [_ticks(axis, scale) for axis, scale in zip(axes, scales, strict=True)]
    rooms = []
    room = max(_NARROWEST, min(_WIDEST, _TOGETHER / max(1, len(axes))))
    for index, axis in enumerate(axes[:-1]):
        before = [text for _, text in texts[-1]] if index == len(axes) - 2 else []  # the metric's stand before it
        levels = CHARACTER * max((len(text) for _, text in texts[index]), default=0)
        levels += CHARACTER * max(map(len, before), default=0) + 26
        rooms.append(max(room, levels, _BOLD * max(map(len, name_lines(axis))) + 10))
    free = WIDTH - 2 * MARGIN - CHARACTER * CHARACTERS - sum(rooms)
    more = max(0.0, free) / max(1, len(rooms))
    left = float(MARGIN) if rooms else MARGIN + CHARACTER * 8
    places = [left + sum(rooms[:index]) + index * more for index in range(len(axes))]
    return [Post(*parts) for parts in zip(axes, places, scales, texts, strict=True)]


def _scale(axis: Axis, positions: Sequence[float]) -> Scale:
    """Return the scale from the low to the high end, and to what lies beyond; a lone level is in the middle."""
    given = [*(position for position, _ in axis.ticks), axis.low, axis.high, *positions]
    values = [value for value in given if drawable(value, log=axis.log)]
    if not values:
        return scale_of([1.0], log=axis.log, start=BOTTOM - 8, end=TOP + 8)
    scale = scale_of(values, log=axis.log, start=BOTTOM - 8, end=TOP + 8)
    if min(values) == max(values):
        return scale
    return Scale(min(values), max(values), axis.log, BOTTOM - 8, TOP + 8, scale.ticks)


def _ticks(axis: Axis, scale: Scale) -> tuple[tuple[float, str], ...]:
    """Return position and text of the levels; of a continuous axis those of round figures within it."""
    if axis.ticks:
        positions = [position for position, _ in axis.ticks]
        levels = zip(positions, cut_apart([label for _, label in axis.ticks], CHARACTERS), strict=True)
        return tuple(level for level in levels if drawable(level[0], log=axis.log))
    held = tuple((tick, scale.label(tick)) for tick in scale.ticks if scale.low <= tick <= scale.high)
    return held if len(held) > 1 else tuple((end, short_number(end)) for end in sorted({scale.low, scale.high}))


def name_lines(axis: Axis) -> tuple[str, str]:
    """Return the two lines of a name: `optimizer.` and `lr`."""
    table, dot, key = axis.name.rpartition(".")
    return cut(table + dot, CHARACTERS), cut(key, CHARACTERS)
