"""`weight`: neurons with small weights on both sides go first."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from pytorch_bfo_optimizer.turnover.selectors import Selector
from pytorch_bfo_optimizer.turnover.view import View


class Weight(Selector):
    """score_i = ||w_in,i||_2 ||w_out,i||_2: magnitude pruning (Han et al. 2015, arXiv:1506.02626) of whole neurons.

    The product does not change where a ReLU neuron is scaled by c on one side and by 1/c on the other.
    """

    name: ClassVar[str] = "weight"
    scored: ClassVar[str] = "weight norm"

    def scores(self, view: View) -> Tensor:
        """Norm of the incoming weights times norm of the outgoing ones, of all consumers together."""
        norm = torch.linalg.vector_norm
        scores_H: Tensor = norm(view.incoming, dim=1) * norm(torch.cat(view.outgoing), dim=0)
        return scores_H


SELECTOR = Weight
