"""Hooks for `optimizer.on_step` that show what a colony does: written to a file, or kept in memory and drawn.

::

    tracker = MetricsTracker()
    with JSONLinesSink("runs/today/steps.jsonl") as lines:
        optimizer.on_step += [tracker, lines]
        train()
    tracker.plot().savefig("runs/today/colony.png")

No framework is imported here. TensorBoard and Weights & Biases are in `adapters`: `TensorBoardStepSink`,
`WandbStepSink`.
"""

from pytorch_bfo_optimizer.monitors.jsonl import JSONLinesSink
from pytorch_bfo_optimizer.monitors.sink import StepSink
from pytorch_bfo_optimizer.monitors.tracker import MetricsTracker

__all__ = ["JSONLinesSink", "MetricsTracker", "StepSink"]
