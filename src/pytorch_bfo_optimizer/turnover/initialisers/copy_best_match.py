"""`copy_best_match`: the survivor that is most alike, in the dead one's place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pytorch_bfo_optimizer.turnover.initialisers import Initialiser, Plan, silent, singly
from pytorch_bfo_optimizer.turnover.surgery import Births
from pytorch_bfo_optimizer.turnover.view import View


@dataclass(frozen=True)
class CopyBestMatch(Initialiser):
    """w_in = that of the survivor with the highest cosine to the dead one's; the dead one's outgoing weights stay.

    Biases count as one more input. In new slots, where nobody died, the fittest are copied, with outgoing weights 0.
    """

    name: ClassVar[str] = "copy_best_match"

    def plan(self, view: View, dying_K: Tensor, count: int) -> Plan:
        """Find the match of each."""
        device = view.incoming.device
        if len(dying_K):
            matches_K = self._matches(view, dying_K)
            outgoing = tuple(weight_OH[:, dying_K.to(device)].clone() for weight_OH in view.outgoing)
            why = "copy of the best match"
        else:
            matches_K, outgoing, why = (
                view.fittest(count, dying_K).to(device),
                silent(view, count),
                "copy of the fittest",
            )
        bias_K = None if view.bias is None else view.bias[matches_K]
        return Plan(Births(view.incoming[matches_K], bias_K, outgoing, matches_K), singly(matches_K), why)

    def _matches(self, view: View, dying_K: Tensor) -> Tensor:
        weights = view.incoming if view.bias is None else torch.cat([view.incoming, view.bias[:, None]], dim=1)
        unit = torch.nn.functional.normalize(weights, dim=1)
        survivors_S = view.survivors(dying_K).to(unit.device)
        best_K = (unit[dying_K.to(unit.device)] @ unit[survivors_S].T).argmax(dim=1)
        return survivors_S[best_K]


INITIALISER = CopyBestMatch
