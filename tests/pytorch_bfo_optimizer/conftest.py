"""Problems and recorders that the library's tests share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor


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
