"""Calls of a `DistributedDataParallel` module that stay in this process, in this thread alone.

Before a forward pass DDP may broadcast buffers and agree on gradient buckets with all ranks. Ranks that evaluate
different members, and different numbers of them, must not do that: the others are elsewhere, and both would wait.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.nn.parallel import DistributedDataParallel

_local = threading.local()
_lock = threading.Lock()
_users = 0
_forward: Any = DistributedDataParallel.forward


@contextmanager
def local_forward() -> Iterator[None]:
    """While the context lasts, DDP modules called in this thread run the module that they wrap, and nothing else.

    No buffer is broadcast and nothing is prepared for a backward pass: a gradient taken in here is this rank's own.
    """
    global _users, _forward
    with _lock:
        _users += 1
        if _users == 1:
            _forward = DistributedDataParallel.forward
            DistributedDataParallel.forward = _dispatch  # type: ignore[method-assign]
    inside, _local.inside = getattr(_local, "inside", False), True
    try:
        yield
    finally:
        _local.inside = inside
        with _lock:
            _users -= 1
            if _users == 0:
                DistributedDataParallel.forward = _forward  # type: ignore[method-assign]


def _dispatch(self: Any, *inputs: Any, **kwargs: Any) -> Any:
    if not getattr(_local, "inside", False):
        return _forward(self, *inputs, **kwargs)
    if self.device_ids:  # DDP also moves what it is called with to the device of the module
        all_inputs, all_kwargs = self.scatter(inputs, kwargs, self.device_ids)
        inputs, kwargs = all_inputs[0], all_kwargs[0]
    return self.module(*inputs, **kwargs)
