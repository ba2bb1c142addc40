"""The settings of an adaptive colony, and by them, its losses and its budget: which season follows which.

Decisions between two generations, on the host; what happens in a season is in `seasons`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pytorch_bfo_optimizer import covariance
from pytorch_bfo_optimizer.errors import HyperparameterError
from pytorch_bfo_optimizer.flat import SUPPORTED_DTYPES
from pytorch_bfo_optimizer.seasons import COVARIANCE, DIFFERENTIAL, MOMENTUM, SEASONS, AdaptiveColony, Clock
from pytorch_bfo_optimizer.space import SearchSpace
from pytorch_bfo_optimizer.state import BaseHyperparameters, require_count, require_number

FEWEST = 4
"""Smallest colony."""
SHARE_OF_BOUNDS = 0.3
"""First step size, in widths of the bounds."""
STEP_SIZE = 0.1
"""First step size where there are no bounds."""
SHARE_OF_REST = 0.7
"""Of the evaluations left, what differential tumbles get."""
WINDOW = 10
"""Generations over which the momentum drift compares the mean loss."""
PLATEAU = 0.7
"""Factor on its step size when that has not fallen."""
LAST_SHARE = 0.05
"""Its step size at the horizon, in first step sizes."""


@dataclass(frozen=True)
class AdaptiveHyperparameters(BaseHyperparameters):
    """The settings of `AdaptiveBFO` of one param group."""

    step_size: float | None
    """sigma at the start, in units of the parameters, for each coordinate; None: 0.3 of the width of the bounds, 0.1
    where there are none."""
    horizon: int | None
    """Evaluations that the colony can count on over its life; None: unknown."""

    fewest_members = 0
    per_coordinate = BaseHyperparameters.per_coordinate | {"step_size"}

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        if 0 < self.population_size < FEWEST:
            raise HyperparameterError(
                f"population_size is {self.population_size}: an adaptive colony ranks its members and needs at least "
                f"{FEWEST}; leave it out for as many as the dimension calls for"
            )
        if self.step_size is not None:
            require_number(
                "step_size",
                self.step_size,
                low=0,
                high=math.inf,
                open_low=True,
                open_high=True,
                mend="None takes it from the bounds",
            )
        if self.horizon is not None:
            require_count("horizon", self.horizon, least=1, mend="pass the evaluations to come, or None")

    @classmethod
    def from_group(cls, group: Mapping[str, Any]) -> AdaptiveHyperparameters:
        """See `BaseHyperparameters`; a population_size of None is kept as 0."""
        chosen = group.get("population_size", 0)
        return super().from_group({**group, "population_size": 0} if chosen is None else group)

    def unit(self, cycle: int) -> float:
        """First step size of a season. Without bounds each dispersal reaches four times as far as the last."""
        if self.bounds is None:
            return (self.step_size or STEP_SIZE) * 4.0 ** min(cycle, 10)
        return self.step_size or SHARE_OF_BOUNDS * (self.bounds[1] - self.bounds[0])


class Outlook(NamedTuple):
    """What the next season is planned by."""

    space: SearchSpace
    groups: Sequence[AdaptiveHyperparameters]
    spent: int
    """Evaluations made."""
    left: int | None
    """Evaluations to come, 0 when the horizon is passed; None where it is unknown."""

    @property
    def dimension(self) -> int:
        """D."""
        return self.space.vector.dimension

    def unit(self, cycle: int) -> Tensor:
        """First step size of a season, (1,) or (D,)."""
        return self.space.per_coordinate([group.unit(cycle) for group in self.groups])


_EPSILON = {dtype: torch.finfo(dtype).eps for dtype in SUPPORTED_DTYPES}


def _tolerance(level: float, dtype: torch.dtype) -> float:
    """Losses that differ by less are one level: 1e-11, or what rounding in the vector's dtype may do."""
    return 1e-11 + 4 * _EPSILON[dtype] * abs(level) if math.isfinite(level) else 1e-11


def told(clock: Clock, losses: list[float], dtype: torch.dtype) -> dict[str, Any]:
    """What these losses of a generation, +inf where not finite, change on the clock of its season."""
    if clock.season == MOMENTUM:
        finite = [loss for loss in losses if loss < math.inf]  # one overflow must not hide what the others found
        total = clock.stalled + (sum(finite) / len(finite) if finite else clock.level)
        if (clock.age + 1) % WINDOW:
            return {"stalled": total}
        mean = total / WINDOW
        shrunk = clock.shrunk if mean < clock.level else clock.shrunk * PLATEAU
        return {"stalled": 0.0, "level": mean, "shrunk": shrunk}
    lowest, level = min(losses), clock.level
    if lowest == level or abs(lowest - level) <= _tolerance(level, dtype):
        return {"stalled": clock.stalled + 1}
    return {"level": lowest, "stalled": 0}


