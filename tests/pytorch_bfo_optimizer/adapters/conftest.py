"""Samples as a training run gives them: a healthy one, one with NaN and Inf, one beyond float32."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pytorch_bfo_optimizer import GradientCollector, GradientStats, TelemetryConfig


@pytest.fixture
def stream() -> list[GradientStats]:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1)).double()
    collector = GradientCollector(
        model.named_parameters(), {"host": ["0"], "seed": ["1"]}, TelemetryConfig(zero_every=1)
    )
    taken = []
    for step, special in ((1, 1.0), (11, 1.0), (21, math.nan), (31, 1e200)):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        model[0].weight.grad[0, :2] = special
        if math.isnan(special):
            model[1].bias.grad[0] = -math.inf
        taken.append(collector.collect(step).materialize())
    return taken
