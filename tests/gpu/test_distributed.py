"""A shared colony on a CUDA device, and memory that really runs out there. Skipped, by name, without one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pytorch_bfo_optimizer import BFO, FunctionObjective

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
PROGRAMS = Path(__file__).parents[1] / "pytorch_bfo_optimizer" / "rank_programs.py"


def train(size: int, **options: Any) -> list[dict[str, Any]]:
    asked = {"program": "train", "size": size, "seconds": 100, "stuck": [], "device": "cuda", **options}
    ran = subprocess.run(
        [sys.executable, str(PROGRAMS)], input=json.dumps(asked) + "\n", capture_output=True, text=True, timeout=200
    )
    assert ran.returncode == 0, ran.stderr
    found: list[dict[str, Any]] = json.loads(ran.stdout)
    for facts in found:
        assert "failed" not in facts, facts["failed"]
        facts.pop("calls")
    return found


@pytest.mark.parametrize("options", [{"cls": "BFO"}, {"cls": "HybridBFO"}, {"cls": "BFO", "batched": True}])
def test_two_ranks_on_the_device_find_what_one_process_finds(options: dict[str, Any]) -> None:
    (alone,) = train(1, shared=False, chunk_size=3, **options)
    assert train(2, chunk_size=3, **options) == [alone, alone]


def test_a_job_of_nccl_shares_its_colony_too() -> None:
    (alone,) = train(1, shared=False, cls="HybridBFO", norm=True)
    assert train(1, cls="HybridBFO", norm=True, ddp=True, backend="nccl") == [alone]


def test_a_population_that_does_not_fit_on_the_device_is_evaluated_in_chunks() -> None:
    param, rows = torch.full((3,), 2.0, device="cuda"), []

    def fn(x_PD: Tensor) -> Tensor:
        rows.append(len(x_PD))
        third = torch.cuda.get_device_properties(0).total_memory // 3
        torch.empty(len(x_PD), third, dtype=torch.uint8, device="cuda")
        return (x_PD**2).sum(dim=1)

    optimizer = BFO([param], population_size=8, swim_length=1)
    optimizer.step(FunctionObjective(fn))
    optimizer.step(FunctionObjective(fn))
    assert rows == [8, 4] + [2] * 16
