from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from pytorch_bfo_optimizer.turnover.initialisers.mutation import Mutation
from pytorch_bfo_optimizer.turnover.view import View


def test_without_noise_it_is_the_fittest_again(model: nn.Module, view: Callable[..., View]) -> None:
    seen = view(model, scores=torch.arange(8.0))
    plan = Mutation(scale=0.0).plan(seen, torch.tensor([7, 0]), 2)
    assert plan.parents == ((6,), (5,))
    assert torch.equal(plan.births.incoming_weight, model[0].weight.detach()[[6, 5]])
    assert torch.equal(plan.births.incoming_bias, model[0].bias.detach()[[6, 5]])
    assert torch.equal(plan.births.outgoing[0], model[2].weight.detach()[:, [6, 5]])
    assert plan.births.norm.tolist() == [6, 5]


def test_the_noise_is_in_standard_deviations_of_the_weights(view: Callable[..., View]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(400, 20), nn.ReLU(), nn.Linear(20, 400))
    plan = Mutation().plan(view(model, scores=torch.arange(20.0)), torch.tensor([0, 1]), 2)
    for weights, parents, born in (
        (model[0].weight, model[0].weight[[19, 18]], plan.births.incoming_weight),
        (model[2].weight, model[2].weight[:, [19, 18]], plan.births.outgoing[0]),
    ):
        noise = born - parents.detach()
        assert noise.std().item() == pytest.approx(0.3 * weights.detach().std().item(), rel=0.1)
        assert abs(noise.mean().item()) < 0.02 * weights.detach().std().item()
