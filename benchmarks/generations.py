"""What the benchmarks of single generations share: a batched network, the generation of a drift, sides timed in turn.

Not a benchmark itself. A side is a call that is timed; all sides of a comparison run in one process, block after block,
the order of each round the reverse of the one before.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bfo_diag.cases.digits_mlp import digits
from pytorch_bfo_optimizer import covariance, momentum

Losses = Callable[[Tensor], Tensor]
"""Positions (P, D) -> losses (P,)."""
Timer = Callable[[Callable[[], object], int], float]
"""(side, calls) -> seconds of one call."""


class Network:
    """A tanh MLP on the bundled digits: the mean cross-entropy of many weight vectors at once, float32.

    A weight vector has the order of `nn.Linear.parameters()`, layer by layer.
    """

    def __init__(self, sizes: Sequence[int], device: torch.device, *, rows: int | None = None) -> None:
        images, labels = digits()
        self.sizes = tuple(sizes)
        self.images, self.labels = images[:rows].to(device), labels[:rows].to(device)
        self.layers = list(zip(self.sizes[:-1], self.sizes[1:], strict=True))
        self.pieces = [size for inputs, outputs in self.layers for size in (inputs * outputs, outputs)]
        self.dimension = sum(self.pieces)

    def start(self, seed: int = 0) -> Tensor:
        """The weights (D,) of a fresh network, torch's default initialisation."""
        source = torch.Generator().manual_seed(seed)
        reach_D = torch.cat(
            [torch.full(((inputs + 1) * outputs,), 1 / math.sqrt(inputs)) for inputs, outputs in self.layers]
        )
        return ((2 * torch.rand(self.dimension, generator=source) - 1) * reach_D).to(self.images.device)

    def losses(self, pop_PD: Tensor) -> Tensor:
        """Losses (P,) over all rows."""
        count, features_PNI = len(pop_PD), self.images.expand(len(pop_PD), -1, -1)
        weights = pop_PD.split(self.pieces, dim=1)
        for index, (inputs, outputs) in enumerate(self.layers):
            weight_PIO = weights[2 * index].view(count, outputs, inputs).transpose(1, 2)
            features_PNI = torch.baddbmm(weights[2 * index + 1].unsqueeze(1), features_PNI, weight_PIO)
            if index < len(self.layers) - 1:
                features_PNI = features_PNI.tanh()
        hits_PN = features_PNI.gather(2, self.labels.expand(count, -1).unsqueeze(2)).squeeze(2)
        return (features_PNI.logsumexp(2) - hits_PN).mean(1)


def sphere(pop_PD: Tensor) -> Tensor:
    """Losses (P,): the cheapest function there is, so that a generation's own work is what is seen."""
    return (pop_PD * pop_PD).sum(1)


# --- a generation, as the seasons make it: noise in, drift out; without bounds, groups and bookkeeping ---


def momentum_generation(losses: Losses) -> Callable[[momentum.Drift, momentum.Pairs, Tensor], momentum.Drift]:
    """Spread, evaluate, learn, as one pure function of drift, pairs and noise (P / 2, D)."""

    def generation(drift: momentum.Drift, by: momentum.Pairs, noise_HD: Tensor) -> momentum.Drift:
        loss_P = finite(losses(momentum.spread(drift, by, noise_HD)))
        return momentum.learn(drift, by, noise_HD, loss_P)

    return generation


def covariance_generation(
    losses: Losses, by: covariance.Rates, *, age: int
) -> Callable[[covariance.Drift, Tensor], covariance.Drift]:
    """The same of the covariance drift, noise (P, D); `age` says whether C is factorised."""

    def generation(drift: covariance.Drift, noise_PD: Tensor) -> covariance.Drift:
        noise_PD = noise_PD.to(drift.centre.dtype)
        tumble_PD, position_PD = covariance.spread(drift, noise_PD)
        loss_P = finite(losses(position_PD.float()))
        return covariance.learn(drift, by, noise_PD, tumble_PD, loss_P, age=age)

    return generation


def finite(loss_P: Tensor) -> Tensor:
    """Losses as a season is given them: float64, +inf where not finite."""
    return torch.nan_to_num(loss_P.double(), nan=math.inf, posinf=math.inf, neginf=math.inf)


# --- sides in turn ---


class Quartiles(NamedTuple):
    """Of the blocks of one side, or of ratios round by round."""

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Quartiles:
        """At least two values."""
        return cls(*statistics.quantiles(values, n=4, method="inclusive"))

    def shown(self, form: str = ".2f") -> str:
        """The median, and the quartiles in brackets."""
        return f"{self.middle:{form}} ({self.low:{form}} to {self.high:{form}})"


@dataclass(frozen=True)
class Times:
    """Seconds of one call in each block, side by side; a side has the same number of blocks as any other."""

    blocks: Mapping[str, Sequence[float]]

    def of(self, side: str) -> Quartiles:
        """Seconds of one call."""
        return Quartiles.of(self.blocks[side])

    def ratio(self, side: str, to: str) -> Quartiles:
        """What a call takes, in calls of another side in the same round."""
        return Quartiles.of([a / b for a, b in zip(self.blocks[side], self.blocks[to], strict=True)])

    def beyond(self, side: str, to: str) -> Quartiles:
        """Seconds that a call takes beyond one of another side in the same round."""
        return Quartiles.of([a - b for a, b in zip(self.blocks[side], self.blocks[to], strict=True)])


def in_turn(sides: Mapping[str, Callable[[], object]], timer: Timer, *, rounds: int, block_s: float) -> Times:
    """Time all sides, `rounds` blocks each of at least about `block_s` seconds, after one that is thrown away."""
    calls = {name: max(1, math.ceil(block_s / max(timer(side, 1), 1e-7))) for name, side in sides.items()}
    found: dict[str, list[float]] = {name: [] for name in sides}
    for index in range(-1, rounds):
        for name in sides if index % 2 else reversed(sides):
            seconds = timer(sides[name], calls[name])
            if index >= 0:
                found[name].append(seconds)
    return Times(found)


def cpu_seconds(side: Callable[[], object], calls: int) -> float:
    """CPU time of this process: another one that waits for the core does not count."""
    began = time.process_time()
    for _ in range(calls):
        side()
    return (time.process_time() - began) / calls


def cuda_seconds(side: Callable[[], object], calls: int) -> float:
    """Time on the device between two events, gaps in which it waits for the host included."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    for _ in range(calls):
        side()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / calls


def report(facts: Mapping[str, Any], page: str, log: Path | None) -> None:
    """Print a table and one JSON line; append both to a file."""
    text = f"{page}\n{json.dumps(facts)}\n"
    print(text, end="", flush=True)
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            file.write(text)
