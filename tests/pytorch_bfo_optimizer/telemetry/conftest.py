"""The independent twin that the telemetry is held against, and parameters with gradients of any kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Twin:
    """What one gradient holds, counted one Python number at a time."""

    norm: float
    zeros: int
    nan: int
    inf: int

    @classmethod
    def of(cls, gradient: Tensor) -> Twin:
        elements = gradient.detach().to_dense() if gradient.layout is not torch.strided else gradient.detach()
        parts = [[z.real, z.imag] if isinstance(z, complex) else [z] for z in elements.flatten().tolist()]
        values = [value for part in parts for value in part]
        return cls(
            slow_norm(values),
            zeros=sum(value == 0 for value in values),
            nan=sum(value != value for value in values),
            inf=sum(value in (math.inf, -math.inf) for value in values),
        )


def slow_norm(values: list[float]) -> float:
    """Return the Euclidean norm: exactly summed, of numbers divided by the greatest."""
    if any(value != value for value in values):
        return math.nan
    greatest = max(map(abs, values), default=0.0)
    if greatest == 0 or math.isinf(greatest):
        return greatest
    return greatest * math.sqrt(math.fsum((value / greatest) ** 2 for value in values))


@pytest.fixture
def twin() -> Callable[[Tensor], Twin]:
    return Twin.of


@pytest.fixture
def parameters() -> Callable[[Mapping[str, Tensor | None]], dict[str, Tensor]]:
    """Return a parameter with each gradient, by name."""

    def make(gradients: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
        made = {}
        for name, gradient in gradients.items():
            shape, dtype = ((2,), torch.float32) if gradient is None else (gradient.shape, gradient.dtype)
            made[name] = nn.Parameter(torch.zeros(shape, dtype=dtype))
            made[name].grad = gradient
        return made

    return make


def randn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture
def mixed() -> dict[str, Tensor]:
    """Return gradients of several dtypes, sizes and layouts."""
    return {
        "scalar": randn(seed=1),
        "row": randn(1024, seed=2),
        "row and more": randn(1025, seed=3),
        "wide": randn(3, 2000, seed=4),
        "half": randn(33, 40, seed=5).half(),
        "bfloat16": randn(70_000, seed=6).bfloat16(),
        "double": randn(5, 300, dtype=torch.float64, seed=7),
        "channels-last": randn(4, 3, 9, 9, seed=8).to(memory_format=torch.channels_last),
        "transposed": randn(40, 50, seed=9).t(),
    }
