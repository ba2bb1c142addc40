"""Who evaluates which member where all ranks have the same data: each its share of a slot, and all learn all losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from pytorch_bfo_optimizer.local_forward import local_forward
from pytorch_bfo_optimizer.objective import Evaluator, PiecewiseEvaluator
from pytorch_bfo_optimizer.smart_closure import ClosureGradient


class Sharing(Protocol):
    """How the ranks of a job work on one colony, as an optimizer sees it: a `Distribution`."""

    def __call__(self, evaluator: Evaluator, /) -> Evaluator:
        """The evaluator of one generation, on all ranks."""

    def gradient(self, take: Callable[[], ClosureGradient]) -> ClosureGradient:
        """The gradient that `take` finds, on all ranks."""


class Exchange(Protocol):
    """The same as an evaluator sees it, which talks to the other ranks."""

    @property
    def rank(self) -> int:
        """Number of this process."""

    @property
    def world_size(self) -> int:
        """Processes that share the colony."""

    def exchange(self, losses: Tensor, largest: int, *, checksum: int, error: Exception | None) -> Tensor:
        """All ranks' losses (n, at least `largest`) for this rank's."""

    def failed(self, error: BaseException) -> None:
        """See to it that no other rank waits for this one."""

    def mean_(self, values: Tensor) -> None:
        """Replace `values` by their mean over the ranks."""


class SharedEvaluator:
    """Evaluates this rank's share of each slot, and learns the rest from the others."""

    def __init__(self, evaluator: PiecewiseEvaluator, distribution: Exchange) -> None:
        self.evaluator, self.distribution = evaluator, distribution
        self.evaluations = 0

    def __call__(self, position_PD: Tensor, active_P: Tensor) -> Tensor:
        """Losses (P,) of the members evaluated in this slot, the same on every rank; +inf in the other entries."""
        units = self.evaluator.units(active_P)
        prefilled, self.evaluator.prefilled = self.evaluator.prefilled, {}
        losses_P = position_PD.new_full((position_PD.shape[0],), math.inf, dtype=self.evaluator.dtype)
        if not units and not prefilled:
            return losses_P
        shares = _shares(units, self.distribution.world_size)
        members = [[member for unit in share for member in unit] for share in shares]
        members[0] += prefilled  # rank 0's loss stands for all: each may have sensed on data of its own
        table = self._exchanged(position_PD, units, shares, prefilled)
        self.evaluations += sum(len(unit) for unit in units)
        values = torch.cat([table[rank, : len(share)] for rank, share in enumerate(members)])
        index = torch.tensor([member for share in members for member in share])
        losses_P[index.to(losses_P.device)] = values.to(losses_P)
        return losses_P

    def _exchanged(
        self,
        position_PD: Tensor,
        units: list[Sequence[int]],
        shares: list[list[Sequence[int]]],
        prefilled: Mapping[int, Tensor],
    ) -> Tensor:
        """The losses of each rank's share (n, ...); rank 0's is followed by those that are prefilled."""
        rank = self.distribution.rank
        checksum, own, error = 0, torch.zeros(0, dtype=torch.float64), None
        try:
            checksum = checksum_of(position_PD) ^ len(units)
            with local_forward():
                found = [self.evaluator.losses_of(position_PD, unit) for unit in shares[rank]]
            if rank == 0:
                found += prefilled.values()
            if found:
                own = torch.cat([losses.reshape(-1) for losses in found]).to("cpu", torch.float64)
        except Exception as raised:  # noqa: BLE001 - told to the other ranks, and raised by exchange()
            error = raised
        except BaseException as raised:
            self.distribution.failed(raised)
            raise
        largest = max(sum(map(len, share)) for share in shares) + len(prefilled)
        return self.distribution.exchange(own, largest, checksum=checksum, error=error)


def checksum_of(values: Tensor) -> int:
    """64 bits that change with any one element of `values` (P, D), and where two rows are exchanged.

    sum_i (2 i + 1) sum_j bits_ij  (mod 2^64)
    """
    bits = values.detach().contiguous().view(_INTEGERS[values.element_size()])
    rows_P = bits.reshape(bits.shape[0], -1).sum(dim=1, dtype=torch.int64)
    odd_P = torch.arange(1, 2 * rows_P.shape[0], 2, device=rows_P.device)
    return int((rows_P * odd_P).sum())


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers by their size in bytes."""


def _shares(units: list[Sequence[int]], size: int) -> list[list[Sequence[int]]]:
    """The units of each rank: neighbours, as many as any other rank's or one more."""
    return [units[len(units) * rank // size : len(units) * (rank + 1) // size] for rank in range(size)]
