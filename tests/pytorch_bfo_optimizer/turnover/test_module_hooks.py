from __future__ import annotations

import copy
import io

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from pytorch_bfo_optimizer.turnover import Every, TurnoverManager

_SOURCE = torch.Generator().manual_seed(0)
X, Y = torch.randn(16, 4, generator=_SOURCE), torch.randint(0, 3, (16,), generator=_SOURCE)


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


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 4))
        self.head = nn.Linear(4, 3)
        self.again = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = checkpoint(self.block, x, use_reentrant=False) if self.again else self.block(x)
        out: torch.Tensor = self.head(x + h)
        return out


def test_what_a_checkpoint_computes_again_is_seen_once() -> None:
    ends = []
    for again in (False, True):
        torch.manual_seed(0)
        model = Checkpointed()
        model.again = again
        optimizer = torch.optim.Adam(model.parameters())
        with TurnoverManager(model, optimizer, layers="block.0", select="utility", schedule=Every(2)) as manager:
            for _ in range(5):
                step(model, optimizer)
        assert len(manager.events) == 4
        assert int(manager._layers[0].observer._written) == 5 * len(X)
        ends.append((manager.events, model.state_dict()))
    assert ends[0][0] == ends[1][0]
    assert all(torch.equal(one, other) for one, other in zip(ends[0][1].values(), ends[1][1].values(), strict=True))
