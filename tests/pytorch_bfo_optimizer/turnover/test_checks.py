from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytorch_bfo_optimizer import HyperparameterError
from pytorch_bfo_optimizer.turnover import TurnoverManager

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
