"""Steps of an optimizer, and samples of the gradients, as TensorBoard charts."""

from __future__ import annotations

import math
import os
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

import torch
from torch import Tensor

from pytorch_bfo_optimizer.errors import TelemetryError
from pytorch_bfo_optimizer.monitors.sink import StepSink
from pytorch_bfo_optimizer.state import StepRecord
from pytorch_bfo_optimizer.telemetry import GradientStats

if TYPE_CHECKING:
    from pytorch_bfo_optimizer.shell import ColonyOptimizer

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


class StepWriter(Protocol):
    """What `TensorBoardStepSink` uses of a `SummaryWriter`."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int, /) -> object:
        """Write a number."""

    def add_histogram(self, tag: str, values: Tensor, global_step: int, /) -> object:
        """Write a distribution."""

    def close(self) -> object:
        """Write what is left, and end."""


class TensorBoardStepSink(StepSink):
    """Writes steps, over the generation: `PREFIX/loss`, `PREFIX/best_loss`, ... and the histogram `PREFIX/losses`.

    ::

        with TensorBoardStepSink("runs/today") as board:
            optimizer.on_step.append(board)
            train()

    Numbers are those of `SCALARS` as in `StepRecord`; a scalar of TensorBoard is a float32. The histogram is of the
    members' losses, those that are finite; a run has none. With `positions=optimizer` there is one more for each
    parameter, of its coordinates in all members: `PREFIX/positions/NAME`, by the names that the optimizer was given,
    else by number.

    `writer` is a `SummaryWriter`, which stays open, or the folder for one of its own, which `close` closes. `every` n
    writes every n-th step; without it, as many as cost no more than a hundredth of the time (`StepSink`).

    Raises:
        TelemetryError: `writer` is neither, or `every` is no count; later, a record comes after `close`.
        ImportError: a folder is given and TensorBoard is not installed.
    """

    share: ClassVar[float] = StepSink.share / 3
    """A third of it: the writer's own thread is at it twice as long as the call."""

    def __init__(
        self,
        writer: StepWriter | str | os.PathLike[str],
        prefix: str = "bfo",
        *,
        every: int | None = None,
        histograms: bool = True,
        positions: ColonyOptimizer[Any, Any] | None = None,
    ) -> None:
        super().__init__(prefix, every=every)
        self._owned = isinstance(writer, (str, os.PathLike))
        self._writer: StepWriter
        if isinstance(writer, (str, os.PathLike)):
            self._writer = cast(StepWriter, _writer(os.fspath(writer), "TensorBoardStepSink"))
        elif hasattr(writer, "add_scalar") and hasattr(writer, "add_histogram"):
            self._writer = writer
        else:
            raise TelemetryError(
                f"writer is {type(writer).__name__}: give a torch.utils.tensorboard.SummaryWriter, or a folder"
            )
        self._histograms, self._positions = histograms, positions

    def _write(self, record: StepRecord) -> None:
        values = record.plain()
        for name in SCALARS:
            if values[name] is not None:
                self._writer.add_scalar(self._named(name), values[name], record.generation)
        if self._histograms and record.losses is not None:
            self._draw("losses", record.losses, record.generation)
        if self._positions is not None:
            for name, places in _positions_of(self._positions):
                self._draw(f"positions/{name}", places, record.generation)

    def _draw(self, name: str, values: Tensor, generation: int) -> None:
        finite = values[torch.isfinite(values)]
        if finite.numel():
            self._writer.add_histogram(self._named(name), finite, generation)

    def _end(self) -> None:
        if self._owned:
            self._writer.close()


SCALARS = ("loss", "best_loss", "diversity", "step_size", "evaluations_total", "nonfinite_total")
"""What a `TensorBoardStepSink` writes as numbers."""


def _positions_of(optimizer: ColonyOptimizer[Any, Any]) -> list[tuple[str, Tensor]]:
    """Name of each parameter, and its coordinates in all members (P, *shape)."""
    names = [name for group in optimizer.param_groups for name in group.get("param_names", ())]
    pieces = optimizer.vector.split(optimizer.population)
    if len(names) != len(pieces):
        names = [str(number) for number in range(len(pieces))]
    return list(zip(names, pieces, strict=True))


def _writer(folder: str, who: str = "TensorBoardSink") -> Writer:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(f"{who} needs TensorBoard ({error}): pip install 'bfo-diag[tensorboard]'") from error
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
