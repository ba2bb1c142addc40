from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from pytorch_bfo_optimizer.turnover.initialisers.copy_best_match import CopyBestMatch
from pytorch_bfo_optimizer.turnover.view import View


def test_the_survivor_that_is_most_alike(model: nn.Module, view: Callable[..., View]) -> None:
    with torch.no_grad():
        for one, other in ((1, 6), (2, 5)):  # alike but for their length
            model[0].weight[one] = 2 * model[0].weight[other]
            model[0].bias[one] = 2 * model[0].bias[other]
    plan = CopyBestMatch().plan(view(model), torch.tensor([2, 1]), 2)
    assert plan.parents == ((5,), (6,))
    assert torch.equal(plan.births.incoming_weight, model[0].weight.detach()[[5, 6]])
    assert torch.equal(plan.births.incoming_bias, model[0].bias.detach()[[5, 6]])
    assert torch.equal(plan.births.outgoing[0], model[2].weight.detach()[:, [2, 1]])  # the dead ones' own


def test_no_match_dies_or_fades_itself(model: nn.Module, view: Callable[..., View]) -> None:
    with torch.no_grad():
        model[0].weight[[1, 2, 3]] = model[0].weight[0].clone()
        model[0].bias[[1, 2, 3]] = model[0].bias[0].clone()
    fading = torch.arange(8) == 3
    plan = CopyBestMatch().plan(view(model, fading=fading), torch.tensor([1, 2]), 2)
    assert plan.parents == ((0,), (0,))


def test_the_bias_counts_as_an_input(model: nn.Module, view: Callable[..., View]) -> None:
    with torch.no_grad():
        model[0].weight[:] = 1.0
        model[0].bias[:] = torch.arange(8.0)
    assert CopyBestMatch().plan(view(model), torch.tensor([3]), 1).parents == ((4,),)
