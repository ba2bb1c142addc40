"""`zero_outgoing`: a fresh neuron that nobody listens to yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pytorch_bfo_optimizer.turnover.initialisers import Initialiser, Plan, fresh, silent
from pytorch_bfo_optimizer.turnover.surgery import Births
from pytorch_bfo_optimizer.turnover.view import View


@dataclass(frozen=True)
class ZeroOutgoing(Initialiser):
    """w_in as `nn.Linear` draws it, w_out = 0 (Dohare et al. 2024): the newborn adds nothing to the output.

    What the dead neuron gave is gone all the same.
    """

    name: ClassVar[str] = "zero_outgoing"

    def plan(self, view: View, dying_K: Tensor, count: int) -> Plan:
        """Draw the newborn."""
        births = Births(*fresh(view, count), silent(view, count), None)
        return Plan(births, ((),) * count, "fresh, outgoing weights 0")


INITIALISER = ZeroOutgoing
