"""The three ways an adaptive colony forages, behind one protocol: how each begins, spreads its members, and learns.

Here tensors meet the search space: noise is drawn, bounds are kept, dtypes fit. The equations are in `covariance`,
`momentum` and `differential`; which season follows which is in `adaptive`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from pytorch_bfo_optimizer import covariance, differential, momentum
from pytorch_bfo_optimizer.space import SearchSpace
from pytorch_bfo_optimizer.state import BaseColony, fitness_dtype

COVARIANCE, MOMENTUM, DIFFERENTIAL = 0, 1, 2
STOP_EVERY = 10
"""Generations of a momentum drift between two looks at its centre."""

Part = covariance.Drift | momentum.Drift | differential.Swarm
"""What a season has learnt."""


class Clock(NamedTuple):
    """Where a season stands: plain numbers, on the host."""

    season: int
    """COVARIANCE, MOMENTUM or DIFFERENTIAL."""
    members: int
    """P of the season's first generation."""
    first_scale: float = 0.0
    """sigma with which the season began, in units of the parameters."""
    cycle: int = 0
    """Times the colony has been dispersed into a new drift."""
    age: int = 0
    """Generations made in this season."""
    spent: int = 0
    """Evaluations made in this season."""
    allotted: int = 0
    """Evaluations that this season may make; 0: as many as it takes."""
    level: float = math.inf
    """Where the losses were when they last changed; of the momentum drift: their mean over the last window."""
    stalled: float = 0
    """Generations that they have stayed there; of the momentum drift: the sum of this window so far."""
    shrunk: float = 1.0
    """Factor on sigma by plateaus, of the momentum drift."""
    record: float = math.inf
    """`best_loss` as a number."""


@dataclass(frozen=True)
class AdaptiveColony(BaseColony):
    """The members of the last generation, what the season has learnt, and where it stands.

    Kept between steps with the fields of `part` and of `clock` under their own names.
    """

    loss: Tensor
    """(P,), float64 (float32 where the device has none): loss at `position`; +inf where unknown or not finite."""
    part: Any
    """A `Part`."""
    clock: Clock

    split = ("position", "best", "centre", "velocity", "path", "unit", "archive")


class Spread(NamedTuple):
    """Where the members go, and what the season needs in order to learn from it."""

    position: Tensor
    """(P, D), dtype of the vector, within the bounds."""
    made: Any = None


class Season(Protocol):
    """One way to forage; stateless."""

    part: type[Any]
    """The class of what it learns."""

    def begin(self, clock: Clock, space: SearchSpace, centre_D: Tensor, unit: Tensor) -> tuple[Part, Clock, Tensor]:
        """What is known as the season starts, its clock, and the positions (P, D) before the first generation.

        Args:
            clock: season, cycle, members and allotted evaluations are set.
            space: where members may be.
            centre_D: where a drift starts, or the place around which members scatter where there are no bounds.
            unit: first step size, (1,) or (D,), in units of the parameters.
        """

    def spread(self, part: Any, clock: Clock, space: SearchSpace, position_PD: Tensor, lr: Tensor | None) -> Spread:
        """Draw the noise and say where the members go; `lr` (1,) or (D,) is None where it is 1."""

    def learn(self, spread: Spread, clock: Clock, loss_P: Tensor, lr: Tensor | None) -> tuple[Part, Tensor, Tensor]:
        """What is known after the losses are, +inf where not finite; positions and losses of the members then."""


