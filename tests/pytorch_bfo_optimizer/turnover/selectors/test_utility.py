from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from pytorch_bfo_optimizer.turnover.observing import Activity
from pytorch_bfo_optimizer.turnover.selectors.utility import Utility
from pytorch_bfo_optimizer.turnover.view import View


def test_activity_times_the_outgoing_weights_and_as_many_rows(view: Callable[..., View]) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    with torch.no_grad():
        model[2].weight.copy_(torch.tensor([[1.0, -2.0, 0.0], [1.0, 3.0, 0.0]]))
    activity = Activity(torch.tensor([6.0, 3.0, 9.0]), torch.tensor(6.0))
    figures, weight = Utility().measure(view(model), activity)
    assert figures.tolist() == [12.0, 15.0, 0.0]
    assert weight == 6
    assert Utility().measure(view(model), None) is None


def test_newborn_neurons_have_to_mature(view: Callable[..., View]) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    seen = view(
        model,
        ages=torch.tensor([99, 100, 5]),
        founders=torch.tensor([False, False, True]),
        average=torch.tensor([1.0, 2.0, 3.0]),
    )
    assert Utility().eligible(seen).tolist() == [False, True, True]
    assert Utility(maturity=50).eligible(seen).tolist() == [True, True, True]
    assert Utility().scores(seen).tolist() == [1.0, 2.0, 3.0]
