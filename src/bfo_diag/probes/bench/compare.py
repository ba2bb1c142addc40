"""Whether two runs of the same steps came to the same state. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

TOLERANCE = 1e-5
"""Relative difference that is always allowed."""
FACTOR = 10.0
"""And this many times what eager itself differs from the float64 reference."""
ILL_CONDITIONED = 1e-2
"""Where eager differs so much from float64, rounding decides, and no mode can be told right from wrong."""
WITHOUT_REFERENCE = 1e-3
"""The tolerance where there is no reference, against eager."""

State = Mapping[str, "np.ndarray[Any, Any]"]


def load(path: Path) -> State | None:
    """Return a saved state, None where the run did not come so far."""
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as saved:
        return {name: saved[name] for name in saved.files}


def differences(state: State, other: State) -> dict[str, float]:
    """Return for each tensor ||a - b|| / ||b||; what only one holds, or holds otherwise, is infinitely different."""
    return {name: _relative(state.get(name), other.get(name)) for name in sorted(set(state) | set(other))}


def _relative(first: np.ndarray[Any, Any] | None, second: np.ndarray[Any, Any] | None) -> float:
    if first is None or second is None or first.shape != second.shape:
        return float("inf")
    if (np.isfinite(first) != np.isfinite(second)).any():
        return float("inf")
    finite = np.isfinite(second)
    scale, apart = float(np.linalg.norm(second[finite])), float(np.linalg.norm(first[finite] - second[finite]))
    return apart / scale if scale > 0 else (0.0 if apart == 0 else float("inf"))


@dataclass(frozen=True)
class Judgement:
    """Whether a mode came to the state that it should: the tensor that is furthest beyond what it may differ."""

    ok: bool | None
    difference: float = 0.0
    where: str = ""
    tolerance: float = 0.0
    eager_difference: float | None = None
    ill_conditioned: int = 0
    """Tensors that eager itself can't reproduce in float64 (a gradient that is mathematically zero): not judged."""
    why: str = ""


def judge(mode: State, eager: State, reference: State | None) -> Judgement:
    """Compare a mode with the float64 reference, each tensor within what eager differs from it there.

    Without a reference, with eager.
    """
    if not eager:
        return Judgement(None, why="the step returns and trains nothing that can be compared")
    if reference is None:
        apart = differences(mode, eager)
        where = max(apart, key=lambda name: apart[name])
        return Judgement(apart[where] <= WITHOUT_REFERENCE, apart[where], where, WITHOUT_REFERENCE)
    of_eager, of_mode = differences(eager, reference), differences(mode, reference)
    judged = {name: value for name, value in of_mode.items() if of_eager.get(name, 0.0) <= ILL_CONDITIONED}
    if not judged:
        return Judgement(None, ill_conditioned=len(of_mode), why="eager itself differs from float64 in every tensor")
    allowed = {name: max(TOLERANCE, FACTOR * of_eager.get(name, 0.0)) for name in judged}
    where = max(judged, key=lambda name: judged[name] / allowed[name])
    return Judgement(
        ok=judged[where] <= allowed[where],
        difference=judged[where],
        where=where,
        tolerance=allowed[where],
        eager_difference=of_eager.get(where),
        ill_conditioned=len(of_mode) - len(judged),
    )
