"""The random number generators of the whole process: torch on every device that is in use, Python's, NumPy's."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


def take_random_state() -> Callable[[], None]:
    """Return what puts the generators back to where they stand now; it may be called many times.

    CUDA counts once it is initialised, NumPy's global generator once NumPy is imported.
    """
    cpu, python = torch.get_rng_state(), random.getstate()
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    numpy = sys.modules.get("numpy")
    numbers = None if numpy is None else numpy.random.get_state()

    def put_back() -> None:
        torch.set_rng_state(cpu)
        random.setstate(python)
        if on_gpus:
            torch.cuda.set_rng_state_all(on_gpus)
        if numpy is not None:
            numpy.random.set_state(numbers)

    return put_back


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Put the generators back when the context ends."""
    put_back = take_random_state()
    try:
        yield
    finally:
        put_back()
