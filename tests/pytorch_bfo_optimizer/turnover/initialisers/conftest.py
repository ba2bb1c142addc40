from __future__ import annotations

import pytest
import torch
from torch import nn


@pytest.fixture
def model() -> nn.Module:
    """Eight neurons that read four inputs, three outputs that read them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
