"""Whether the optimizers of a run could move anything. Reads the record alone: no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bfo_diag.findings import catalogue
from bfo_diag.records import Finding, Run


def judge(run: Run) -> Iterator[Finding]:
    """Yield that no optimizer ever stepped, or none with a learning rate."""
    steps = [(number, observation.values) for number, observation in run.of_kind("step")]
    lines = tuple(number for number, _ in steps)
    # (A log of an older version does not say all of this.)
    stepped = sum(values.get("optimizer_steps", 0) for _, values in steps)
    if stepped and stepped == sum(values.get("idle_steps", 0) for _, values in steps):
        yield catalogue()["OPTIMIZER-LR-ZERO"].finding(
            f"the learning rate was 0 in every group, at each of {stepped} optimizer steps.", evidence=lines
        )
    if not stepped and _throws_gradients_away([values for _, values in steps]):
        yield catalogue()["OPTIMIZER-NEVER-STEPPED"].finding(
            f"each of {len(steps)} steps ran backward() and cleared the gradients of the one before; no optimizer "
            "stepped, and no parameter has moved.",
            evidence=lines,
        )


def _throws_gradients_away(steps: list[Mapping[str, Any]]) -> bool:
    """Whether gradients were made and cleared, and nothing moved what an optimizer holds.

    A GradScaler leaves out the steps of its optimizer while it looks for a scale.
    """
    later = steps[1:]  # the first has nothing before it
    idle = all(values.get("moved") is False and values.get("gradients_dropped") for values in later)
    return bool(later) and idle and all(v.get("backward_by") == "target" and not v.get("scaled") for v in steps)
