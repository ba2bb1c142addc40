"""Gradient health of a training step: norms, vanishing and exploding layers, zeros, NaN and Inf, by tensor.

`collector` queues the work, `norms` does it, `stats` says what came of it, `watch` does both at an optimizer's steps
(`closures`: during them); `names` and `samples` settle whose gradients these are, and of which kinds.
"""

from pytorch_bfo_optimizer.telemetry.collector import GradientCollector, PendingStats
from pytorch_bfo_optimizer.telemetry.stats import (
    EXPLODING_NORM,
    EXPLODING_WEIGHT,
    VANISHING_NORM,
    VANISHING_WEIGHT,
    GradientStats,
    GradientStatsDict,
    GroupStats,
    TelemetryConfig,
    health,
)
from pytorch_bfo_optimizer.telemetry.watch import GradientWatch, Sink

__all__ = [
    "EXPLODING_NORM",
    "EXPLODING_WEIGHT",
    "VANISHING_NORM",
    "VANISHING_WEIGHT",
    "GradientCollector",
    "GradientStats",
    "GradientStatsDict",
    "GradientWatch",
    "GroupStats",
    "PendingStats",
    "Sink",
    "TelemetryConfig",
    "health",
]
