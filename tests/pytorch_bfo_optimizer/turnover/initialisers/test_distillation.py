from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import nn

from pytorch_bfo_optimizer.turnover.initialisers.distillation import Distillation
from pytorch_bfo_optimizer.turnover.surgery import Surgeon
from pytorch_bfo_optimizer.turnover.view import View


def errors(why: str) -> tuple[float, float]:
    before, after = re.search(r"output error (\S+) before, (\S+) after", why).groups()
    return float(before), float(after)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("normalised", [False, True])
def test_the_newborn_learn_what_the_dead_did(bias: bool, normalised: bool, view: Callable[..., View]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        norm = [nn.BatchNorm1d(8, momentum=1.0)] if normalised else []
        model = nn.Sequential(nn.Linear(4, 8, bias=bias), *norm, nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3))
        inputs = 1 + torch.rand(300, 4)
        if normalised:
            model(inputs)  # its running statistics are those of the inputs
    model.eval()
    with torch.no_grad():
        outputs = model(inputs)
        seen, dying = view(model, inputs=inputs), torch.tensor([5, 2])
        plan = Distillation().plan(seen, dying, 2)
        Surgeon(model, torch.optim.SGD(model.parameters(), lr=0.1)).replace(seen.layer, dying, plan.births)
        missed = (model(inputs) - outputs).square().mean().sqrt().item()
    before, after = errors(plan.why)
    assert after < 0.5 * before
    assert missed == pytest.approx(after, rel=0.05)  # in the model as in the lesson
    assert plan.why.startswith("distilled on 300 inputs")


def test_the_dead_who_did_nothing_leave_nothing_to_learn(model: nn.Module, view: Callable[..., View]) -> None:
    with torch.no_grad():
        model[2].weight[:, 3] = 0.0
    plan = Distillation().plan(view(model, inputs=torch.randn(20, 4)), torch.tensor([3]), 1)
    assert errors(plan.why) == (0.0, 0.0)
    assert not plan.births.outgoing[0].any()


def test_one_recorded_input_is_enough(view: Callable[..., View]) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
    plan = Distillation(steps=2).plan(view(model, inputs=torch.randn(1, 4)), torch.tensor([3]), 1)
    assert plan.births.outgoing[0].isfinite().all()
