"""Problems and recorders that the library's tests share."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

Job = Callable[..., list[dict[str, Any]]]


@dataclass
class Bowl:
    """(x - 1)^2 summed over parameters of several shapes; counts its calls and records every position."""

    params: list[Tensor]
    calls: int = 0
    positions: list[Tensor] = field(default_factory=list)

    def loss(self) -> Tensor:
        self.calls += 1
        self.positions.append(torch.cat([param.detach().reshape(-1) for param in self.params]).clone())
        return sum(((param - 1) ** 2).sum() for param in self.params)

    def __call__(self) -> Tensor:
        return self.loss()

    def training_closure(self) -> float:
        """Zeroes the gradients, calls backward, returns a float: the closure of an ordinary training step."""
        for param in self.params:
            if param.grad is not None:
                param.grad.zero_()
        loss = self.loss()
        loss.backward()
        return loss.item()


@pytest.fixture
def make_bowl() -> Callable[..., Bowl]:
    def make(*, requires_grad: bool = True, shapes: Any = ((3,), (2, 2), ()), dtype: Any = torch.float32) -> Bowl:
        source = torch.Generator().manual_seed(5)
        return Bowl(
            [
                torch.randn(shape, generator=source, dtype=torch.float64).to(dtype).requires_grad_(requires_grad)
                for shape in shapes
            ]
        )

    return make


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def job() -> Iterator[Job]:
    """Run a program on some ranks, and return what each found; None of them outlives `seconds`."""
    command = [sys.executable, "-W", "error", str(Path(__file__).with_name("rank_programs.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def run(
            program: str, *, size: int = 2, seconds: float = 30.0, stuck: Sequence[int] = (), **options: Any
        ) -> list[dict[str, Any]]:
            assert process.stdin is not None
            assert process.stdout is not None
            asked = {"program": program, "size": size, "seconds": seconds, "stuck": stuck, **options}
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()
            found: list[dict[str, Any]] = json.loads(process.stdout.readline())
            for facts in found:
                assert "failed" not in facts, facts["failed"]
            return found

        yield run
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="session")
def alone(job: Job) -> Callable[..., dict[str, Any]]:
    """What one process without `distribute` finds, asked once of each."""
    found: dict[str, dict[str, Any]] = {}

    def train(**options: Any) -> dict[str, Any]:
        key = json.dumps(options)
        if key not in found:
            (found[key],) = job("train", size=1, shared=False, **options)
        return found[key]

    return train
