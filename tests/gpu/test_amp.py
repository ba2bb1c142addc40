"""float16 on a CUDA device, with a scaler for the gradient. Skipped, by name, without one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bfo_diag.cases.digits_mlp import digits
from pytorch_bfo_optimizer import HybridBFO
from pytorch_bfo_optimizer.amp import scaled

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def test_float16_trains_from_a_scale_that_overflows() -> None:
    images, labels = (each[:256].cuda() for each in digits())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10)).cuda()
    optimizer, scaler = HybridBFO(model.parameters()), torch.amp.GradScaler("cuda", init_scale=2.0**40)
    guided: list[bool] = []
    optimizer.on_step.append(lambda record: guided.append(record.used_gradient))

    def closure() -> Tensor:
        with torch.autocast("cuda", torch.float16):
            return cross_entropy(model(images), labels)

    losses = [optimizer.step(scaled(closure, scaler, optimizer)) for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]
    assert guided[:5] == [True] * 5
    assert 1 < scaler.get_scale() < 2.0**30
