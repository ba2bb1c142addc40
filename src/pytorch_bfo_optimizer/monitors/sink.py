"""What every sink of step records does: which steps it writes, when it is closed, and what it says afterwards."""

from __future__ import annotations

import time
from types import TracebackType
from typing import ClassVar, TypeVar

from pytorch_bfo_optimizer.errors import TelemetryError
from pytorch_bfo_optimizer.state import StepRecord

SinkT = TypeVar("SinkT", bound="StepSink")


class StepSink:
    """A hook for `optimizer.on_step` that writes records; a subclass gives `_write`, and `_end` if it holds anything.

    `every` n: generations 1, 1 + n, 1 + 2n ... are written. None: as many as can be written in `share` of the time, so
    that steps of a millisecond are as little slowed as steps of a second; which ones, the clock decides. A record that
    was left out is written by `close` if it is the last.

    Raises:
        TelemetryError: `every` is no count.
    """

    share: ClassVar[float] = 0.01
    """Part of the time that the writing may take where there is no `every`."""

    def __init__(self, prefix: str, *, every: int | None) -> None:
        counts = every is None or (isinstance(every, int) and not isinstance(every, bool) and every >= 1)
        if not counts:
            raise TelemetryError(f"every is {every!r}: give a number of steps, or None for as many as cost little")
        self.prefix, self.every = prefix, every
        self._closed = False
        self._left_out: StepRecord | None = None
        self._rest_until = 0.0

    def __call__(self, record: StepRecord) -> None:
        """Write a record, if it is due.

        Raises:
            TelemetryError: the sink is closed.
        """
        if self._closed:
            raise TelemetryError(
                f"this {type(self).__name__} is closed and a step was made: close it after the last step, and take it "
                "out of optimizer.on_step before the next"
            )
        if self.every is not None:
            due = (record.generation - 1) % self.every == 0
        else:
            began = time.perf_counter()
            due = began >= self._rest_until
        self._left_out = None if due else record
        if due:
            self._write(record)
        if due and self.every is None:
            ended = time.perf_counter()
            self._rest_until = ended + (ended - began) / self.share

    def close(self) -> None:
        """Write the last record, if it was left out, and end. Can be called twice."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._left_out is not None:
                self._write(self._left_out)
        finally:
            self._left_out = None
            self._end()

    def _write(self, record: StepRecord) -> None:
        raise NotImplementedError

    def _end(self) -> None:
        """Let go of what this sink opened."""

    def _named(self, name: str) -> str:
        """The name under the prefix."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def __enter__(self: SinkT) -> SinkT:
        """Return self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()
