"""The 64-32-10 MLP on all 1797 digits: the losses of many weight vectors at once, float32."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

SIZES = 64, 32, 10
DIMENSION = 64 * 32 + 32 + 32 * 10 + 10
BUDGET = 19_200
POPULATION = 64


@lru_cache(maxsize=1)
def digits() -> tuple[Tensor, Tensor]:
    """Images (1797, 64) in [0, 1] and labels (1797,)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.as_tensor(data.data / 16.0, dtype=torch.float32), torch.as_tensor(data.target, dtype=torch.int64)


def model(seed: int) -> nn.Sequential:
    """The MLP (tanh) with torch's default initialisation."""
    inputs, hidden, classes = SIZES
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, classes))


def start(seed: int) -> Tensor:
    """The parameters of a fresh model as one vector (D,)."""
    return torch.cat([parameter.detach().flatten() for parameter in model(seed).parameters()])


def losses(pop_PD: Tensor) -> Tensor:
    """Mean cross-entropy (P,) over all rows, for weight vectors (P, D) in the order of `model().parameters()`."""
    inputs, hidden, classes = SIZES
    images, labels = digits()
    count = len(pop_PD)
    first, first_bias, second, second_bias = pop_PD.split([inputs * hidden, hidden, hidden * classes, classes], dim=1)
    first = first.reshape(count * hidden, inputs)
    features = torch.addmm(first_bias.reshape(-1), images, first.T).tanh().reshape(-1, count, hidden).transpose(0, 1)
    scores = torch.baddbmm(second_bias.unsqueeze(1), features, second.reshape(count, classes, hidden).transpose(1, 2))
    hits = scores.gather(2, labels.expand(count, -1).unsqueeze(2)).squeeze(2)
    return (scores.logsumexp(2) - hits).mean(1)


class BestLoss:
    """Evaluates and counts; keeps the lowest loss of the first `BUDGET` evaluations."""

    def __init__(self) -> None:
        self.best, self.evaluations = math.inf, 0

    def __call__(self, pop_PD: Tensor) -> Tensor:
        """`losses(pop_PD)`, of any floating dtype."""
        with torch.no_grad():
            values_P = losses(pop_PD.detach().float())
        left = max(BUDGET - self.evaluations, 0)
        counted_P = values_P[:left]
        counted_P = counted_P[counted_P.isfinite()]
        if len(counted_P):
            self.best = min(self.best, float(counted_P.min()))
        self.evaluations += len(values_P)
        return values_P

    @property
    def spent(self) -> bool:
        """Whether the next evaluation would not count."""
        return self.evaluations >= BUDGET

    def look_at(self, point_D: Tensor) -> None:
        """Take a searcher's final mean into account, beyond the budget: it is often better than its samples."""
        value = float(losses(point_D.detach().float().reshape(1, -1)))
        self.best = min(self.best, value)
