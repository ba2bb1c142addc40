"""Rosenbrock's valley in four dimensions, f(x) = sum_i 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2, minimum 0 at 1."""

from __future__ import annotations

import torch
from torch import Tensor

from bfo_diag.cases.workload import Workload, adam_case
from bfo_diag.records import Case

NAME = "rosenbrock"


def rosenbrock(x: Tensor) -> Tensor:
    """Return f of points (..., D); Rosenbrock (1960), The Computer Journal 3(3)."""
    a, b = x[..., :-1], x[..., 1:]
    return (100.0 * (b - a**2) ** 2 + (1.0 - a) ** 2).sum(-1)


def workload(*, device: str = "cpu", seed: int = 0) -> Workload:
    """Return the valley from near its usual start (-1.2, 1, -1.2, 1), its first two coordinates as the trunk."""
    jitter = 0.05 * torch.rand(4, generator=torch.Generator().manual_seed(seed))
    start = (torch.tensor([-1.2, 1.0, -1.2, 1.0]) + jitter).to(device)
    first, last = torch.nn.Parameter(start[:2].clone()), torch.nn.Parameter(start[2:].clone())
    return Workload(
        name=NAME,
        trunk_parameters={"first": first},
        head_parameters={"last": last},
        trunk=lambda part: first * 1.0,
        head=lambda features, part: rosenbrock(torch.cat([features, last])),
        parts=2,
    )


def train_step(device: str = "cpu") -> Case:
    """Return an ordinary Adam step down the valley."""
    return adam_case(workload(device=device), lr=1e-2)
