from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from pytorch_bfo_optimizer.turnover.selectors.gradient import Gradient
from pytorch_bfo_optimizer.turnover.view import View


def test_the_mean_size_of_the_incoming_gradient(view: Callable[..., View]) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    assert Gradient().measure(view(model), None) is None
    model[0].weight.grad = torch.tensor([[3.0, -5.0], [0.0, 1.0], [0.0, 0.0]])
    figures, weight = Gradient().measure(view(model), None)
    assert (figures.tolist(), weight) == ([4.0, 0.5, 0.0], 1.0)
    figures, _ = Gradient().measure(view(model, grad_scale=torch.tensor(4.0)), None)
    assert figures.tolist() == [1.0, 0.125, 0.0]
    average = torch.tensor([1.0, 2.0, 3.0])
    assert Gradient().scores(view(model, average=average)) is average
