"""Losses and gradients where each rank has data of its own: the means over the ranks, the same bits on each of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pytorch_bfo_optimizer.errors import NoGradientError
from pytorch_bfo_optimizer.local_forward import local_forward
from pytorch_bfo_optimizer.objective import PiecewiseEvaluator
from pytorch_bfo_optimizer.sharing import Exchange, checksum_of
from pytorch_bfo_optimizer.smart_closure import ClosureGradient


class AveragedEvaluator:
    """Evaluates every member on this rank's data, and takes the mean of what the ranks find.

    A position is one evaluation, on however many ranks. A prefilled loss is this rank's own, or a mean already.
    """

    def __init__(self, evaluator: PiecewiseEvaluator, ranks: Exchange) -> None:
        self.evaluator, self.ranks = evaluator, ranks
        self.evaluations = 0

    def __call__(self, position_PD: Tensor, active_P: Tensor) -> Tensor:
        """Losses (P,) of the members evaluated in this slot, the same on every rank; +inf in the other entries."""
        units = self.evaluator.units(active_P)
        prefilled, self.evaluator.prefilled = self.evaluator.prefilled, {}
        losses_P = position_PD.new_full((position_PD.shape[0],), math.inf, dtype=self.evaluator.dtype)
        members = [*prefilled, *(member for unit in units for member in unit)]
        if not members:
            return losses_P
        checksum, own, error = 0, torch.zeros(0, dtype=torch.float64), None
        try:
            checksum = checksum_of(position_PD) ^ len(units)
            with local_forward():
                found = [self.evaluator.losses_of(position_PD, unit) for unit in units]
            own = torch.cat([losses.reshape(-1) for losses in (*prefilled.values(), *found)]).to("cpu", torch.float64)
        except Exception as raised:  # noqa: BLE001 - told to the other ranks, and raised by exchange()
            error = raised
        except BaseException as raised:
            self.ranks.failed(raised)
            raise
        table = self.ranks.exchange(own, len(members), checksum=checksum, error=error)[:, : len(members)]
        self.evaluations += sum(len(unit) for unit in units)
        losses_P[torch.tensor(members, device=losses_P.device)] = table.mean(dim=0).to(losses_P)
        return losses_P


def averaged_gradient(take: Callable[[], ClosureGradient], ranks: Exchange) -> ClosureGradient:
    """The mean over the ranks of the gradients that `take` finds; the loss is this rank's own.

    Raises:
        NoGradientError: this rank, or another one, found none.
        RankFailedError, RankLostError, RanksDisagreeError: see `distribute`.
    """
    found, none, error = None, None, None
    try:
        with local_forward():  # DDP would average too, and only what passes through its module
            found = take()
    except NoGradientError as raised:
        none = raised
    except Exception as raised:  # noqa: BLE001 - told to the other ranks, and raised by exchange()
        error = raised
    except BaseException as raised:
        ranks.failed(raised)
        raise
    told = torch.tensor([found is not None], dtype=torch.float64)
    reached = ranks.exchange(told, 1, checksum=0, error=error)[:, 0].tolist()
    if none is not None:
        raise none
    assert found is not None
    without = [str(rank) for rank, has_one in enumerate(reached) if not has_one]
    if without:  # all go on alike
        why = f"rank {', '.join(without)} has no gradient to average"
        raise NoGradientError(why, reason="unreached", loss=found.loss)
    return found._replace(grads=_averaged(found.grads, ranks))


def _averaged(grads: Sequence[Tensor], ranks: Exchange) -> list[Tensor]:
    """The means over the ranks; one message for each dtype, summed in float32 at least."""
    found = list(grads)
    for dtype in dict.fromkeys(grad.dtype for grad in grads):
        where = [index for index, grad in enumerate(grads) if grad.dtype == dtype]
        flat = torch.cat([grads[index].to_dense().reshape(-1) for index in where])
        wide = flat.to(torch.promote_types(dtype, torch.float32))
        ranks.mean_(wide)
        pieces = wide.to(dtype).split([grads[index].numel() for index in where])
        for index, piece in zip(where, pieces, strict=True):
            found[index] = piece.view(grads[index].shape)
    return found
