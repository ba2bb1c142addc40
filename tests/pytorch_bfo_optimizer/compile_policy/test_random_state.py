from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from pytorch_bfo_optimizer.compile_policy.random_state import random_state_kept, take_random_state


def draw() -> tuple[float, float, float]:
    return torch.rand(1).item(), random.random(), float(np.random.rand())


def test_every_generator_goes_back_as_often_as_wanted() -> None:
    put_back = take_random_state()
    first = draw()
    for _ in range(2):
        put_back()
        assert draw() == first


def test_an_exception_changes_nothing_of_it() -> None:
    expected = take_random_state()
    first = draw()
    expected()

    @random_state_kept()
    def fails() -> None:
        draw()
        raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert draw() == first