def is_over(colony: AdaptiveColony, dtype: torch.dtype) -> bool:
    """Whether a season, but for the momentum drift, has nothing more to give."""
    clock, looks = colony.clock, colony.clock.age % 10 == 0
    if clock.season == COVARIANCE:
        patience = 10 + 30 * colony.best.shape[0] / clock.members
        return clock.stalled >= patience or (looks and not 0.0 < float(colony.part.scale) < math.inf)
    return clock.spent >= clock.allotted or (looks and _agreed(colony, dtype))


def _agreed(colony: AdaptiveColony, dtype: torch.dtype) -> bool:
    """Whether all members have found the same loss."""
    lowest, highest = torch.aminmax(colony.loss)
    return float(highest - lowest) <= _tolerance(float(lowest), dtype) / 10


def next_season(colony: AdaptiveColony, outlook: Outlook) -> AdaptiveColony:
    """Differential tumbles after the first drift, and after every one where no budget is known; else a new drift."""
    clock, left = colony.clock, outlook.left
    first = clock.season == COVARIANCE and (clock.cycle == 0 or left is None)
    if first and not outlook.groups[0].reevaluate:
        allotted = int(SHARE_OF_REST * left) if left is not None else 500 * outlook.dimension * 2**clock.cycle
        members = outlook.groups[0].population_size or _tumblers(allotted, outlook.dimension)
        if allotted >= 10 * members:
            entered = Clock(DIFFERENTIAL, members, cycle=clock.cycle, allotted=allotted, record=clock.record)
            return _begun(colony, entered, outlook, colony.best)
    centre_D = outlook.space.scattered(1, colony.best, outlook.unit(clock.cycle))[0]
    return drifting(colony, outlook, centre_D, cycle=clock.cycle + 1)


def drifting(colony: AdaptiveColony, outlook: Outlook, centre_D: Tensor, *, cycle: int) -> AdaptiveColony:
    """The colony as it begins to drift at `centre_D`."""
    clock = Clock(_drift_season(outlook), drifters(outlook, cycle=cycle), cycle=cycle, record=colony.clock.record)
    return _begun(colony, clock, outlook, centre_D)


def _begun(colony: AdaptiveColony, clock: Clock, outlook: Outlook, centre_D: Tensor) -> AdaptiveColony:
    """The colony at the start of a season; the best position found stays on record."""
    part, clock, position_PD = SEASONS[clock.season].begin(clock, outlook.space, centre_D, outlook.unit(clock.cycle))
    unknown_P = colony.best_loss.new_full(position_PD.shape[:1], math.inf)
    return replace(colony, position=position_PD, loss=unknown_P, part=part, clock=clock)


def _drift_season(outlook: Outlook) -> int:
    return COVARIANCE if outlook.dimension <= covariance.MOST_COORDINATES else MOMENTUM


def drifters(outlook: Outlook, *, cycle: int) -> int:
    """Members of a drift; those of the first are doubled by each dispersal, as far as 50 generations are left."""
    wanted, left = outlook.groups[0].population_size, outlook.left
    if _drift_season(outlook) == MOMENTUM:
        return wanted - wanted % 2 if wanted else 4 * math.ceil(math.log(outlook.dimension))
    first = 4 + int(3 * math.log(outlook.dimension))
    return wanted or min(first * 2 ** min(cycle, 12), max(first, (left if left is not None else 10**6) // 50))


def _tumblers(allotted: int, dimension: int) -> int:
    """Differential tumblers that a budget feeds: about 70 sqrt(D) generations for each."""
    return min(max(10, round(allotted / (70 * math.sqrt(dimension)))), 18 * dimension)


def slowed(colony: AdaptiveColony, outlook: Outlook) -> AdaptiveColony:
    """The momentum drift, its step size as plateaus and the share of the horizon that is gone have left it."""
    clock, drift = colony.clock, colony.part
    gone = 0.0 if outlook.left is None else outlook.spent / max(outlook.spent + outlook.left, 1)
    scale = clock.first_scale * clock.shrunk * (1 - (1 - LAST_SHARE) * gone)
    return replace(colony, part=drift._replace(scale=torch.full_like(drift.scale, scale)))
