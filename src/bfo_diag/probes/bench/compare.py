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
WITHOUT_REFERENCE = 1e-3
"""The tolerance where there is no reference, against eager."""

State = Mapping[str, "np.ndarray[Any, Any]"]


@dataclass(frozen=True)
class Difference:
    """The largest relative difference of any tensor, ||a - b|| / ||b||, and the tensor it was seen in."""

    value: float
    where: str


def load(path: Path) -> State | None:
    """Return a saved state, None where the run did not come so far."""
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as saved:
        return {name: saved[name] for name in saved.files}


def difference(state: State, other: State) -> Difference:
    """Compare what both hold; what only one holds, or holds in another shape, is infinitely different."""
    worst = Difference(0.0, "")
    for name in sorted(set(state) | set(other)):
        if name not in state or name not in other or state[name].shape != other[name].shape:
            return Difference(float("inf"), name)
        first, second = state[name], other[name]
        unlike = np.isfinite(first) != np.isfinite(second)
        if unlike.any():
            return Difference(float("inf"), name)
        finite = np.isfinite(second)
        scale = float(np.linalg.norm(second[finite])) if finite.any() else 0.0
        apart = float(np.linalg.norm(first[finite] - second[finite])) if finite.any() else 0.0
        value = apart / scale if scale > 0 else (0.0 if apart == 0 else float("inf"))
        if value > worst.value:
            worst = Difference(value, name)
    return worst
