from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from pytorch_bfo_optimizer.turnover.initialisers.fold import FoldIn
from pytorch_bfo_optimizer.turnover.initialisers.offspring import Offspring
from pytorch_bfo_optimizer.turnover.view import View


def test_children_of_the_fittest_and_the_dead_folded_into_the_survivors(
    model: nn.Module, view: Callable[..., View]
) -> None:
    inputs, dying = torch.randn(200, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([2, 7])
    plan = Offspring(scale=0.0).plan(view(model, scores=torch.arange(8.0), inputs=inputs), dying, 2)
    assert plan.parents == ((6,), (5,))
    assert torch.equal(plan.births.incoming_weight, model[0].weight.detach()[[6, 5]])
    assert not plan.births.outgoing[0].any()
    folded = FoldIn().plan(view(model, inputs=inputs), dying, 2)
    assert torch.equal(plan.fold.weights[0], folded.fold.weights[0])
    assert folded.parents == ((), ())
    assert not folded.births.outgoing[0].any()
    noisy = Offspring().plan(view(model, scores=torch.arange(8.0), inputs=inputs), dying, 2)
    noise = noisy.births.incoming_weight - model[0].weight.detach()[[6, 5]]
    assert 0 < noise.abs().max() < 2 * model[0].weight.detach().std()
