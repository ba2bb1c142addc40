"""`dormancy`: neurons that are silent beside their layer, and only those."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pytorch_bfo_optimizer.state import require_number
from pytorch_bfo_optimizer.turnover.observing import Activity
from pytorch_bfo_optimizer.turnover.selectors import Selector
from pytorch_bfo_optimizer.turnover.view import View


@dataclass(frozen=True, kw_only=True)
class Dormancy(Selector):
    """score_i = E|h_i| / (1/H sum_k E|h_k|); neurons with a score of at most `tau` are dormant and may die.

    ReDo, Sokar et al. 2023 (arXiv:2302.12902), definition 3.1. The expectation is the average over the rows of recent
    training steps.
    """

    tau: float = 0.025
    """Dormant up to here; the paper uses 0.025 and 0.1."""

    name: ClassVar[str] = "dormancy"
    scored: ClassVar[str] = "share of the layer's mean activity"
    needs_activity: ClassVar[bool] = True
    watches: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            HyperparameterError: naming the field, its value and the mend.
        """
        super().__post_init__()
        require_number("tau", self.tau, low=0, high=1, mend="0.025 is the paper's")

    def measure(self, view: View, activity: Activity | None) -> tuple[Tensor, Tensor] | None:
        """Take what was seen since the last step."""
        return None if activity is None else (activity.total, activity.rows)

    def scores(self, view: View) -> Tensor:
        """Each neuron's activity by the mean of those that are known."""
        return view.average / view.average.nanmean().clamp_min(1e-30)

    def eligible(self, view: View) -> Tensor:
        """The dormant ones among those that any selector may take."""
        return super().eligible(view) & (self.scores(view) <= self.tau).cpu()


SELECTOR = Dormancy
