"""`fold`: what the dying did is put upon the survivors, as well as a linear map can."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from pytorch_bfo_optimizer.state import require_count, require_number
from pytorch_bfo_optimizer.turnover.folding import folded
from pytorch_bfo_optimizer.turnover.initialisers import Initialiser, Plan, fresh, silent
from pytorch_bfo_optimizer.turnover.surgery import Births
from pytorch_bfo_optimizer.turnover.view import View


@dataclass(frozen=True)
class FoldIn(Initialiser):
    """The dying neurons' outputs as a combination of the survivors' and a constant; the newborn are fresh, w_out = 0.

    See `folding.folded`.
    """

    ridge: float = 1e-4
    """Weight of the penalty, relative to the mean square of a survivor's activation."""
    kept_rows: int = field(default=2048, kw_only=True)

    name: ClassVar[str] = "fold"

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            HyperparameterError: naming the field, its value and the mend.
        """
        require_number("ridge", self.ridge, low=0, high=1e3, open_low=True, mend="1e-4 is usual")
        require_count("kept_rows", self.kept_rows, least=1, mend="2048 is usual: more than the layer has neurons")

    def plan(self, view: View, dying_K: Tensor, count: int) -> Plan:
        """Fold, and draw the newborn."""
        births = Births(*fresh(view, count), silent(view, count), None)
        if not len(dying_K):
            return Plan(births, ((),) * count, "fresh, outgoing weights 0")
        fold, left = folded(view, dying_K, ridge=self.ridge)
        why = f"fresh, outgoing weights 0; the dead were folded into the survivors, but for {left:.2g} of their output"
        return Plan(births, ((),) * count, why, fold)


INITIALISER = FoldIn
