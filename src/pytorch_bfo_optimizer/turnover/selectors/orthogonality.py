"""`orthogonality`: of neurons that look at the same, one goes."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from pytorch_bfo_optimizer.turnover.selectors import Selector
from pytorch_bfo_optimizer.turnover.view import View


class Orthogonality(Selector):
    """score_i = -max over j of |cos(w_in,i, w_in,j)|, j over the other neurons that survive.

    Redundant filters have parallel weights (Wang et al. 2019, arXiv:1905.11787, and RePr, Prakash et al. 2019,
    arXiv:1811.07275, which ranks by the overlap with all others). The worst goes first, and what is left is compared
    anew, so of a pair of twins one stays: the one with the larger outgoing weights.
    """

    name: ClassVar[str] = "orthogonality"
    scored: ClassVar[str] = "minus its highest |cosine| to another"

    def scores(self, view: View) -> Tensor:
        """The highest |cosine| to any other neuron, negated."""
        return -_overlap(view).amax(dim=1)

    def choose(self, view: View, eligible_H: Tensor, count: int) -> Tensor:
        """Take one neuron after the other, each compared with those that are left."""
        overlap_HH = _overlap(view).cpu()
        overlap_HH[view.fading] = -1.0
        overlap_HH[:, view.fading] = -1.0
        outgoing_H = torch.cat(view.outgoing).norm(dim=0).cpu()
        may_H = eligible_H.clone()
        chosen: list[int] = []
        while len(chosen) < count and may_H.any():
            highest_H = torch.where(may_H, overlap_HH.amax(dim=1), -torch.inf)
            worst_E = (highest_H == highest_H.amax()).nonzero().flatten()
            slot = int(worst_E[outgoing_H[worst_E].argmin()])
            chosen.append(slot)
            may_H[slot] = False
            overlap_HH[:, slot] = -1.0
        return torch.tensor(chosen, dtype=torch.int64)


def _overlap(view: View) -> Tensor:
    """|cosine| of the incoming weights of each two neurons (H, H); -1 on the diagonal and where one is not finite."""
    unit_HI = torch.nn.functional.normalize(view.incoming, dim=1)
    overlap_HH = (unit_HI @ unit_HI.T).abs()
    # (A product of matrices need not be symmetric in its last bit, and of a pair both have to be told alike.)
    return torch.maximum(overlap_HH, overlap_HH.T).nan_to_num(nan=-1.0).fill_diagonal_(-1.0)


SELECTOR = Orthogonality
