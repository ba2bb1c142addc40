from __future__ import annotations

import copy
import io

import torch
from torch import nn

from pytorch_bfo_optimizer.turnover import TurnoverManager

X, Y = torch.randn(16, 4), torch.randint(0, 3, (16,))


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(X), Y).backward()
    optimizer.step()


def managed() -> tuple[nn.Sequential, torch.optim.Optimizer, TurnoverManager]:
    model = nn.Sequential(nn.Linear(4, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3))
    optimizer = torch.optim.Adam(model.parameters())
    return model, optimizer, TurnoverManager.preset("functional", model, optimizer, every=2)


def test_a_copy_of_the_model_is_none_of_the_managers() -> None:
    model, optimizer, manager = managed()
    step(model, optimizer)
    average = copy.deepcopy(model)
    average(X)
    inputs = manager._layers[0].observer._written.clone()
    average(X)
    assert torch.equal(manager._layers[0].observer._written, inputs)
    step(model, optimizer)  # the turnover, which refuses calls from elsewhere
    assert [event.kind for event in manager.events] == ["death", "birth"]
    manager.close()
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_model_that_has_a_manager_can_be_saved_whole() -> None:
    model, _, _ = managed()
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    model.eval(), loaded.eval()
    assert torch.equal(loaded(X), model(X))
