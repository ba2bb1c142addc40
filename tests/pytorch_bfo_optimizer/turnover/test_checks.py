from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pytorch_bfo_optimizer import HyperparameterError, TurnoverError, TurnoverRefusedError
from pytorch_bfo_optimizer.turnover import Initialiser, Once, Selector, TurnoverManager
from pytorch_bfo_optimizer.turnover.view import View

Make = Callable[..., Any]


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"select": "wieght"}, "select is 'wieght'"),
        ({"replace": "folds"}, "replace is 'folds'"),
        ({"schedule": 100}, r"schedule is 100: use Every\(steps\)"),
        ({"fraction": 1.5}, r"fraction is 1\.5"),
        ({"fraction": 0}, "fraction is 0"),
        ({"grow": "wide"}, "grow is 'wide'"),
        ({"select": None}, "select is None and grow_to is None"),
        ({"grow_to": 12}, r"grow_to is 12, and '0' has 24 neurons: .* a factor is a float, as 12\.0"),
        ({"grow_to": 0.5}, r"grow_to is 0\.5"),
        ({"grow_to": "2"}, r"grow_to is '2': give a width"),
    ],
)
def test_a_setting_that_is_wrong_is_refused_before_anything_is_hooked(
    keywords: dict[str, Any], said: str, digits: Make
) -> None:
    training = digits()
    with pytest.raises(HyperparameterError, match=said):
        TurnoverManager(training.model, training.optimizer, **keywords)
    assert not training.optimizer._optimizer_step_pre_hooks
    assert not any(module._forward_pre_hooks for module in training.model.modules())


def _net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize("part", [0, 2])
def test_a_layer_that_does_not_train_is_left_out_and_refused_by_name(part: int) -> None:
    model = _net()
    model[part].requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters())
    left = {0: ["2"], 2: []}[part]
    if left:
        assert list(TurnoverManager(model, optimizer).widths) == left
    else:
        with pytest.raises(TurnoverRefusedError, match=r"no layer is trained: '2.weight' is frozen"):
            TurnoverManager(model, optimizer)
    with pytest.raises(
        TurnoverRefusedError, match=rf"'{part}.weight' is frozen: neurons born in '0' would never learn"
    ):
        TurnoverManager(model, torch.optim.Adam(model.parameters()), layers="0")


def test_a_consumer_that_the_optimizer_does_not_know_is_refused() -> None:
    model = _net()
    with pytest.raises(TurnoverRefusedError, match=r"'2.weight' is no parameter of the optimizer"):
        TurnoverManager(model, torch.optim.Adam(model[0].parameters()))


def test_a_layer_has_one_manager_until_that_is_closed_or_gone() -> None:
    model = _net()
    optimizer = torch.optim.Adam(model.parameters())
    first = TurnoverManager(model, optimizer, layers="0")
    TurnoverManager(model, optimizer, layers="2").close()
    with pytest.raises(TurnoverError, match=r"'0' has a TurnoverManager already: close\(\) that one first"):
        TurnoverManager(model, optimizer)
    first.close()
    second = TurnoverManager(model, optimizer)
    del first, second, optimizer
    gc.collect()
    TurnoverManager(model, torch.optim.Adam(model.parameters()))


class _OfOnesOwn(Selector):
    def scores(self, view: View) -> torch.Tensor:
        return torch.arange(float(len(view.incoming)))


class _Nothing(Initialiser):
    def plan(self, view: View, dying_K: torch.Tensor, count: int) -> None:  # type: ignore[override]
        return None


def test_a_selector_of_ones_own_needs_its_scores_alone_and_an_initialiser_a_plan() -> None:
    model = _net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.ones(2, 4)).sum().backward()
    settings: dict[str, Any] = {"layers": "0", "select": _OfOnesOwn(), "schedule": Once(1)}
    with TurnoverManager(model, optimizer, replace="mutation", **settings) as own:
        optimizer.step()
    assert own.events[0].slots == (0,)
    assert own.events[0].why.startswith("lowest score by _OfOnesOwn")
    own = TurnoverManager(model, optimizer, replace=_Nothing(), **settings)
    with pytest.raises(TurnoverError, match=r"replace='_Nothing': its plan\(\) returned NoneType"):
        optimizer.step()


def test_arguments_of_another_kind_are_named() -> None:
    model = _net()
    optimizer = torch.optim.Adam(model.parameters())
    for given, said in (
        ((optimizer, model, None), "model is Adam: give the nn.Module first"),
        ((model, model.parameters(), None), "optimizer is generator"),
        ((model, optimizer, model[0]), "layers is Linear: give names"),
        ((model, optimizer, [0]), "layers is list: give names"),
    ):
        with pytest.raises(HyperparameterError, match=said):
            TurnoverManager(*given[:2], layers=given[2])
