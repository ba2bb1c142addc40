"""`nn.DataParallel` on CUDA devices: the forward pass of a closure runs in threads. Skipped, by name, without one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from bfo_diag.cases.digits_mlp import digits
from pytorch_bfo_optimizer import BFO, HybridBFO

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("ignore:There is an imbalance between your GPUs:UserWarning"),
]


def trained(cls: Any, wrap: Callable[[nn.Module], nn.Module], steps: int) -> tuple[list[float], nn.Module]:
    images, labels = (each[:256].cuda() for each in digits())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        inner = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10)).cuda()
    model = wrap(inner)
    settings = {} if cls is HybridBFO else {"population_size": 6}
    optimizer = cls(model.parameters(), generator=torch.Generator("cuda").manual_seed(0), **settings)
    losses = [optimizer.step(lambda: cross_entropy(model(images), labels)) for _ in range(steps)]
    assert all(param.grad is None for param in inner.parameters())
    return losses, inner


@pytest.mark.parametrize("cls", [BFO, HybridBFO])
def test_it_trains_as_the_module_does(cls: Any) -> None:
    found, inner = trained(cls, nn.DataParallel, 12)
    wanted, _ = trained(cls, lambda module: module, 12)
    assert found[-1] < found[0]
    # the devices add up parts of the batch in another order; a colony that compares losses may then part ways
    assert found[:3] == pytest.approx(wanted[:3], rel=1e-3)
    assert {param.device.index for param in inner.parameters()} == {0}


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device: DataParallel calls the module itself")
def test_every_device_gets_its_part_of_the_batch() -> None:
    seen: set[tuple[int, int]] = set()

    class Noting(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.add((x.device.index, len(x)))
            return super().forward(x)

    images, labels = (each[:64].cuda() for each in digits())
    model = nn.DataParallel(Noting(64, 10).cuda())
    HybridBFO(model.parameters()).step(lambda: cross_entropy(model(images), labels))
    count = torch.cuda.device_count()
    assert {device for device, _ in seen} == set(range(count))
    assert {rows for _, rows in seen} <= {64 // count, -(-64 // count)}
