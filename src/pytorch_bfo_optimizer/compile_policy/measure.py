"""Times of a training step in eager and compiled, in blocks that take turns; what is touched is put back by others.

Blocks are at least 10 ms long: a single short step says more of the clock than of the code. Under DDP the first
process decides how many steps a block has, since all have to do the same.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from pytorch_bfo_optimizer.compile_policy.applied import Applied, in_eager
from pytorch_bfo_optimizer.compile_policy.decision import Timings
from pytorch_bfo_optimizer.compile_policy.peers import Peers

BLOCK_S = 0.01
PAIRS = 7
WARM_UP = 3
"""Steps in eager before any is timed: the first makes the optimizer's state."""
SETTLE = 8
"""Compiled steps, at most, until two in a row compile nothing."""
MOST_STEPS = 1000
"""In a block."""


@dataclass(frozen=True)
class Stopwatch:
    """Times steps, which all of `peers` run."""

    clock: Callable[[], float]
    peers: Peers

    def time(self, step: Callable[[], Any], count: int = 1) -> float:
        """Return the mean time of so many steps in a row."""
        _finish()
        start = self.clock()
        for _ in range(count):
            step()
        _finish()
        return (self.clock() - start) / count


def eager_time(applied: Applied, step: Callable[[], Any], watch: Stopwatch) -> float:
    """Return the median time of a step in eager."""
    with in_eager(applied):
        times = [watch.time(step) for _ in range(2 * WARM_UP)]
    return watch.peers.first(statistics.median(times[WARM_UP:]))


def timings(applied: Applied, step: Callable[[], Any], watch: Stopwatch, *, first_s: float, t_eager: float) -> Timings:
    """Return interleaved times, with what the compiling calls took.

    Args:
        applied: switched on, and run compiled once.
        step: one full training step.
        watch: times it.
        first_s: what that first compiled step took.
        t_eager: about what a step takes, in seconds.
    """
    first, calls = _settled(applied, step, watch, first_s)
    count = watch.peers.first(max(1, min(MOST_STEPS, round(BLOCK_S / max(t_eager, 1e-9)))))
    eager: list[float] = []
    compiled: list[float] = []
    for pair in range(PAIRS):
        for in_turn in (True, False) if pair % 2 else (False, True):
            if in_turn:
                compiled.append(watch.time(step, count))
            else:
                with in_eager(applied):
                    eager.append(watch.time(step, count))
    return watch.peers.first(Timings(tuple(eager), tuple(compiled), first, calls))


def _settled(applied: Applied, step: Callable[[], Any], watch: Stopwatch, first_s: float) -> tuple[float, int]:
    """Run compiled steps until no more is compiled; return what all up to the last that compiled took, and how many."""
    times, compiling, quiet = [first_s], 1, 0
    while quiet < 2 and len(times) <= SETTLE:
        before = applied.audit.times_compiled
        times.append(watch.time(step))
        quiet = quiet + 1 if watch.peers.all(applied.audit.times_compiled == before) else 0
        compiling = compiling if quiet else len(times)
    return sum(times[:compiling]), compiling


def _finish() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
