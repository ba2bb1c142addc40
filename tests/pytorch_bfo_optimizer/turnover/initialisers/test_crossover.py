from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from pytorch_bfo_optimizer.turnover.initialisers.crossover import Crossover
from pytorch_bfo_optimizer.turnover.view import View


def test_each_weight_is_of_one_of_two_fit_parents(view: Callable[..., View]) -> None:
    model = nn.Sequential(nn.Linear(400, 9), nn.ReLU(), nn.Linear(9, 3))
    plan = Crossover().plan(view(model, scores=torch.arange(9.0)), torch.tensor([0, 8, 1]), 3)
    for parents, weight, bias in zip(plan.parents, plan.births.incoming_weight, plan.births.incoming_bias, strict=True):
        first, second = parents
        assert {first, second} <= {7, 6, 5}  # the fitter half of the six that survive
        theirs = model[0].weight.detach()[[first, second]]
        from_first, from_second = (weight == theirs[0]), (weight == theirs[1])
        assert (from_first | from_second).all()
        assert from_first.float().mean().item() == pytest.approx(0.5, abs=0.1)
        assert bias == model[0].bias[first]
    assert not plan.births.outgoing[0].any()
    assert len({frozenset(parents) for parents in plan.parents}) > 1


def test_a_lonely_survivor_is_both_parents(view: Callable[..., View]) -> None:
    model = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 3))
    plan = Crossover().plan(view(model, scores=torch.arange(2.0)), torch.tensor([0]), 1)
    assert plan.parents == ((1,),)
    assert torch.equal(plan.births.incoming_weight[0], model[0].weight.detach()[1])
