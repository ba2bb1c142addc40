"""The course of a training in memory: series of bounded length, their summary, and the rate at which losses fall."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from pytorch_bfo_optimizer.errors import TelemetryError
from pytorch_bfo_optimizer.monitors.rates import convergence_rates
from pytorch_bfo_optimizer.state import StepRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SERIES = ("generation", "evaluations", "loss", "best_loss", "lowest", "diversity", "step_size")


class MetricsTracker:
    """A hook for `optimizer.on_step` that keeps the course of a training, says what came of it, and draws it.

    ::

        tracker = MetricsTracker()
        optimizer.on_step.append(tracker)
        train()
        tracker.summary()["lowest"]
        tracker.plot().savefig("colony.png")

    `series` holds a point a step: `generation`, `evaluations` (so far), `loss`, `best_loss`, `diversity` and
    `step_size` as in `StepRecord`, NaN where there is none; and `lowest`, the lowest `best_loss` so far. On
    mini-batches that is the luckiest of them, and only the trend of `best_loss` says something.

    No series has more than `most` points (by default 0.6 MB in all): when they are full every second point goes, and
    points lie twice as far apart from there on, `stride` steps. Counts and the lowest loss miss nothing.

    It goes on from a checkpoint by `state_dict` and `load_state_dict`, which `torch.load(weights_only=True)` takes.

    Args:
        most: points kept, at least 2.
        window: points in each of the two blocks that a convergence rate compares (`rates`).
        optimum: the least that the loss can be, for that rate.

    Raises:
        TelemetryError: `most` or `window` is too small, or no integer.
    """

    def __init__(self, *, most: int = 10_000, window: int = 20, optimum: float = 0.0) -> None:
        for name, value, least in (("most", most, 2), ("window", window, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise TelemetryError(f"{name} is {value!r}: it must be an integer of at least {least}")
        self.most, self.window, self.optimum = most, window, optimum
        self._rows: array[float] = array("d")
        self.stride = 1
        self.steps = 0
        self.lowest, self.lowest_at = math.inf, 0
        self.counts: Counter[str] = Counter()
        self._latest: StepRecord | dict[str, Any] = {}

    def __call__(self, record: StepRecord) -> None:
        """Take a step into account."""
        if record.best_loss < self.lowest:
            self.lowest, self.lowest_at = record.best_loss, record.generation
        if self.steps % self.stride == 0:
            self._keep(record)
        self.steps += 1
        self.counts[record.phase] += 1
        self._latest = record

    def _keep(self, record: StepRecord) -> None:
        if len(self._rows) == self.most * len(SERIES):
            self._thin_out()
            if self.steps % self.stride:
                return
        size = math.nan if record.step_size is None else record.step_size
        self._rows.extend(
            (
                record.generation,
                record.evaluations_total,
                record.loss,
                record.best_loss,
                self.lowest,
                record.diversity,
                size,
            )
        )

    def _thin_out(self) -> None:
        """Let every second point go."""
        width = len(SERIES)
        kept = array("d")
        for start in range(0, len(self._rows), 2 * width):
            kept.extend(self._rows[start : start + width])
        self._rows, self.stride = kept, 2 * self.stride

    @property
    def series(self) -> dict[str, array[float]]:
        """A copy of the points, by name."""
        return {name: self._rows[column :: len(SERIES)] for column, name in enumerate(SERIES)}

    @property
    def latest(self) -> dict[str, Any]:
        """What `StepRecord.plain` says of the latest step."""
        return self._latest.plain() if isinstance(self._latest, StepRecord) else dict(self._latest)

    def convergence_rates(self) -> list[float]:
        """The convergence rate of `best_loss` at each point, a step; NaN where there is none: see `rates`."""
        return self._rates(self.series["best_loss"])

    def _rates(self, losses: Sequence[float]) -> list[float]:
        return convergence_rates(losses, window=self.window, stride=self.stride, optimum=self.optimum)

    def summary(self) -> dict[str, Any]:
        """What came of it, as plain numbers: the latest step, the lowest loss and where, steps by phase, the rate.

        Raises:
            TelemetryError: there was no step yet.
        """
        self._refuse_nothing()
        latest = self.latest
        rate = self._rates(self.series["best_loss"][-2 * self.window :])[-1]
        return {
            "steps": self.steps,
            **{name: latest[name] for name in ("generation", "best_loss", "diversity", "step_size")},
            "evaluations": latest["evaluations_total"],
            "nonfinite": latest["nonfinite_total"],
            "lowest": self.lowest,
            "lowest_at": self.lowest_at,
            "phases": dict(self.counts),
            "convergence_rate": None if math.isnan(rate) else rate,
        }

    def plot(self) -> Figure:
        """Four panels over the generations: losses, diversity, step size and convergence rate.

        The figure belongs to no window: nothing is shown, and no backend is chosen. `figure.savefig(path)` writes it; a
        notebook shows what is returned.

        Raises:
            TelemetryError: there was no step yet.
            ImportError: matplotlib is not installed.
        """
        self._refuse_nothing()
        from pytorch_bfo_optimizer.monitors.panels import draw

        return draw(self.series, self.convergence_rates())

    def _refuse_nothing(self) -> None:
        if not self.steps:
            raise TelemetryError("this MetricsTracker has seen no step: append it to optimizer.on_step before training")

    def state_dict(self) -> dict[str, Any]:
        """All that it has seen, as tensors and plain values."""
        return {
            "series": {name: torch.tensor(values, dtype=torch.float64) for name, values in self.series.items()},
            "stride": self.stride,
            "steps": self.steps,
            "lowest": self.lowest,
            "lowest_at": self.lowest_at,
            "counts": dict(self.counts),
            "latest": self.latest,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from there. `most` and `window` stay as they are here: series that are too long are thinned out.

        Raises:
            TelemetryError: that is no tracker's state; nothing is changed then.
        """
        series: Mapping[str, Any] = state_dict.get("series", {})
        missing = [key for key in self.state_dict() if key not in state_dict]
        missing += [name for name in SERIES if name not in series]
        if missing:
            raise TelemetryError(f"the state lacks {', '.join(missing)}: give what MetricsTracker.state_dict returned")
        columns = [series[name].tolist() for name in SERIES]
        self._rows = array("d", [number for row in zip(*columns, strict=True) for number in row])
        self.stride, self.steps = state_dict["stride"], state_dict["steps"]
        self.lowest, self.lowest_at = state_dict["lowest"], state_dict["lowest_at"]
        self.counts, self._latest = Counter(state_dict["counts"]), dict(state_dict["latest"])
        while len(self._rows) > self.most * len(SERIES):
            self._thin_out()