class CovarianceSeason:
    """See `covariance`; in float64 where the device has it: a matrix of condition 10^14 is no rarity."""

    part = covariance.Drift

    def begin(self, clock: Clock, space: SearchSpace, centre_D: Tensor, unit: Tensor) -> tuple[Part, Clock, Tensor]:
        """C is the squared ratio of the groups' units, the identity for one group."""
        longest = float(unit.max())
        drift = covariance.begin(centre_D, longest, fitness_dtype(centre_D.device))
        if unit.numel() > 1:
            ratio_D = (unit / longest).to(drift.centre.dtype)
            drift = drift._replace(covariance=torch.diag(ratio_D.square()), factor=torch.diag(ratio_D))
        return drift, clock._replace(first_scale=longest), centre_D.expand(clock.members, -1).clone()

    def spread(self, part: Any, clock: Clock, space: SearchSpace, position_PD: Tensor, lr: Tensor | None) -> Spread:
        """See the protocol; the first member of a season is the centre itself."""
        drift: covariance.Drift = part
        noise_PD = space.noise(clock.members).to(drift.centre.dtype)
        if clock.age == 0:
            noise_PD[0] = 0
        tumble_PD, position_PD = covariance.spread(drift, noise_PD)
        position_PD = position_PD.to(space.vector.dtype)
        if space.bounded:
            position_PD = space.clamp(position_PD)
            noise_PD, tumble_PD = covariance.repaired(drift, position_PD.to(drift.centre.dtype))
        return Spread(position_PD, (drift, noise_PD, tumble_PD))

    def learn(self, spread: Spread, clock: Clock, loss_P: Tensor, lr: Tensor | None) -> tuple[Part, Tensor, Tensor]:
        """See the protocol."""
        drift, noise_PD, tumble_PD = spread.made
        by = covariance.rates(*tumble_PD.shape, tumble_PD.dtype, tumble_PD.device)
        learnt = covariance.learn(drift, by, noise_PD, tumble_PD, loss_P, age=clock.age + 1)
        if lr is not None:
            learnt = learnt._replace(centre=torch.lerp(drift.centre, learnt.centre, lr.to(drift.centre.dtype)))
        return learnt, spread.position, loss_P


