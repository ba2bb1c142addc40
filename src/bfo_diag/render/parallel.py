"""The geometry of parallel coordinates: a vertical axis a factor, the metric last, a line an arm of a sweep.

Arms that share a level would lie on each other there: at a level, they lie side by side in their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bfo_diag.render.arms import SHADES, Arm, arms, shown
from bfo_diag.render.posts import BOTTOM, CHARACTERS, TOP, Post, name_lines, posts
from bfo_diag.render.scales import short_number
from bfo_diag.render.strokes import CHARACTER, MARGIN, WIDTH, Drawing, at, not_measured
from bfo_diag.render.text import cut
from bfo_diag.shown import Chart

_LEGEND = 34
_CROWD = 40
"""More arms than that are drawn with thin strokes."""


@dataclass(frozen=True)
class _Line:
    """An arm that is drawn, and its place among all that are."""

    arm: Arm
    rank: int
    of: int

    @property
    def aside(self) -> float:
        """Where among the arms of a level it lies: from -0.5 to 0.5."""
        return (self.rank + 0.5) / self.of - 0.5

    @property
    def kind(self) -> str:
        """The classes of its stroke."""
        if self.arm.control:
            return "arm control"
        if not self.arm.measured:
            return "arm failed"
        return f"arm arm-{self.arm.shade}" + (" crowd" if self.of > _CROWD else "")


def parallel(chart: Chart) -> Drawing:
    """Return the arms of a sweep as lines over the axes of a chart."""
    found = arms(chart)
    if not any(arm.places for arm in found):
        return not_measured()
    drawn = shown(found)
    standing = posts(chart, drawn)
    metric = standing[-1]
    labels = _labels(drawn, metric)
    edge = metric.x + 12 + CHARACTER * max((len(text) for _, text, _ in labels), default=0)
    made = Drawing(height=BOTTOM + _LEGEND, width=max(float(WIDTH), edge + MARGIN))
    for post in standing:
        made.stroke(f"M{at(post.x)} {TOP}V{BOTTOM}", "post")
    lines = [_Line(arm, rank, len(drawn)) for rank, arm in enumerate(drawn)]
    for line in sorted(lines, key=lambda line: (line.arm.control, line.arm.measured, -line.rank)):  # the last on top
        _line(line, standing, made)
    for post in standing:
        _texts(post, made, metric=post is metric)
    for place, text, kind in labels:
        made.write(metric.x + 8, place + 4, text, kind)
    _legend(drawn, made)
    return made


def _texts(post: Post, made: Drawing, *, metric: bool) -> None:
    """Write name and levels of an axis; the metric's stand before it, as the names of arms stand behind."""
    side = (-6.0, " end") if metric else (6.0, "")
    table, key = name_lines(post.axis)
    made.write(post.x, 14, table, "tick")
    made.write(post.x, 28, key, "axis-name")
    taken = 1e9
    for position, label in sorted(post.texts):
        place = post.scale(position)
        if taken - place < 11:
            continue
        made.stroke(f"M{at(post.x - 3)} {at(place)}h6", "post")
        made.write(post.x + side[0], place + 4, label, "level" + side[1])
        taken = place


def _line(line: _Line, standing: Sequence[Post], made: Drawing) -> None:
    """Draw an arm, broken where an axis has no place for it; the control has a paper rim and markers."""
    arm, pen, d, dots = line.arm, "M", [], []
    for index, post in enumerate(standing):
        if index not in arm.places:
            pen = "M"
            continue
        place = post.place(arm.places[index], line.aside)
        alone = pen == "M" and index + 1 not in arm.places
        d.append(f"M{at(post.x - 4)} {at(place)}h8" if alone else f"{pen}{at(post.x)} {at(place)}")
        dots.append(f"M{at(post.x - 3.5)} {at(place - 3.5)}h7v7h-7z")
        pen = "L"
    path = "".join(d)
    if arm.control:
        made.stroke(path, "rim")
    made.stroke(path, line.kind, title=f"{arm.name}: {'no figure' if arm.metric is None else short_number(arm.metric)}")
    if arm.control:
        made.stroke("".join(dots), "marker control")


def _labels(drawn: Sequence[Arm], metric: Post) -> list[tuple[float, str, str]]:
    """Return place, text and kind of the names behind the metric's axis: the control's and the best arm's."""
    best = next((arm for arm in drawn if arm.measured and not arm.control), None)
    control = next((arm for arm in drawn if arm.measured and arm.control), None)
    wanted = []
    for arm, kind in ((best, "label"), (control, "label control")):
        if arm is not None and arm.metric is not None:
            wanted.append((metric.scale(arm.metric), cut(arm.name, CHARACTERS), kind))
    wanted.sort()
    if len(wanted) == 2 and wanted[1][0] - wanted[0][0] < 14:
        middle = (wanted[0][0] + wanted[1][0]) / 2
        wanted = [(middle - 7, *wanted[0][1:]), (middle + 7, *wanted[1][1:])]
    return wanted


def _legend(drawn: Sequence[Arm], made: Drawing) -> None:
    """Draw what the strokes mean: those that occur."""
    line = BOTTOM + 22.0
    x = float(MARGIN)

    def write(text: str) -> None:
        nonlocal x
        made.write(x, line + 4, text, "tick")
        x += CHARACTER * len(text) + 6

    ranked = [arm for arm in drawn if arm.measured and not arm.control]
    if len(ranked) > 1:
        write("best")
        for shade in range(SHADES):
            made.stroke(f"M{at(x)} {at(line)}h12", f"arm arm-{shade}")
            x += 14
        x += 4
        write("worst")
        x += 6
    for kind, text, found in (
        ("arm control", "control", any(arm.control for arm in drawn)),
        ("arm failed", "no figure", any(not arm.measured for arm in drawn)),
    ):
        if found:
            made.stroke(f"M{at(x)} {at(line)}h18", kind)
            x += 23
            write(text)
            x += 6
