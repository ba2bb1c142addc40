from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pytorch_bfo_optimizer.turnover import TurnoverManager
from pytorch_bfo_optimizer.turnover.layers import find_layers
from pytorch_bfo_optimizer.turnover.measuring import measured
from pytorch_bfo_optimizer.turnover.observing import Observer

Make = Callable[..., Any]


def test_what_a_measurement_does_is_not_observed(text: Make) -> None:
    """Even where it trains the model with gradients on: fitness and folds are those of a training without it."""
    whys = []
    for measures in (False, True):
        training = text()

        def measure(training: Any = training) -> float:
            with torch.enable_grad():
                training.model.train()
                return training.loss_of(training.held).item()

        manager = TurnoverManager.preset(
            "hybrid",
            training.model,
            training.optimizer,
            every=2,
            fraction=0.1,
            measure=measure if measures else None,
        )
        training.run(6)
        whys.append([(event.neurons, event.why) for event in manager.events])
    assert len(whys[0]) == 6
    assert whys[0] == whys[1]


def test_an_error_leaves_everything_as_it_was(digits: Make) -> None:
    training = digits()
    observer = Observer(find_layers(training.model)[0], activity=True, kept_rows=64)
    training.model(training.train.inputs[:8])
    training.model[2].eval()
    before, modes = observer.state_dict(), [module.training for module in training.model.modules()]
    random = torch.get_rng_state()

    def measure() -> float:
        torch.rand(1)
        with torch.enable_grad():
            training.model.train()(training.train.inputs[:8])
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        measured(measure, training.model, [observer])
    assert [module.training for module in training.model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.is_grad_enabled()
    assert all(torch.equal(value, before[name]) for name, value in observer.state_dict().items())
    assert before["rows"] == 8
