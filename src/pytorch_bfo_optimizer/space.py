"""The space that a colony searches: per-coordinate settings of the param groups, bounds, and noise.

It says where members may be and draws where they might go; it neither moves nor evaluates them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pytorch_bfo_optimizer import foraging
from pytorch_bfo_optimizer.flat import ParameterVector
from pytorch_bfo_optimizer.state import Hyperparameters


@dataclass(frozen=True)
class SearchSpace:
    """The coordinates of all groups, with what each group says about its own."""

    vector: ParameterVector
    groups: Sequence[Hyperparameters]
    """Settings of each group, in order."""
    counts: Sequence[int]
    """Parameters (tensors) in each group."""
    generator: torch.Generator

    @property
    def population_size(self) -> int:
        """P, which all groups agree on."""
        return self.groups[0].population_size

    @property
    def dtype(self) -> torch.dtype:
        """Of noise and of moves: the vector's, but at least float32."""
        return torch.promote_types(self.vector.dtype, torch.float32)

    def normal(self, columns: int) -> Tensor:
        """Standard normal noise (P, columns)."""
        shape = (self.population_size, columns)
        return torch.randn(shape, dtype=self.dtype, device=self.vector.device, generator=self.generator)

    def uniform(self, columns: int) -> Tensor:
        """Uniform noise in [0, 1), (P, columns)."""
        shape = (self.population_size, columns)
        return torch.rand(shape, dtype=self.dtype, device=self.vector.device, generator=self.generator)

    def per_coordinate(self, of_group: Sequence[float]) -> Tensor:
        """One value a group -> (1,) for a single group, else (D,)."""
        values = torch.tensor(of_group, dtype=self.dtype, device=self.vector.device)
        if len(of_group) == 1:
            return values
        sizes, at = [], 0
        for count in self.counts:
            sizes.append(sum(self.vector.sizes[at : at + count]))
            at += count
        return values.repeat_interleave(torch.tensor(sizes, device=values.device), output_size=self.vector.dimension)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest value of each coordinate (D,), or (1,) without bounds.

        Rounded inward in the dtype of each parameter, so that no rounding leads out of the bounds as written.
        """
        vector = self.vector
        if all(group.bounds is None for group in self.groups):
            infinite = torch.full((1,), math.inf, dtype=vector.dtype, device=vector.device)
            return -infinite, infinite
        pairs = [
            group.bounds if group.bounds is not None else (-math.inf, math.inf)
            for group, count in zip(self.groups, self.counts, strict=True)
            for _ in range(count)
        ]
        lows = [_inward(low, p.dtype, up=True) for (low, _), p in zip(pairs, vector.params, strict=True)]
        highs = [_inward(high, p.dtype, up=False) for (_, high), p in zip(pairs, vector.params, strict=True)]
        both = torch.tensor([lows, highs], dtype=vector.dtype, device=vector.device)
        sizes = torch.tensor(vector.sizes, device=vector.device)
        lower, upper = both.repeat_interleave(sizes, dim=1, output_size=vector.dimension).unbind(0)
        return lower, upper

    def clamp(self, position: Tensor) -> Tensor:
        """Positions (..., D), moved to the nearest place inside the bounds."""
        lower, upper = self.bounds()
        return torch.minimum(torch.maximum(position, lower), upper)

    def levy_length(self) -> Tensor | None:
        """Draw one Lévy flight a member: its length (P, 1) or (P, D), in steps; None where no group flies."""
        if all(group.levy_alpha is None for group in self.groups):
            return None
        alphas = [math.nan if group.levy_alpha is None else group.levy_alpha for group in self.groups]
        sigmas = [1.0 if math.isnan(alpha) else foraging.mantegna_sigma(alpha) for alpha in alphas]
        return foraging.levy_length(self.normal(2), self.per_coordinate(alphas), self.per_coordinate(sigmas))

    def scatter(self, centre_D: Tensor) -> Tensor:
        """Draw fresh places (P, D): uniform in the bounds; without, about `step_size_max` away from the centre.

        Without bounds a place is centre + step_size_max N(0, I) / sqrt(D): its distance does not grow with D.
        """
        vector = self.vector
        lower, upper = self.bounds()
        places_PD = centre_D.expand(self.population_size, -1)
        if any(group.bounds is None for group in self.groups):
            reach = self.per_coordinate([group.step_size_max for group in self.groups]) / math.sqrt(vector.dimension)
            places_PD = (places_PD + reach * self.normal(vector.dimension)).to(vector.dtype)
        if any(group.bounds is not None for group in self.groups):
            bounded = torch.isfinite(lower)
            share_PD = self.uniform(vector.dimension)
            low, high = torch.where(bounded, lower, 0.0), torch.where(bounded, upper, 0.0)
            uniform_PD = (low * (1 - share_PD) + high * share_PD).to(vector.dtype)
            places_PD = torch.where(bounded, uniform_PD, places_PD)
        return torch.minimum(torch.maximum(places_PD, lower), upper)


def _inward(value: float, dtype: torch.dtype, *, up: bool) -> float:
    """The nearest value of `dtype` that is not below (`up`) or not above the bound."""
    rounded = torch.tensor(value, dtype=dtype)
    if up and float(rounded) < value:
        rounded = torch.nextafter(rounded, torch.tensor(math.inf, dtype=dtype))
    elif not up and float(rounded) > value:
        rounded = torch.nextafter(rounded, torch.tensor(-math.inf, dtype=dtype))
    return float(rounded)
