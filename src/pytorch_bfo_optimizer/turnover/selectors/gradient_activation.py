"""`gradient_activation`: neurons whose removal would change the loss least, to first order, go first."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from pytorch_bfo_optimizer.turnover.observing import Activity
from pytorch_bfo_optimizer.turnover.selectors import Selector
from pytorch_bfo_optimizer.turnover.view import View


class GradientActivation(Selector):
    """score_i = |sum over rows n of h_ni dL/dh_ni|: first-order Taylor importance, averaged over the optimizer's steps.

    Molchanov et al. 2019 (arXiv:1906.10771), equation 5 with a gate z_i on the activation: dL/dz_i at z_i = 1. For
    consumers y = W h + b it is sum_o W_oi dL/dW_oi, exactly: dL/dW_oi = sum_n h_ni dL/dy_no. So it is read off the
    gradients that the optimizer sees, whatever was accumulated, clipped, unscaled or compiled on the way to them.
    """

    name: ClassVar[str] = "gradient_activation"
    scored: ClassVar[str] = "gradient x activation"
    watches: ClassVar[bool] = True

    def measure(self, view: View, activity: Activity | None) -> tuple[Tensor, float] | None:
        """Read the gradients of the outgoing weights; nothing where a consumer has none."""
        gate_H = torch.zeros(view.width, device=view.incoming.device)
        for _, consumer in view.layer.consumers:
            grad_OH = view.gradient(consumer.weight)
            if grad_OH is None:
                return None
            gate_H = gate_H + (consumer.weight.detach() * grad_OH).sum(dim=0)
        return gate_H.abs(), 1.0

    def scores(self, view: View) -> Tensor:
        """The average."""
        return view.average


SELECTOR = GradientActivation
