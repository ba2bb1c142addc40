from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from pytorch_bfo_optimizer import HyperparameterError
from pytorch_bfo_optimizer.turnover.observing import Activity
from pytorch_bfo_optimizer.turnover.selectors.dormancy import Dormancy
from pytorch_bfo_optimizer.turnover.view import View


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2))


def test_only_the_dormant_may_die(model: nn.Module, view: Callable[..., View]) -> None:
    seen = view(model, average=torch.tensor([0.1, 1.9, 2.0, 0.0]))
    assert Dormancy().scores(seen).tolist() == pytest.approx([0.1, 1.9, 2.0, 0.0])
    assert Dormancy().eligible(seen).tolist() == [False, False, False, True]
    assert Dormancy(tau=0.1 + 1e-6).eligible(seen).tolist() == [True, False, False, True]


def test_newborn_neurons_that_nobody_has_seen_yet_are_left_out(model: nn.Module, view: Callable[..., View]) -> None:
    seen = view(model, average=torch.tensor([0.0, 3.0, 3.0, float("nan")]))
    assert Dormancy().scores(seen)[:3].tolist() == pytest.approx([0.0, 1.5, 1.5])
    assert Dormancy().eligible(seen).tolist() == [True, False, False, False]


def test_a_layer_that_is_silent_is_dormant(model: nn.Module, view: Callable[..., View]) -> None:
    assert Dormancy().eligible(view(model, average=torch.zeros(4))).all()


def test_it_measures_what_was_seen(model: nn.Module, view: Callable[..., View]) -> None:
    activity = Activity(torch.ones(4), torch.tensor(2.0))
    assert Dormancy().measure(view(model), activity) == (activity.total, activity.rows)
    assert Dormancy().measure(view(model), None) is None


def test_tau_is_checked() -> None:
    with pytest.raises(HyperparameterError, match=r"^tau is 1\.5"):
        Dormancy(tau=1.5)
