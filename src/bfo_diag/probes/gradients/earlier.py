"""Gradients of backward passes before `optimizer.step(closure)`: whether the optimizer reads them, or they are lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from bfo_diag import frames

Fate = Literal["read", "unread", "cleared", "repeated"]


class EarlierGradients:
    """What becomes of the gradients that parameters held when a step with a closure began.

    `repeated` are those of one backward pass at the very line where the closure runs its own: somebody called the
    closure for its loss, and did not accumulate anything.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, spots: Sequence[frames.Spot | None]) -> None:
        self.spots = tuple(spots)
        """Where the backward passes ran."""
        self.fate: Fate = "unread"
        self._optimizer = optimizer
        self._settled = False
        self._closure_went_back = False

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer, spots: Sequence[frames.Spot | None]) -> EarlierGradients | None:
        """Return them where there are any that are not zero."""
        found = cls(optimizer, spots)
        return found if spots and found._are_there() else None

    def read(self) -> None:
        """Note that the optimizer read gradients: these, if they are still there."""
        self._settle("read")

    def evaluation_begins(self) -> None:
        """See whether the optimizer has put them away unread."""
        self._settled = self._settled or not self._are_there()

    def backward_begins(self, spot: frames.Spot | None) -> None:
        """See whether the closure has cleared them, before it makes its own."""
        own_line = spot is not None and spot.owner is frames.Owner.USER  # and no Trainer's, which serves for both
        if not self._closure_went_back and own_line and self.spots == (spot,):
            self.fate, self._settled = "repeated", True
        self._closure_went_back = True
        self.evaluation_ends()

    def evaluation_ends(self) -> None:
        """See whether the closure has cleared them."""
        if not self._settled and not self._are_there():
            self._settle("cleared")

    def _settle(self, fate: Fate) -> None:
        if not self._settled:
            self.fate, self._settled = fate, True

    def _are_there(self) -> bool:
        with torch._C.DisableTorchFunction():
            gradients = (param.grad for group in self._optimizer.param_groups for param in group["params"])
            return any(gradient is not None and _is_not_zero(gradient) for gradient in gradients)


def _is_not_zero(gradient: torch.Tensor) -> bool:
    local: torch.Tensor = gradient.to_local() if hasattr(gradient, "to_local") else gradient
    return bool(local._nnz()) if local.is_sparse else bool((local != 0).any())
