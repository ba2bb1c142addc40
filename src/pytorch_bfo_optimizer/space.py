"""The space that a colony searches: per-coordinate settings of the param groups, bounds, and noise.

It says where members may be and draws where they might go; it neither moves nor evaluates them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pytorch_bfo_optimizer import foraging
from pytorch_bfo_optimizer.flat import ParameterVector
from pytorch_bfo_optimizer.state import BaseHyperparameters


@dataclass(frozen=True)
class SearchSpace:
    """The coordinates of all groups, with what each group says about its own. Good until a group is edited."""

    vector: ParameterVector
    groups: Sequence[BaseHyperparameters]
    """Settings of each group, in order."""
    counts: Sequence[int]
    """Parameters (tensors) in each group."""
    generator: torch.Generator

    @cached_property
    def population_size(self) -> int:
        """P, which all groups agree on."""
        return self.groups[0].population_size

    @cached_property
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

    def noise(self, rows: int, columns: int | None = None) -> Tensor:
        """Standard normal noise (rows, columns), float32, D columns by default: that precise is a tumble."""
        shape = (rows, self.vector.dimension if columns is None else columns)
        return torch.randn(shape, dtype=torch.float32, device=self.vector.device, generator=self.generator)

    def shares(self, rows: int, columns: int) -> Tensor:
        """Uniform noise in [0, 1), (rows, columns), float32."""
        return torch.rand((rows, columns), dtype=torch.float32, device=self.vector.device, generator=self.generator)

    def per_coordinate(self, of_group: Sequence[float]) -> Tensor:
        """One value a group -> (1,) for a single group, else (D,)."""
        if len(of_group) == 1:
            return torch.full((1,), of_group[0], dtype=self.dtype, device=self.vector.device)
        values = torch.tensor(of_group, dtype=self.dtype, device=self.vector.device)
        return values.repeat_interleave(self._group_sizes, output_size=self.vector.dimension)

    @cached_property
    def _group_sizes(self) -> Tensor:
        """Coordinates in each group."""
        sizes, at = [], 0
        for count in self.counts:
            sizes.append(sum(self.vector.sizes[at : at + count]))
            at += count
        return torch.tensor(sizes, device=self.vector.device)

    @cached_property
    def bounded(self) -> bool:
        """Whether any coordinate has bounds."""
        return any(group.bounds is not None for group in self.groups)

    @cached_property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest value of each coordinate (D,), or (1,) without bounds.

        Rounded inward in the dtype of each parameter, so that no rounding leads out of the bounds as written.
        """
        vector = self.vector
        if not self.bounded:
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
        return torch.clamp(position, *self.bounds)

    def levy_length(self, of_group: Sequence[float | None]) -> Tensor | None:
        """Draw one Lévy flight a member: its length (P, 1) or (P, D), in steps; None where no group flies.

        Args:
            of_group: alpha of each group, or None.
        """
        if all(alpha is None for alpha in of_group):
            return None
        alphas = [math.nan if alpha is None else alpha for alpha in of_group]
        sigmas = [1.0 if math.isnan(alpha) else foraging.mantegna_sigma(alpha) for alpha in alphas]
        return foraging.levy_length(self.normal(2), self.per_coordinate(alphas), self.per_coordinate(sigmas))

    def scatter(self, centre_D: Tensor, reach: Sequence[float]) -> Tensor:
        """Draw fresh places (P, D): uniform in the bounds; without, about `reach` away from the centre.

        Without bounds a place is centre + reach N(0, I) / sqrt(D): its distance does not grow with D.

        Args:
            centre_D: a place (D,).
            reach: of each group, in units of the parameters.
        """
        vector = self.vector
        places_PD = centre_D.expand(self.population_size, -1)
        if any(group.bounds is None for group in self.groups):
            spread = self.per_coordinate(reach) / math.sqrt(vector.dimension)
            places_PD = (places_PD + spread * self.normal(vector.dimension)).to(vector.dtype)
        if self.bounded:
            places_PD = self._uniform_where_bounded(places_PD, self.uniform(vector.dimension))
        return self.clamp(places_PD)

    def scattered(self, rows: int, centre_D: Tensor, reach: Tensor) -> Tensor:
        """Draw fresh places (rows, D): uniform in the bounds; without, centre + reach N(0, I), reach (1,) or (D,)."""
        places_PD = (centre_D + reach * self.noise(rows)).to(self.vector.dtype)
        if self.bounded:
            places_PD = self._uniform_where_bounded(places_PD, self.shares(rows, self.vector.dimension))
        return self.clamp(places_PD)

    def _uniform_where_bounded(self, places_PD: Tensor, share_PD: Tensor) -> Tensor:
        """The places, with every bounded coordinate replaced by its share of the way between its bounds."""
        lower, upper = self.bounds
        bounded = torch.isfinite(lower)
        low, high = torch.where(bounded, lower, 0.0), torch.where(bounded, upper, 0.0)
        return torch.where(bounded, (low * (1 - share_PD) + high * share_PD).to(places_PD.dtype), places_PD)


def _inward(value: float, dtype: torch.dtype, *, up: bool) -> float:
    """The nearest value of `dtype` that is not below (`up`) or not above the bound."""
    rounded = torch.tensor(value, dtype=dtype)
    if up and float(rounded) < value:
        rounded = torch.nextafter(rounded, torch.tensor(math.inf, dtype=dtype))
    elif not up and float(rounded) > value:
        rounded = torch.nextafter(rounded, torch.tensor(-math.inf, dtype=dtype))
    return float(rounded)
