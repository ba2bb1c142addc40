from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from pytorch_bfo_optimizer.turnover.initialisers.fade import Fade
from pytorch_bfo_optimizer.turnover.initialisers.zero_outgoing import ZeroOutgoing
from pytorch_bfo_optimizer.turnover.view import View


def test_a_fresh_neuron_that_nobody_listens_to(model: nn.Module, view: Callable[..., View]) -> None:
    for initialiser in (ZeroOutgoing(), Fade(over=3)):
        plan = initialiser.plan(view(model), torch.tensor([3, 1]), 2)
        assert plan.parents == ((), ())
        assert plan.births.norm is None
        assert not plan.births.outgoing[0].any()
        assert plan.births.incoming_weight.abs().max() <= 0.5
        assert len(plan.births.incoming_weight.unique()) == 8
