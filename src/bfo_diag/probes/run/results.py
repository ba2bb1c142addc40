"""What the record of a training says, put together: folds with their epochs, compile, gradients. Needs no torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from bfo_diag.records import JSONValue, Run

Line = tuple[int, Mapping[str, JSONValue]]
"""The number of a line of the log, from 1, and the values on it."""


@dataclass(frozen=True)
class Fold:
    """One fold: its epochs in their order, and how it ended."""

    number: int
    epochs: tuple[Line, ...]
    end: Line | None
    """None where the run ended before the fold did."""

    @property
    def best(self) -> Line | None:
        """The epoch whose weights were kept; None where no validation loss was finite."""
        kept = None if self.end is None else self.end[1]["best_epoch"]
        finite = [line for line in self.epochs if math.isfinite(line[1]["val_loss"])]
        if self.end is not None:
            return next((line for line in finite if line[1]["epoch"] == kept), None)
        return min(finite, key=lambda line: line[1]["val_loss"], default=None)

    @property
    def lines(self) -> tuple[int, ...]:
        """The lines that prove it."""
        return (*(number for number, _ in self.epochs), *(() if self.end is None else (self.end[0],)))


@dataclass(frozen=True)
class Spread:
    """A figure over folds: mean and standard deviation (of a sample); None for the latter where there is one fold."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: list[float]) -> Spread | None:
        """Return it, None where there is no value."""
        if not values:
            return None
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def folds(run: Run) -> list[Fold]:
    """Return the folds that have an epoch."""
    epochs: dict[int, dict[int, Line]] = {}
    for number, observation in run.of_kind("epoch"):
        values = observation.values
        epochs.setdefault(values["fold"], {})[values["epoch"]] = (number, values)
    ends = {o.values["fold"]: (number, o.values) for number, o in run.of_kind("fold_end")}
    return [Fold(index, tuple(found.values()), ends.get(index)) for index, found in sorted(epochs.items())]


def compiled(run: Run) -> list[Line]:
    """Return what became of compile in each fold where it was asked for, as it was told last."""
    last = {o.values["fold"]: (number, o.values) for number, o in run.of_kind("compile_report")}
    return [line for _, line in sorted(last.items())]


def declined(report: Mapping[str, JSONValue]) -> str:
    """Return why "auto" decided to train eagerly; an empty text where it did not, or was not asked."""
    decision = report["decision"] if report["asked"] == "auto" else None
    return decision["why"] if decision is not None and not decision["use_compile"] else ""


def recipe(run: Run) -> Mapping[str, JSONValue]:
    """Return the recipe as it was run, empty where it could not be read."""
    return next((o.values["recipe"] for _, o in run.of_kind("recipe")), {})


def over_folds(found: list[Fold], figure: str) -> Spread | None:
    """Return a figure of the best epoch of each fold that came to its end, over these folds."""
    return Spread.of([fold.best[1][figure] for fold in found if fold.end is not None and fold.best is not None])
