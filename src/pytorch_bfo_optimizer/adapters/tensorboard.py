"""Samples of the gradients as TensorBoard charts."""

from __future__ import annotations

import math
import os
from types import TracebackType
from typing import Protocol, cast

from pytorch_bfo_optimizer.errors import TelemetryError
from pytorch_bfo_optimizer.telemetry import GradientStats

_FLOAT32_MAX = (2 - 2**-23) * 2.0**127
_FLOAT32_TINY = 2.0**-126


class Writer(Protocol):
    """What is used of a `SummaryWriter`."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int, /) -> object:
        """Write a number."""

    def add_text(self, tag: str, text_string: str, global_step: int, /) -> object:
        """Write a text."""

    def close(self) -> object:
        """Write what is left, and end."""


class TensorBoardSink:
    """Writes each sample: `PREFIX/total_norm`, `PREFIX/health`, ... and `PREFIX/norm/NAME` (`GradientStats.scalars`).

    ::

        with TensorBoardSink("runs/today") as sink, collector.watch(optimizer, [sink], every=10):
            train()

    A scalar of TensorBoard is a float32, NaN and Inf included. What one can't hold (a norm of 1e200 would read Inf, one
    of 1e-50 zero) stands in the text `PREFIX/status`, with the tensors that hold NaN or Inf and how many; it is written
    when the status changes, and at each sample that has any of these.

    `writer` is a `SummaryWriter`, which stays open, or the folder for one of its own, which `close` closes. Points lie
    at `GradientStats.step`, or without one at 0, 1, 2 ... `tensors=False` leaves out what is of a single tensor.

    Raises:
        TelemetryError: `writer` is neither.
        ImportError: a folder is given and TensorBoard is not installed.
    """

    def __init__(
        self, writer: Writer | str | os.PathLike[str], prefix: str = "gradients", *, tensors: bool = True
    ) -> None:
        self._owned = isinstance(writer, (str, os.PathLike))
        self._writer: Writer | None
        if isinstance(writer, (str, os.PathLike)):
            self._writer = _writer(os.fspath(writer))
        elif hasattr(writer, "add_scalar") and hasattr(writer, "add_text"):
            self._writer = writer
        else:
            raise TelemetryError(
                f"writer is {type(writer).__name__}: give a torch.utils.tensorboard.SummaryWriter, or a folder"
            )
        self._prefix, self._tensors = prefix, tensors
        self._samples = 0
        self._status: str | None = None

    def __call__(self, stats: GradientStats) -> None:
        """Write a sample.

        Raises:
            TelemetryError: the sink is closed.
        """
        if self._writer is None:
            raise TelemetryError("this TensorBoardSink is closed: samples that come now would be lost")
        step = self._samples if stats.step is None else stats.step
        self._samples += 1
        scalars = stats.scalars(tensors=self._tensors)
        for name, value in scalars.items():
            self._writer.add_scalar(f"{self._prefix}/{name}", value, step)
        lost = [f"{name} is {value!r}" for name, value in scalars.items() if not _fits(value)]
        if stats.status != self._status or lost or stats.non_finite:
            self._status = stats.status
            self._writer.add_text(f"{self._prefix}/status", "; ".join([_described(stats), *lost]), step)

    def close(self) -> None:
        """Close the writer, if it was made here; the last points are written then."""
        if self._owned and self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> TensorBoardSink:
        """Return self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


def _writer(folder: str) -> Writer:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            f"TensorBoardSink needs TensorBoard ({error}): pip install 'bfo-diag[tensorboard]'"
        ) from error
    return cast(Writer, SummaryWriter(folder))


def _fits(value: float) -> bool:
    """Whether a float32 holds this number: to its 24 bits where it is a norm, exactly where it is a count."""
    if not math.isfinite(value) or value == 0:
        return True
    return _FLOAT32_TINY <= abs(value) <= _FLOAT32_MAX and not (isinstance(value, int) and abs(value) > 2**24)


def _described(stats: GradientStats) -> str:
    """Return the status, and what each tensor with NaN or Inf holds, as one line of Markdown."""
    found = [stats.status]
    for name in stats.non_finite:
        counts = [(stats.nan_counts.get(name, 0), "NaN"), (stats.inf_counts.get(name, 0), "Inf")]
        told = " and ".join(f"{count} {what}" for count, what in counts if count)
        found.append(f"`{name}` holds {told or 'NaN or Inf, not counted'}")
    return "; ".join(found)
