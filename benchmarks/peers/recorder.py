"""What counts evaluations, keeps the best gap at each checkpoint, and stops an optimizer that would go on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from peers.functions import Array, Problem

SOLVED = 1e-8
"""A gap at or below this counts as solved, as in the CEC competitions."""


class Stop(Exception):  # noqa: N818 - it is no error
    """The budget is spent, or the problem is solved; raised out of an evaluation, through the optimizer."""


class Recorder:
    """Evaluates a problem for one optimizer: one position or many, numpy or torch.

    Not one evaluation is made beyond the last checkpoint: of a batch that does not fit, the first rows are
    evaluated and counted, and then `Stop` is raised.
    """

    def __init__(self, problem: Problem, checkpoints: Sequence[int]) -> None:
        self.problem, self.checkpoints = problem, sorted(checkpoints)
        self.budget = self.checkpoints[-1]
        self.evaluations, self.best = 0, math.inf
        self.solved_at: int | None = None
        self._at: dict[int, float] = {}

    def gaps(self) -> dict[int, float]:
        """The best gap at each checkpoint; one who ended before a checkpoint keeps what it had."""
        return {checkpoint: self._at.get(checkpoint, self.best) for checkpoint in self.checkpoints}

    def single(self, x: Array) -> float:
        """The value of one position (D,); the fast path of callers that have no batches."""
        if self.evaluations >= self.budget:
            raise Stop("budget")
        value = float(self.problem.numpy(np.asarray(x, dtype=np.float64)))
        self.evaluations += 1
        if value < self.best:
            self.best = value
        if self.evaluations in self.checkpoints or value <= SOLVED:
            self._take_stock([value])
        return value

    def torch(self, pop_PD: Any) -> Any:
        """Values (P,) of positions (P, D), as tensors."""
        import torch

        fitting = pop_PD[: self.budget - self.evaluations]
        with torch.no_grad():
            values_P = self.problem.torch(fitting.detach())
        self._count(values_P.tolist())
        return values_P

    def _count(self, values: list[float]) -> None:
        began, self.evaluations = self.evaluations, self.evaluations + len(values)
        for checkpoint in self.checkpoints:
            if began < checkpoint <= self.evaluations:
                self._at[checkpoint] = min([self.best, *values[: checkpoint - began]])
        self.best = min([self.best, *values])  # a NaN that does not come first loses
        if self.best <= SOLVED or self.evaluations >= self.budget:
            self._take_stock(values)

    def _take_stock(self, values: list[float]) -> None:
        """Note what the last values, already counted, brought; stop if there is nothing left to do."""
        if self.evaluations in self.checkpoints:
            self._at[self.evaluations] = self.best
        if self.best <= SOLVED:
            first = next(index for index, value in enumerate(values) if value <= SOLVED)
            self.solved_at = self.evaluations - len(values) + first + 1
            raise Stop("solved")
        if self.evaluations >= self.budget:
            raise Stop("budget")
