"""Measures the gradients of a training at every so many steps, as observations."""

from __future__ import annotations

import operator
from collections.abc import Iterator

from torch import Tensor

from bfo_diag.records import Observation
from bfo_diag.training.step import Step, Watch
from pytorch_bfo_optimizer.telemetry import GradientCollector, GradientStats


class Watcher:
    """Watches the steps of one fold, counted from 1: each `every`-th, and none where that is 0."""

    def __init__(self, step: Step, fold: int, *, every: int) -> None:
        self._model, self._fold, self._every = step.model, fold, every
        self._parameters: tuple[Tensor, ...] = ()
        self._seen: list[GradientStats] = []

    def at(self, number: int) -> Watch | None:
        """Return what a step has to call when its gradients are there, None where it is not watched."""
        if not self._every or number % self._every:
            return None
        present = tuple(self._model.parameters())
        if len(present) != len(self._parameters) or any(map(operator.is_not, present, self._parameters)):
            # (At the first step; and where neurons died or were born, the layer has other parameters.)
            self._parameters, self._collector = present, GradientCollector(self._model.named_parameters())
        collector = self._collector
        return lambda: self._seen.append(collector.collect(step=number).materialize())

    def observations(self) -> Iterator[Observation]:
        """Yield what was measured since."""
        seen, self._seen = self._seen, []
        for stats in seen:
            values = {
                "fold": self._fold,
                "step": stats.step,
                "total_norm": stats.total_norm,
                "health": stats.health,
                "status": stats.status,
                "nonfinite": list(stats.non_finite),
            }
            yield Observation("gradients", values)
