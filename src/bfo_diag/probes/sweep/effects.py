"""What each level of a factor did, over the arms that have it. Needs no torch.

In a balanced design (each pair of levels of two factors in equally many arms) the other factors weigh the same on every
level, and what varies is the seed. In any other design a level's mean also tells of what it was tried with: the arms
are then what varies.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bfo_diag.probes.sweep import statistics as st
from bfo_diag.probes.sweep.factors import canonical
from bfo_diag.probes.sweep.results import Arm, Sweep, number
from bfo_diag.records import JSONValue, dumps

Groups = list[tuple[str, list[Arm]]]
"""Levels of a factor with the arms that have them; no level without an arm."""


@dataclass(frozen=True)
class Level:
    """A value of a factor, or a third of its range."""

    factor: str
    name: str
    arms: tuple[Arm, ...]
    mean: float
    """Of the metric over these arms and their seeds."""
    effect: float
    """`mean` less the mean of all arms."""
    interval: st.Interval | None
    """Of the effect; None where it can't be told."""


@dataclass(frozen=True)
class Effects:
    """The levels of all factors, in their order, over the `arms` that count."""

    levels: tuple[Level, ...]
    arms: tuple[Arm, ...]
    balanced: bool

    @property
    def about(self) -> str:
        """What the intervals are of, and what they are not."""
        apart = "" if any(arm.control for arm in self.arms) else ", the control apart"
        which = f"over {len(self.arms)} complete arms{apart}"
        if self.balanced:
            return (
                f"{which}, in which each pair of levels is equally frequent; 95 % intervals over seeds: "
                "for these arms, and for no other levels of the other factors"
            )
        return (
            f"{which}, which are not balanced: a level's mean also tells of the other levels that it was tried with; "
            "95 % intervals over arms, as if they had been drawn by chance (TPE draws where it did well)"
        )


def effects(sweep: Sweep) -> Effects | None:
    """Return the effects over the complete arms of the design, None where fewer than two are, or no factor is known."""
    arms = [arm for arm in sweep.arms if arm.standing == "complete" and arm.cells]
    if len(arms) < 2 or not sweep.factors:
        return None
    cells = [arm for arm in arms for _ in range(arm.cells)]
    balanced = _balanced(sweep, cells)
    counted = cells if balanced else arms
    levels = [
        _level(str(factor["name"]), name, members, counted, over_seeds=balanced)
        for factor in sweep.factors
        for name, members in _groups(factor, counted)
    ]
    return Effects(tuple(levels), tuple(arms), balanced)


def _groups(factor: Mapping[str, JSONValue], arms: Sequence[Arm]) -> Groups:
    """Return the arms of each level of a factor, or of each third of its range."""
    name = str(factor["name"])
    if factor.get("values") is None:
        return _thirds(name, [arm for arm in arms if number(arm.levels.get(name)) is not None])
    found: dict[Any, list[Arm]] = {canonical(value): [] for value in factor["values"]}
    for arm in arms:
        if name in arm.levels:
            found.setdefault(canonical(arm.levels[name]), []).append(arm)
    return [(level_name(members[0].levels[name]), members) for members in found.values() if members]


def _thirds(name: str, arms: Sequence[Arm]) -> Groups:
    """Return the arms with the lowest, the middle and the highest third of the different values."""
    if not arms:
        return []
    values = sorted({arm.levels[name] for arm in arms})
    lower, upper = values[len(values) // 3], values[2 * len(values) // 3]
    thirds = (
        [arm for arm in arms if arm.levels[name] < lower],
        [arm for arm in arms if lower <= arm.levels[name] < upper],
        [arm for arm in arms if arm.levels[name] >= upper],
    )
    return [(_span([arm.levels[name] for arm in members]), members) for members in thirds if members]


def _span(values: Sequence[float]) -> str:
    low, high = level_name(min(values)), level_name(max(values))
    return low if low == high else f"{low} to {high}"


def _balanced(sweep: Sweep, cells: Sequence[Arm]) -> bool:
    """Whether each pair of levels of two factors is in equally many cells, and no factor is a range."""
    if any(factor.get("values") is None for factor in sweep.factors):
        return False
    for one, other in itertools.combinations([_groups(factor, cells) for factor in sweep.factors], 2):
        numbers = [{arm.number for arm in members} for _, members in other]
        shared = {sum(arm.number in n for arm in members) for _, members in one for n in numbers}
        if len(shared) > 1:
            return False
    return True


def _level(factor: str, name: str, members: Sequence[Arm], arms: Sequence[Arm], *, over_seeds: bool) -> Level:
    """Return a level; its effect is taken at each seed and varies over them, or at each arm and varies over those."""
    scale = max(abs(score) for arm in arms for score in arm.scores.values())
    overall = _mean([_score(arm) for arm in arms])
    if over_seeds:
        seeds = arms[0].seeds
        of_all = {seed: _mean([arm.scores[seed] for arm in arms]) for seed in seeds}
        values = [_mean([arm.scores[seed] for arm in members]) - of_all[seed] for seed in seeds]
    else:
        values = [_score(arm) - overall for arm in members]
    mean, own = _mean([_score(arm) for arm in members]), {arm.number: arm for arm in members}
    return Level(factor, name, tuple(own.values()), mean, mean - overall, st.interval(values, scale=scale))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _score(arm: Arm) -> float:
    return _mean(list(arm.scores.values()))


def level_name(value: JSONValue) -> str:
    """Return a level as it is shown: `SGD (lr 0.1)` for a whole table."""
    if isinstance(value, Mapping):
        rest = ", ".join(f"{key} {level_name(item)}" for key, item in value.items() if key != "name")
        return f"{value['name']} ({rest})" if "name" in value and rest else str(value.get("name", rest))
    if value is None:
        return "not set"
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else dumps(value)
