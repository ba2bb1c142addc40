"""`mutation`: a fit neuron again, with noise, incoming and outgoing: the naive way, which the output feels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pytorch_bfo_optimizer.state import require_number
from pytorch_bfo_optimizer.turnover.initialisers import Initialiser, Plan, mutated, noisy, singly
from pytorch_bfo_optimizer.turnover.surgery import Births
from pytorch_bfo_optimizer.turnover.view import View


@dataclass(frozen=True)
class Mutation(Initialiser):
    """w' = w_parent + scale std(W) n with n ~ N(0, 1), on both sides, for the incoming bias too; norms are copied."""

    scale: float = 0.3
    """Standard deviation of the noise, in standard deviations of the layer's weights."""

    name: ClassVar[str] = "mutation"

    def __post_init__(self) -> None:
        """Check the scale.

        Raises:
            HyperparameterError: not a number of at least 0.
        """
        require_number("scale", self.scale, low=0, high=1e3, mend="0.3 is usual")

    def plan(self, view: View, dying_K: Tensor, count: int) -> Plan:
        """Let the fittest survivors have one child each."""
        parents_K = view.fittest(count, dying_K).to(view.incoming.device)
        weight_KI, bias_K = mutated(view, parents_K, self.scale)
        outgoing = tuple(noisy(view, weight_OH, self.scale)[:, parents_K] for weight_OH in view.outgoing)
        births = Births(weight_KI, bias_K, outgoing, parents_K)
        return Plan(births, singly(parents_K), f"mutation, noise of {self.scale:g} standard deviations")


INITIALISER = Mutation
