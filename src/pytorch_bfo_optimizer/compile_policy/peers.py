"""The processes of a DDP training. They have to run the same steps: who waits for an all-reduce waits for all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch.distributed as dist
from torch import nn

from pytorch_bfo_optimizer.compile_policy.reach import reach

T = TypeVar("T")


@dataclass(frozen=True)
class Peers:
    """The process group of the DDP module that a step reaches; None where there is none, or one process."""

    group: Any = None

    @classmethod
    def of(cls, roots: Iterable[Any]) -> Peers:
        """Return the processes that run the same step as this one."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        wrapped = (m for m in reach(roots).modules if isinstance(m, nn.parallel.DistributedDataParallel))
        group = next((module.process_group for module in wrapped), None)
        return cls(None if group is None or dist.get_world_size(group) == 1 else group)

    def all(self, ok: bool) -> bool:
        """Whether it is so in every process."""
        if self.group is None:
            return ok
        said: list[Any] = [None] * dist.get_world_size(self.group)
        dist.all_gather_object(said, ok, group=self.group)
        return all(said)

    def first(self, value: T) -> T:
        """Return the value of the first process, in each of them."""
        if self.group is None:
            return value
        carried = [value]
        dist.broadcast_object_list(carried, src=dist.get_global_rank(self.group, 0), group=self.group)
        return carried[0]
