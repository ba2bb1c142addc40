"""`utility`: neurons that contribute little to what their consumers compute go first, once they are mature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pytorch_bfo_optimizer.turnover.observing import Activity
from pytorch_bfo_optimizer.turnover.selectors import Selector
from pytorch_bfo_optimizer.turnover.view import View


@dataclass(frozen=True, kw_only=True)
class Utility(Selector):
    """score_i = running average of mean |h_i| sum_o |w_out,oi|: contribution utility of continual backpropagation.

    Dohare et al. 2024 (doi:10.1038/s41586-024-07711-7), equation 1, with eta = `decay` and the age threshold m =
    `maturity`. The average is one over rows, so a smaller batch counts less, and needs no correction for its start.
    """

    maturity: int = 100

    name: ClassVar[str] = "utility"
    scored: ClassVar[str] = "utility"
    needs_activity: ClassVar[bool] = True
    watches: ClassVar[bool] = True

    def measure(self, view: View, activity: Activity | None) -> tuple[Tensor, Tensor] | None:
        """Weigh what was seen since the last step with the outgoing weights that it met."""
        if activity is None:
            return None
        magnitude_H = torch.cat(view.outgoing).abs().sum(dim=0)
        return activity.total * magnitude_H, activity.rows

    def scores(self, view: View) -> Tensor:
        """The average."""
        return view.average


SELECTOR = Utility
