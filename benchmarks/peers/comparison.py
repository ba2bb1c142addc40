"""Pure counting: medians with quartiles, win, level or loss in a cell, the rules over all cells, mean ranks."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from peers.recorder import SOLVED

SIGNIFICANCE = 0.05
Outcome = Literal["win", "level", "loss"]


class Cell(NamedTuple):
    """A problem and the evaluations that it is looked at after."""

    function: str
    variant: str
    dim: int
    evaluations: int


Gaps = Mapping[Cell, Sequence[float]]
"""Of one optimizer: the gaps of its seeds in each cell that it was run in."""


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of some numbers."""

    median: float
    low: float
    high: float
    count: int

    @property
    def solved(self) -> bool:
        """Whether the median is a solved problem."""
        return self.median <= SOLVED


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles (linear between the values).

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("a spread needs one value or more")
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], 1)
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high, len(values))


def floored(values: Iterable[float]) -> list[float]:
    """The values with all solved ones made equal: below 1e-8 nothing is better than anything else."""
    return [max(value, SOLVED) for value in values]


def outcome(ours: Sequence[float], theirs: Sequence[float]) -> Outcome:
    """Level if both solve it in the median, or if Mann-Whitney's U (two-sided, 5 %) sees no difference."""
    if spread(ours).solved and spread(theirs).solved:
        return "level"
    from scipy.stats import mannwhitneyu

    test = mannwhitneyu(floored(ours), floored(theirs), alternative="two-sided")
    if not test.pvalue < SIGNIFICANCE:  # nan, where all values are equal, is no difference either
        return "level"
    return "win" if test.statistic < len(ours) * len(theirs) / 2 else "loss"


def by_median(ours: Sequence[float], theirs: Sequence[float]) -> Outcome:
    """The plain comparison: the lower median wins, solved ones are equal."""
    mine, other = floored([spread(ours).median, spread(theirs).median])
    return "level" if mine == other else "win" if mine < other else "loss"


@dataclass(frozen=True)
class Tally:
    """Cells won, level and lost; and those where our median is at most a tenth of theirs, or both are solved."""

    win: int
    level: int
    loss: int
    better: int
    tied: int
    worse: int
    tenth: int
    both_solved: int

    @property
    def cells(self) -> int:
        """Cells that both were run in."""
        return self.win + self.level + self.loss


def tally(ours: Gaps, theirs: Gaps) -> Tally:
    """Count over the cells that both were run in."""
    tested: Counter[str] = Counter()
    medians: Counter[str] = Counter()
    tenth = both_solved = 0
    for cell in ours.keys() & theirs.keys():
        mine, other = ours[cell], theirs[cell]
        tested[outcome(mine, other)] += 1
        medians[by_median(mine, other)] += 1
        my, its = spread(mine), spread(other)
        if my.solved and its.solved:
            both_solved += 1
        elif max(my.median, SOLVED) * 10 <= its.median:
            tenth += 1
    return Tally(
        win=tested["win"],
        level=tested["level"],
        loss=tested["loss"],
        better=medians["win"],
        tied=medians["level"],
        worse=medians["loss"],
        tenth=tenth,
        both_solved=both_solved,
    )


def share(part: int, whole: int) -> float:
    """The share that a part is of the whole; 0 of nothing is 0."""
    return part / whole if whole else 0.0


def mean_ranks(everyone: Mapping[str, Gaps], cells: Iterable[Cell]) -> dict[str, float]:
    """Mean rank of the medians over the cells (1 is best, equals share), of those who were run in all of them."""
    cells = list(cells)
    present = [name for name, gaps in everyone.items() if all(cell in gaps for cell in cells)]
    if not cells or not present:
        return {}
    total = dict.fromkeys(present, 0.0)
    for cell in cells:
        medians = {name: max(spread(everyone[name][cell]).median, SOLVED) for name in present}
        for name, median in medians.items():
            below = sum(other < median for other in medians.values())
            equal = sum(other == median for other in medians.values())
            total[name] += below + (equal + 1) / 2
    ranks = {name: rank / len(cells) for name, rank in total.items()}
    return dict(sorted(ranks.items(), key=lambda item: item[1]))


def paired_ratios(mine: Mapping[int, float], other: Mapping[int, float]) -> list[float]:
    """The ratio mine / other of each round that both took part in."""
    return [mine[index] / other[index] for index in sorted(mine.keys() & other.keys())]
