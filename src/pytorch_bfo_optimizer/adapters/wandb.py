"""Steps of an optimizer, and samples of the gradients, as Weights & Biases charts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, cast

import torch

from pytorch_bfo_optimizer.errors import TelemetryError
from pytorch_bfo_optimizer.monitors.sink import StepSink
from pytorch_bfo_optimizer.state import StepRecord
from pytorch_bfo_optimizer.telemetry import GradientStats


class Run(Protocol):
    """What is used of a W&B run."""

    def log(self, data: dict[str, Any], /) -> object:
        """Write a row."""

    def define_metric(self, name: str, /, *, step_metric: str) -> object:
        """Say what a number is drawn over."""


class WandbSink:
    """Logs each sample: `PREFIX/total_norm`, `PREFIX/health`, ... and `PREFIX/norm/NAME` (`GradientStats.scalars`).

    ::

        with wandb.init(project="digits") as run, collector.watch(optimizer, [WandbSink(run)], every=10):
            train()

    Each sample is a row of its own with `PREFIX/step` (`GradientStats.step`, or without one 0, 1, 2 ...), which the
    charts are drawn over. W&B's own step counts the calls of `run.log` and drops rows that come with a lower one: it is
    left alone, whatever you log besides. Numbers are float64, NaN and Inf as they are; the status is the text
    `PREFIX/status`. The run stays open.

    `run` None is the one that `wandb.init()` began. `tensors=False` leaves out what is of a single tensor.

    Raises:
        TelemetryError: `run` is none, or there is none.
        ImportError: `run` is None and wandb is not installed.
    """

    def __init__(self, run: Run | None = None, prefix: str = "gradients", *, tensors: bool = True) -> None:
        self._run: Run = _active_run() if run is None else run
        if not (hasattr(self._run, "log") and hasattr(self._run, "define_metric")):
            raise TelemetryError(f"run is {type(run).__name__}: give what wandb.init() returned")
        self._prefix, self._tensors = prefix, tensors
        self._samples = 0
        self._run.define_metric(f"{prefix}/*", step_metric=f"{prefix}/step")

    def __call__(self, stats: GradientStats) -> None:
        """Log a sample."""
        row: dict[str, object] = {"step": self._samples if stats.step is None else stats.step, "status": stats.status}
        self._samples += 1
        row |= stats.scalars(tensors=self._tensors)
        row |= {f"not_counted/{name}": True for name in stats.not_counted}
        self._run.log({f"{self._prefix}/{name}": value for name, value in row.items()})


class WandbStepSink(StepSink):
    """Logs steps: the fields of `StepRecord` under `PREFIX/`, and on request `PREFIX/losses` as a histogram.

    ::

        with wandb.init(project="digits") as run, WandbStepSink(run) as sink:
            optimizer.on_step.append(sink)
            train()

    Each step is a row of its own, drawn over `PREFIX/generation`, whatever you log besides (see `WandbSink`). The run
    stays open after `close`. Offline runs (`WANDB_MODE=offline`) hold the same.

    `run` None is the one that `wandb.init()` began. `every` n logs every n-th step; without it, as many as cost no more
    than a hundredth of the time (`StepSink`). `histograms` adds the members' losses, those that are finite; a run has
    none.

    Raises:
        TelemetryError: `run` is none, or there is none, or `every` is no count; later, a record comes after `close`.
        ImportError: wandb is needed and not installed.
    """

    def __init__(
        self, run: Run | None = None, prefix: str = "bfo", *, every: int | None = None, histograms: bool = False
    ) -> None:
        super().__init__(prefix, every=every)
        self._run: Run = _active_run("WandbStepSink") if run is None else run
        if not (hasattr(self._run, "log") and hasattr(self._run, "define_metric")):
            raise TelemetryError(f"run is {type(run).__name__}: give what wandb.init() returned")
        self._histogram = _histogram() if histograms else None
        self._run.define_metric(self._named("*"), step_metric=self._named("generation"))

    def _write(self, record: StepRecord) -> None:
        row = {name: value for name, value in record.plain().items() if value is not None}
        if self._histogram is not None and record.losses is not None:
            finite = record.losses[torch.isfinite(record.losses)]
            if finite.numel():
                row["losses"] = self._histogram(finite.cpu().numpy())
        self._run.log({self._named(name): value for name, value in row.items()})


def _active_run(who: str = "WandbSink") -> Run:
    try:
        import wandb
    except ImportError as error:
        raise ImportError(f"{who} needs Weights & Biases ({error}): pip install 'bfo-diag[wandb]'") from error
    if wandb.run is None:
        raise TelemetryError("there is no W&B run: call wandb.init() first, or give the run")
    return cast(Run, wandb.run)


def _histogram() -> Callable[[Any], Any]:
    try:
        from wandb import Histogram
    except ImportError as error:
        raise ImportError(
            f"histograms of WandbStepSink need Weights & Biases ({error}): pip install 'bfo-diag[wandb]'"
        ) from error
    return Histogram


@contextmanager
def started(project: str) -> Iterator[Run]:
    """Begin a run in a project (online or offline, as W&B's own settings say), and end it with the block.

    Raises:
        TelemetryError: W&B refuses: nobody is logged in, or it can't be reached.
        ImportError: wandb is not installed.
    """
    try:
        import wandb
    except ImportError as error:
        raise ImportError(f"W&B can't be used ({error}): pip install 'bfo-diag[wandb]'") from error
    try:
        run = wandb.init(project=project)
    except wandb.Error as error:
        raise TelemetryError(
            f"W&B refuses the project {project!r}: {error}; WANDB_MODE=offline needs no login"
        ) from error
    with run:
        yield cast(Run, run)
