"""Which neuron of the old width stands at each place of the new one: what surgery does to one tensor, as a value."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NEWBORN = -1


@dataclass(frozen=True)
class Rearrangement:
    """From H neurons to W: kept ones, newborn ones, and copies among which a parent's outgoing weights are shared."""

    source: Tensor
    """(W,) int64 on the CPU: the old row of each new one, or `NEWBORN`."""
    newborn: Tensor
    """(K,) int64 on the CPU: the new rows of the newborn ones, in the order in which their values are given."""
    copies: Tensor | None = None
    """(W,) float64: among how many rows its parent was split; None where nothing was split."""

    @classmethod
    def cut(cls, keep: Tensor, births: int) -> Rearrangement:
        """Return that which keeps the rows `keep`, in this order, and appends newborn ones."""
        source = torch.cat([keep.to("cpu", torch.int64), torch.full((births,), NEWBORN)])
        return cls(source, torch.arange(len(keep), len(source)))

    @classmethod
    def replaced(cls, width: int, slots: Tensor) -> Rearrangement:
        """Return that which puts newborn rows into `slots`."""
        slots = slots.to("cpu", torch.int64)
        return cls(torch.arange(width).index_fill(0, slots, NEWBORN), slots)

    @classmethod
    def split(cls, width: int, parents: Tensor) -> Rearrangement:
        """Return that which appends a twin of each of `parents`; one that is named twice becomes three."""
        source = torch.cat([torch.arange(width), parents.to("cpu", torch.int64)])
        return cls(source, source[:0], torch.bincount(source, minlength=width)[source].double())

    @property
    def width(self) -> int:
        """How many neurons there are afterwards."""
        return len(self.source)

    def moved(self, rows: Tensor) -> Tensor:
        """Return where the old rows are now, twins included, in ascending order; those that are gone are left out."""
        return torch.isin(self.source, rows).nonzero().flatten()

    def of(self, old: Tensor, dim: int, *, born: Tensor | float = 0.0, divided: int = 0) -> Tensor:
        """Return a new tensor from `old`, whose neurons are along `dim`.

        `born` is what the newborn ones have there, (..., K, ...) or one number; `divided` is the power of the number of
        copies by which each is divided. The division is made in float64.
        """
        source = self.source.clamp(min=0).to(old.device)
        new = old.index_select(dim, source)
        newborn = self.newborn.to(old.device)
        if len(newborn) and isinstance(born, Tensor):
            new.index_copy_(dim, newborn, born.to(new))
        elif len(newborn):
            new.index_fill_(dim, newborn, born)
        if self.copies is not None and divided:
            share = (self.copies**divided).to(old.device)
            new = (new.double() / (share if dim else share.reshape(-1, *[1] * (old.dim() - 1)))).to(old.dtype)
        return new
