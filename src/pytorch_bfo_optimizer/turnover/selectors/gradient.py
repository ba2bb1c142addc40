"""`gradient`: neurons whose incoming weights get no gradient go first."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from pytorch_bfo_optimizer.turnover.observing import Activity
from pytorch_bfo_optimizer.turnover.selectors import Selector
from pytorch_bfo_optimizer.turnover.view import View


class Gradient(Selector):
    """score_i = mean over inputs of |dL/dw_in,i|, averaged over the optimizer's steps."""

    name: ClassVar[str] = "gradient"
    scored: ClassVar[str] = "gradient"
    watches: ClassVar[bool] = True

    def measure(self, view: View, activity: Activity | None) -> tuple[Tensor, float] | None:
        """Read the gradient of the incoming weights."""
        grad_HI = view.gradient(view.layer.producer.weight)
        return None if grad_HI is None else (grad_HI.abs().mean(dim=1), 1.0)

    def scores(self, view: View) -> Tensor:
        """The average."""
        return view.average


SELECTOR = Gradient
