"""Which levels go together: cells of a grid, rows of an orthogonal array, or what a trial of Optuna suggests."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from itertools import combinations, product
from typing import Any, Protocol

from bfo_diag.errors import DiagError
from bfo_diag.probes.sweep import arrays
from bfo_diag.probes.sweep.factors import Factor, Levels
from bfo_diag.probes.sweep.spec import MOST_ARMS, Spec
from bfo_diag.records import JSONValue


class Suggesting(Protocol):
    """What is asked of an `optuna.Trial`."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """Return one of the choices."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """Return a whole number, both ends included."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Return a number, both ends included."""


def cells(spec: Spec) -> tuple[Levels, ...]:
    """Return what is known to be tried, in its order; nothing where a sampler suggests it.

    Raises:
        DiagError: no array fits, or the grid is larger than `MOST_ARMS`.
    """
    if spec.sampler == "grid":
        return tuple(_grid(spec))
    return tuple(_rows(spec)) if spec.sampler == "taguchi" else ()


def _grid(spec: Spec) -> Iterator[Levels]:
    """Yield every combination; the last factor changes first."""
    levels = {factor.name: factor.corners for factor in spec.factors}
    count = math.prod(map(len, levels.values()))
    if count > MOST_ARMS:
        raise DiagError(
            f"{spec.file}: the grid has {count} cells, and {MOST_ARMS} are the most",
            mend='take fewer levels, or sampler = "taguchi", or "random" or "tpe" with trials',
        )
    for cell in product(*levels.values()):
        yield dict(zip(levels, cell, strict=True))


def array(spec: Spec) -> tuple[str, tuple[tuple[int, ...], ...]] | None:
    """Return the name of the orthogonal array and for each of its rows the index of each factor's level.

    A factor of one level needs no column. None where the sampler is another one.

    Raises:
        DiagError: no array fits.
    """
    if spec.sampler != "taguchi":
        return None
    counts = {factor.name: len(factor.corners) for factor in spec.factors}
    varied = [name for name, count in counts.items() if count > 1]
    try:
        found, columns = arrays.fitted([counts[name] for name in varied], spec.array)
    except DiagError as error:
        raise DiagError(f"{spec.file}: {error.message}", mend=error.mend) from error
    column_of = dict(zip(varied, columns, strict=True))
    rows = (
        tuple(row[column_of[name]] % count if name in column_of else 0 for name, count in counts.items())
        for row in found.rows
    )
    return found.name, tuple(rows)


def _rows(spec: Spec) -> Iterator[Levels]:
    found = array(spec)
    for row in () if found is None else found[1]:
        yield {factor.name: factor.corners[index] for factor, index in zip(spec.factors, row, strict=True)}


def pairs(spec: Spec) -> Iterator[Levels]:
    """Yield each level of each factor beside each level of each other one, the rest at their first.

    Of a range both ends. A sampler may suggest any of these, and what does not go together mostly is a pair.
    """
    first = {factor.name: factor.corners[0] for factor in spec.factors}
    if len(spec.factors) == 1:
        yield from ({**first, spec.factors[0].name: level} for level in spec.factors[0].corners)
    for one, other in combinations(spec.factors, 2):
        for level, beside in product(one.corners, other.corners):
            yield {**first, one.name: level, other.name: beside}


def suggest(spec: Spec, trial: Suggesting) -> Levels:
    """Return the levels that a trial of Optuna tries."""
    return {factor.name: _suggested(factor, trial) for factor in spec.factors}


def _suggested(factor: Factor, trial: Suggesting) -> JSONValue:
    if factor.values is not None:
        choices = _choices(factor.values)
        return choices[trial.suggest_categorical(factor.name, list(choices))]
    assert factor.low is not None
    assert factor.high is not None
    if isinstance(factor.low, int) and isinstance(factor.high, int):
        return trial.suggest_int(factor.name, factor.low, factor.high, log=factor.log)
    return trial.suggest_float(factor.name, factor.low, factor.high, log=factor.log)


def _choices(values: tuple[JSONValue, ...]) -> Mapping[str | float, JSONValue]:
    """Return the levels by what Optuna is told of them: themselves where all are texts or numbers, else as JSON.

    It stores texts, numbers and switches, and takes true for 1.
    """
    if all(isinstance(value, str) for value in values) or all(type(value) in (int, float) for value in values):
        return {value: value for value in values}
    return {json.dumps(value, sort_keys=True): value for value in values}
