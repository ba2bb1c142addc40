"""`offspring`: the dead are folded into the survivors, and the fittest of these have children."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pytorch_bfo_optimizer.state import require_number
from pytorch_bfo_optimizer.turnover.folding import folded
from pytorch_bfo_optimizer.turnover.initialisers import Plan, mutated, silent, singly
from pytorch_bfo_optimizer.turnover.initialisers.fold import FoldIn
from pytorch_bfo_optimizer.turnover.surgery import Births
from pytorch_bfo_optimizer.turnover.view import View


@dataclass(frozen=True)
class Offspring(FoldIn):
    """As `fold`, but w_in = w_parent + scale std(W) n, with n ~ N(0, 1), for the fittest as parents; w_out = 0."""

    scale: float = 0.3
    """Standard deviation of the noise, in standard deviations of the layer's weights."""

    name: ClassVar[str] = "offspring"

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            HyperparameterError: naming the field, its value and the mend.
        """
        super().__post_init__()
        require_number("scale", self.scale, low=0, high=1e3, mend="0.3 is usual")

    def plan(self, view: View, dying_K: Tensor, count: int) -> Plan:
        """Fold, and let the fittest survivors have one child each."""
        parents_K = view.fittest(count, dying_K).to(view.incoming.device)
        births = Births(*mutated(view, parents_K, self.scale), silent(view, count), parents_K)
        why = "mutated child of a fit parent, outgoing weights 0"
        if not len(dying_K):
            return Plan(births, singly(parents_K), why)
        fold, left = folded(view, dying_K, ridge=self.ridge)
        why = f"{why}; the dead were folded into the survivors, but for {left:.2g} of their output"
        return Plan(births, singly(parents_K), why, fold)


INITIALISER = Offspring
