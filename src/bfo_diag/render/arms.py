"""What parallel coordinates show of a sweep's arms: which of them have room, where each lies, and its shade.

Knows nothing of SVG; `parallel.py` draws it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bfo_diag.render.scales import drawable
from bfo_diag.shown import Axis, Chart

MOST_ARMS, MOST_AXES = 100, 20
SHADES = 5
"""Of the order of the arms: 0 is the best fifth."""
_FIRST = 12
"""So many of the best arms are drawn before any other; of the rest, some from everywhere."""


@dataclass(frozen=True)
class Arm:
    """An arm: its position on the axes that have a place for it, by their index."""

    name: str
    places: dict[int, float]
    metric: float | None
    shade: int
    control: bool

    @property
    def measured(self) -> bool:
        """Whether it has a figure on the last axis."""
        return self.metric is not None


def named_axes(chart: Chart) -> tuple[Axis, ...]:
    """Return the axes that are drawn: where there are too many, the first ones and the metric."""
    return chart.axes if len(chart.axes) <= MOST_AXES else (*chart.axes[: MOST_AXES - 1], chart.axes[-1])


def arms(chart: Chart) -> list[Arm]:
    """Return the arms of a chart, in their order: best first."""
    axes = named_axes(chart)
    places = [_places(series.points, axes, len(chart.axes)) for series in chart.series]
    measured = [index for index, place in enumerate(places) if axes and len(axes) - 1 in place]
    shade_of = {index: SHADES * rank // len(measured) for rank, index in enumerate(measured)}
    return [
        Arm(series.name, place, place.get(len(axes) - 1), shade_of.get(index, SHADES - 1), series.tone == "control")
        for index, (series, place) in enumerate(zip(chart.series, places, strict=True))
    ]


def _places(points: Sequence[tuple[float, float]], axes: Sequence[Axis], given: int) -> dict[int, float]:
    """Return position by index of a drawn axis; the metric is the last one of all that are given."""
    drawn = {float(index): index for index in range(len(axes) - 1)} | {float(given - 1): len(axes) - 1}
    return {drawn[x]: y for x, y in points if x in drawn and given and drawable(y, log=axes[drawn[x]].log)}


def shown(found: Sequence[Arm]) -> list[Arm]:
    """Return the arms that have room, in their order: the control, the best ones, and of the others some throughout."""
    placed = [arm for arm in found if arm.places]
    if len(placed) <= MOST_ARMS:
        return placed
    rest = placed[_FIRST:]
    room = MOST_ARMS - _FIRST - 1
    spread = [rest[round(index * (len(rest) - 1) / (room - 1))] for index in range(room)]
    chosen = {id(arm) for arm in (*placed[:_FIRST], *spread, *[arm for arm in placed if arm.control][:1])}
    return [arm for arm in placed if id(arm) in chosen]
