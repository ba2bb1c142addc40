from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pytorch_bfo_optimizer import HyperparameterError
from pytorch_bfo_optimizer.turnover import PRESETS, Continuous, Every, TurnoverManager
from pytorch_bfo_optimizer.turnover.presets import settings


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("data", ["digits", "text"])
def test_each_runs_and_lowers_the_training_loss(preset: str, data: str, request: pytest.FixtureRequest) -> None:
    """Over (B, D) with a BatchNorm and no bias, and over (B, T, D); every fourth batch is a smaller one."""
    training = request.getfixturevalue(data)()
    before = training.loss_of(training.train).item()
    manager = TurnoverManager.preset(preset, training.model, training.optimizer, every=6, fraction=0.1)
    training.run(24)
    assert training.loss_of(training.train).item() < 0.9 * before
    summary = manager.summary()
    if preset == "none":
        assert manager.events == []
        return
    assert summary["births"] > 0
    assert summary["births"] == summary["deaths"] or preset == "growth"
    assert {event.layer for event in manager.events} == set(manager.widths)
    assert all(parameter.isfinite().all() for parameter in training.model.parameters())
    for parameter, state in training.optimizer.state.items():
        shapes = {tuple(value.shape) for value in state.values() if value.dim()}
        assert shapes == {tuple(parameter.shape)}


@pytest.mark.parametrize("data", ["digits", "text"])
def test_the_control_is_a_training_without_a_manager(data: str, request: pytest.FixtureRequest) -> None:
    alone, control = request.getfixturevalue(data)(), request.getfixturevalue(data)()
    hooks = [dict(module._forward_pre_hooks) for module in control.model.modules()]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        alone.run(6)
        torch.manual_seed(3)
        manager = TurnoverManager.preset("none", control.model, control.optimizer, every=2)
        control.run(6)
    assert [dict(module._forward_pre_hooks) for module in control.model.modules()] == hooks
    assert not control.optimizer._optimizer_step_pre_hooks
    assert not control.optimizer._optimizer_step_post_hooks
    for one, other in zip(alone.model.state_dict().values(), control.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert manager.summary()["births"] == 0
    assert manager.widths == manager.first_widths


def test_what_the_names_stand_for() -> None:
    chosen = {name: settings(name, every=20, fraction=0.1, grow_to=None) for name in PRESETS}
    assert {name: (one["select"] and one["select"].name) for name, one in chosen.items()} == {
        "none": None,
        "standard": "weight",
        "functional": "gradient_activation",
        "fade": "gradient_activation",
        "continuous": "utility",
        "distillation": "gradient_activation",
        "growth": None,
        "hybrid": "utility",
        "crossover": "gradient_activation",
        "orthogonal": "orthogonality",
    }
    assert chosen["fade"]["replace"].over == 10
    assert chosen["continuous"]["schedule"] == Continuous(0.1 / 20, gather=2)
    assert chosen["standard"]["schedule"] == Every(20)
    assert chosen["growth"]["grow_to"] == 1.5
    assert all(one["select"].maturity == 40 for one in chosen.values() if one["select"])


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"name": "standart"}, "preset is 'standart': use one of 'none', 'standard'"),
        ({"name": "hybrid", "grow_to": 2.0}, r"grow_to is 2\.0 with the preset 'hybrid', in which the width stays"),
        ({"name": "none", "every": 0}, "every is 0"),
        ({"name": "standard", "fraction": 1.0}, r"fraction is 1\.0"),
        ({"name": "continuous", "fraction": 0.0}, "rate is 0"),
        ({"name": "standard", "select": "weight"}, "select is what the preset 'standard' stands for"),
        ({"name": "standard", "schedule": Every(3)}, "schedule is what the preset"),
    ],
)
def test_what_is_wrong_is_refused(keywords: dict[str, Any], said: str, digits: Callable[..., Any]) -> None:
    training = digits()
    with pytest.raises(HyperparameterError, match=said):
        TurnoverManager.preset(model=training.model, optimizer=training.optimizer, **keywords)
    assert not training.optimizer._optimizer_step_pre_hooks