class MomentumSeason:
    """See `momentum`; in the dtype of the vector, float32 at least."""

    part = momentum.Drift

    def begin(self, clock: Clock, space: SearchSpace, centre_D: Tensor, unit: Tensor) -> tuple[Part, Clock, Tensor]:
        """At rest."""
        longest = float(unit.max())
        ratio = (unit / longest).to(space.dtype)
        drift = momentum.begin(centre_D.to(space.dtype), longest, ratio.expand(centre_D.shape[0]))
        return drift, clock._replace(first_scale=longest), centre_D.expand(clock.members, -1).clone()

    def spread(self, part: Any, clock: Clock, space: SearchSpace, position_PD: Tensor, lr: Tensor | None) -> Spread:
        """See the protocol; at times, and always where losses go stale, the first pair stays at the centre."""
        drift: momentum.Drift = part
        noise_HD = space.noise(clock.members // 2).to(drift.centre.dtype)
        if clock.age % STOP_EVERY == 0 or space.groups[0].reevaluate:
            noise_HD[0] = 0
        if len(space.groups) > 1:
            noise_HD.mul_(drift.unit)
        by = momentum.pairs(2 * noise_HD.shape[0], noise_HD.dtype, noise_HD.device)
        position_PD = momentum.spread(drift, by, noise_HD).to(space.vector.dtype)
        if space.bounded:
            position_PD.clamp_(*space.bounds)
        return Spread(position_PD, (drift, by, noise_HD))

    def learn(self, spread: Spread, clock: Clock, loss_P: Tensor, lr: Tensor | None) -> tuple[Part, Tensor, Tensor]:
        """See the protocol."""
        drift, by, noise_HD = spread.made
        learnt = momentum.learn(drift, by, noise_HD, loss_P)
        if lr is not None:
            learnt = learnt._replace(centre=torch.lerp(drift.centre, learnt.centre, lr.to(drift.centre.dtype)))
        return learnt, spread.position, loss_P


class DifferentialSeason:
    """See `differential`; positions in the dtype of the vector."""

    part = differential.Swarm

    def begin(self, clock: Clock, space: SearchSpace, centre_D: Tensor, unit: Tensor) -> tuple[Part, Clock, Tensor]:
        """Members scattered over the bounds, or around the centre; they are sensed in the first generation."""
        position_PD = space.scattered(clock.members, centre_D, unit)
        return differential.begin(position_PD, fitness_dtype(position_PD.device)), clock, position_PD

    def spread(self, part: Any, clock: Clock, space: SearchSpace, position_PD: Tensor, lr: Tensor | None) -> Spread:
        """See the protocol."""
        swarm: differential.Swarm = part
        if clock.age == 0:
            return Spread(position_PD, (swarm, position_PD, None))
        count, dimension = position_PD.shape
        uniform = space.shares(count, differential.UNIFORM_COLUMNS + dimension)
        normal_P = space.noise(count, columns=1).squeeze(1)
        choice, mix_PD = uniform[:, : differential.UNIFORM_COLUMNS], uniform[:, differential.UNIFORM_COLUMNS :]
        made = differential.moves(swarm, position_PD, choice, normal_P, mix_PD, *space.bounds)
        if lr is not None:
            # clamped, because more than the whole move may lead out of the bounds
            made = made._replace(position=space.clamp(torch.lerp(position_PD, made.position, lr.to(position_PD.dtype))))
        return Spread(made.position, (swarm, position_PD, made))

    def learn(self, spread: Spread, clock: Clock, loss_P: Tensor, lr: Tensor | None) -> tuple[Part, Tensor, Tensor]:
        """See the protocol; then the colony shrinks as its budget is used up."""
        swarm, position_PD, made = spread.made
        if made is None:
            return swarm._replace(loss=loss_P), position_PD, loss_P
        swarm, position_PD = differential.learn(swarm, position_PD, made, loss_P)
        count = loss_P.shape[0]
        left = differential.size_after(clock.members, clock.spent + count, clock.allotted)
        if left < count:
            swarm, position_PD = differential.shrink(swarm, position_PD, left)
        return swarm, position_PD, swarm.loss


SEASONS: dict[int, Season] = {
    COVARIANCE: CovarianceSeason(),
    MOMENTUM: MomentumSeason(),
    DIFFERENTIAL: DifferentialSeason(),
}


PART_NAMES = {name for season in SEASONS.values() for name in season.part._fields}
"""Every name under which some season keeps what it has learnt."""


def confined(colony: AdaptiveColony, space: SearchSpace) -> AdaptiveColony:
    """The colony inside bounds that may be new to it; what was known of a place outside is forgotten."""
    position_PD, best_D = space.clamp(colony.position), space.clamp(colony.best)
    moved_P = (position_PD != colony.position).any(dim=1)
    loss_P, part, clock, best_loss = colony.loss, colony.part, colony.clock, colony.best_loss
    if clock.season == DIFFERENTIAL:
        loss_P = torch.where(moved_P, math.inf, loss_P)
        part = part._replace(loss=loss_P, archive=space.clamp(part.archive))
    if not torch.equal(best_D, colony.best):
        best_loss, clock = torch.full_like(best_loss, math.inf), clock._replace(record=math.inf)
    return AdaptiveColony(position_PD, best_D, best_loss, loss_P, part, clock)


_SHARED = ("position", "best", "best_loss", "loss")
_CLOCK = Clock._fields


def names_of(shared: Mapping[str, Any]) -> Iterable[str]:
    """What a colony is kept as, given the season among what its members share."""
    part = SEASONS[shared.get("season", COVARIANCE)].part
    return dict.fromkeys((*_SHARED, *_CLOCK, *part._fields))


def packed(colony: AdaptiveColony) -> dict[str, Any]:
    """A colony as `names_of` says."""
    kept = {name: getattr(colony, name) for name in _SHARED}
    return {**kept, **colony.part._asdict(), **colony.clock._asdict()}


def unpacked(values: Mapping[str, Any]) -> AdaptiveColony:
    """The inverse of `packed`."""
    clock = Clock(**{name: values[name] for name in _CLOCK})
    kind = SEASONS[clock.season].part
    part = kind(**{name: values[name] for name in kind._fields})
    return AdaptiveColony(**{name: values[name] for name in _SHARED}, part=part, clock=clock)
