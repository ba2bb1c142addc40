"""Records as a training gives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pytorch_bfo_optimizer import StepRecord


@pytest.fixture
def record() -> Callable[..., StepRecord]:
    """Make the record of a generation, its numbers after its generation where they are not given."""

    def make(generation: int, **told: Any) -> StepRecord:
        values: dict[str, Any] = {
            "generation": generation,
            "phase": "generation",
            "evaluations": 4,
            "evaluations_total": 4 * generation,
            "loss": 2.0 / generation,
            "best_loss": 1.0 / generation,
            "losses": torch.tensor([2.0, 3.0], dtype=torch.float64) / generation,
            "nonfinite": 0,
            "nonfinite_total": 0,
            "improved": 1,
            "diversity": 0.1 * generation,
            "step_size": 0.1 / generation,
            "reproduced": False,
            "dispersed": 0,
            "used_gradient": False,
        }
        return StepRecord(**{**values, **told})

    return make
