"""`crossover`: a neuron of two fit parents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pytorch_bfo_optimizer.turnover.initialisers import Initialiser, Plan, silent
from pytorch_bfo_optimizer.turnover.surgery import Births
from pytorch_bfo_optimizer.turnover.view import View


@dataclass(frozen=True)
class Crossover(Initialiser):
    """Each incoming weight from one of two parents, by a fair coin: uniform crossover (Syswerda 1989); w_out = 0.

    The parents are two different neurons (where there are two) of the fitter half of the survivors. The bias comes
    from the first.
    """

    name: ClassVar[str] = "crossover"

    def plan(self, view: View, dying_K: Tensor, count: int) -> Plan:
        """Draw the parents of each newborn, and who gives which weight."""
        survivors = len(view.survivors(dying_K))
        fit_P = view.fittest(max(2, survivors // 2) if survivors > 1 else 1, dying_K)
        chances_KP = torch.rand(count, len(fit_P), generator=view.generator, device=view.generator.device).cpu()
        pairs_K2 = fit_P[chances_KP.argsort(dim=1)[:, [0, -1]]].to(view.incoming.device)
        first_KI, second_KI = view.incoming[pairs_K2[:, 0]], view.incoming[pairs_K2[:, 1]]
        weight_KI = torch.where(view.uniform(first_KI.shape) < 0.5, first_KI, second_KI)
        bias_K = None if view.bias is None else view.bias[pairs_K2[:, 0]]
        parents = tuple(tuple(dict.fromkeys(pair)) for pair in pairs_K2.tolist())
        return Plan(Births(weight_KI, bias_K, silent(view, count), None), parents, "crossover of two fit parents")


INITIALISER = Crossover
