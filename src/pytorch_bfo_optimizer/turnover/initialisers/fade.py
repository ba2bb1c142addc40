"""`fade`: the dying fall silent step by step while training goes on; then a fresh neuron takes the slot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pytorch_bfo_optimizer.state import require_count
from pytorch_bfo_optimizer.turnover.initialisers.zero_outgoing import ZeroOutgoing


@dataclass(frozen=True)
class Fade(ZeroOutgoing):
    """After shrink k of `over` the outgoing weights are (over - k) / over of what they would be; at the end 0.

    Shrink k multiplies them by (over - k) / (over - k + 1), so what the optimizer adds in between shrinks with them.
    One shrink is made after each optimizer step, the first one at once.
    """

    over: int = 50

    name: ClassVar[str] = "fade"

    def __post_init__(self) -> None:
        """Check the steps.

        Raises:
            HyperparameterError: no integer of at least 1.
        """
        require_count("over", self.over, least=1, mend="half of the steps between two turnovers is usual")


INITIALISER = Fade
