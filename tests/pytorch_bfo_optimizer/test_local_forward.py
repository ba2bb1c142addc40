from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from pytorch_bfo_optimizer.local_forward import local_forward


class Collectives(TorchDispatchMode):
    """Names of the c10d operations that this thread begins."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            self.names.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.fixture
def ddp() -> Iterator[DistributedDataParallel]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield DistributedDataParallel(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
    finally:
        dist.destroy_process_group()


def test_nothing_is_sent_inside_and_the_numbers_are_the_same(ddp: DistributedDataParallel) -> None:
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    with Collectives() as seen:
        outside = ddp(inputs)
        assert "c10d::broadcast_" in seen.names  # of the buffers: what would wait for the others
        seen.names.clear()
        with local_forward():
            assert torch.equal(ddp(inputs), outside)
            with torch.no_grad():
                assert torch.equal(ddp(input=inputs), outside)
        assert seen.names == []
        ddp(inputs).sum().backward()
        assert seen.names != []


def test_other_threads_and_what_comes_after_are_untouched(ddp: DistributedDataParallel) -> None:
    forward, inputs, elsewhere = DistributedDataParallel.forward, torch.ones(5, 3), []

    def call() -> None:
        with Collectives() as seen:
            ddp(inputs)
        elsewhere.extend(seen.names)

    def raise_inside() -> None:
        with local_forward(), local_forward():
            thread = threading.Thread(target=call)
            thread.start()
            thread.join()
            raise ValueError("the closure's")

    with pytest.raises(ValueError, match="the closure's"):
        raise_inside()
    assert "c10d::broadcast_" in elsewhere
    assert DistributedDataParallel.forward is forward
