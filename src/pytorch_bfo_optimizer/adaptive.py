"""`AdaptiveBFO`: every member adapts its own step size; a colony that has collapsed is partly dispersed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from pytorch_bfo_optimizer import foraging
from pytorch_bfo_optimizer.bfo import BFO
from pytorch_bfo_optimizer.state import Colony, GenerationResult, Hyperparameters, require_number


@dataclass(frozen=True)
class AdaptiveHyperparameters(Hyperparameters):
    """The settings of `BFO`, and the two of adaptation."""

    adaptation_rate: float
    """a: a member that moved takes steps (1 + a) times longer; dimensionless."""
    diversity_threshold: float
    """Mean distance from the centroid below which the colony counts as collapsed, in units of the parameters."""

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        require_number(
            "adaptation_rate",
            self.adaptation_rate,
            low=0,
            high=math.inf,
            open_high=True,
            mend="0.1 is usual, 0 turns it off",
        )
        require_number(
            "diversity_threshold",
            self.diversity_threshold,
            low=0,
            high=math.inf,
            open_high=True,
            mend="0.01 is usual, 0 turns it off",
        )


class AdaptiveBFO(BFO):
    """`BFO` with one step size for each member, by the one-fifth success rule, and a guard against collapse.

    After each generation, with a = `adaptation_rate`::

        s_i <- s_i (1 + a)          if member i moved
        s_i <- s_i (1 + a)^(-1/4)   if it did not
        C_i  = clamp(s_i step_size_max, step_size_min, step_size_max)

    so the size is stationary where one generation in five succeeds (Rechenberg 1973, Evolutionsstrategie; Kern et
    al. 2004, Natural Computing 3, for this form). It takes the place of the schedule over the life cycle.
    When the diversity falls below `diversity_threshold`, the worse half of the colony (never the best member) is
    dispersed at once, and health starts again at zero for all, since the newcomers have none to compare.

    Args: those of `BFO`; `adaptation_rate` a >= 0; `diversity_threshold` >= 0, in units of the parameters.
    """

    hyperparameters_type: ClassVar[type[Hyperparameters]] = AdaptiveHyperparameters

    def __init__(
        self, params: ParamsT, *, adaptation_rate: float = 0.1, diversity_threshold: float = 0.01, **options: Any
    ) -> None:
        super().__init__(params, adaptation_rate=adaptation_rate, diversity_threshold=diversity_threshold, **options)

    def _step_length(self, colony: Colony, groups: list[Hyperparameters]) -> Tensor:
        """The moves lr C_i: (P, 1) or (P, D), in units of the parameters."""
        space = self._space(groups)
        longest = space.per_coordinate([hyper.step_size_max for hyper in groups])
        shortest = space.per_coordinate([hyper.step_size_min for hyper in groups])
        lr = space.per_coordinate([hyper.lr for hyper in groups])
        wanted = colony.scale.to(longest.dtype).unsqueeze(1) * longest
        return lr * torch.minimum(torch.maximum(wanted, shortest), longest)

    def _seasons(self, result: GenerationResult, groups: list[Hyperparameters]) -> tuple[Colony, bool, int]:
        """Adapt, let the seasons pass, then mend a collapse."""
        hyper = groups[0]
        assert isinstance(hyper, AdaptiveHyperparameters)
        colony = replace(result.colony, scale=self._adapted(result, groups))
        colony, reproduced, dispersed = super()._seasons(replace(result, colony=colony), groups)
        collapsed = float(foraging.diversity(colony.position)) < hyper.diversity_threshold
        if collapsed and hyper.population_size > 1:
            rank_P = torch.argsort(torch.argsort(colony.loss, stable=True), stable=True)
            worse_P = rank_P >= hyper.population_size - hyper.population_size // 2
            colony, more = self._disperse(colony, worse_P, groups)
            colony = replace(colony, health=torch.zeros_like(colony.health))
            dispersed += more
        return colony, reproduced, dispersed

    def _adapted(self, result: GenerationResult, groups: list[Hyperparameters]) -> Tensor:
        hyper = groups[0]
        assert isinstance(hyper, AdaptiveHyperparameters)
        growth = 1.0 + hyper.adaptation_rate
        grown_P = torch.full_like(result.colony.scale, growth)
        factor_P = torch.where(result.improved, grown_P, grown_P**-0.25)
        least = min(group.step_size_min / group.step_size_max for group in groups)
        return (result.colony.scale * factor_P).clamp(least, 1.0)
