"""Steps as lines of JSON in a file."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import BinaryIO

from pytorch_bfo_optimizer.monitors.sink import StepSink
from pytorch_bfo_optimizer.state import StepRecord

WRITE_EVERY = 0.1
"""Seconds for which lines may wait for the next ones: one write of many is a fraction of as many writes."""


class JSONLinesSink(StepSink):
    """Writes each step as a line of JSON: the fields of `StepRecord` by name, but for `losses`.

    ::

        with JSONLinesSink("runs/today/steps.jsonl") as lines:
            optimizer.on_step.append(lines)
            train()

    It is strict JSON, which has no number for NaN or infinity: these are null, like what is not there. Lines are handed
    to the system whole, before the step returns, unless others were within the last `WRITE_EVERY` seconds: a process
    that is killed leaves a file that can be read, and of a step that takes longer than that no line is missing.

    `path` is made with its folders, and must not be there yet, unless `append` is set: for a run that goes on from a
    checkpoint. It may then tell of some generations twice; the later line is the one that counts. A line that was cut
    short, by a full disk say, stays as it is, and what comes begins on a line of its own.

    `prefix` goes before each name with a slash. `every` n writes every n-th step (`StepSink`).

    Raises:
        FileExistsError: `path` is there, and `append` is not set.
        OSError: it cannot be written.
        TelemetryError: `every` is no count; later, a record comes after `close`.
    """

    def __init__(
        self, path: str | os.PathLike[str], prefix: str = "", *, every: int | None = 1, append: bool = False
    ) -> None:
        super().__init__(prefix, every=every)
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = _opened_at_its_end(self.path) if append else _made(self.path)
        self._waiting: list[StepRecord] = []
        self._wait_until = 0.0
        self._encode = json.JSONEncoder(allow_nan=False).encode

    def _write(self, record: StepRecord) -> None:
        self._waiting.append(record)
        if time.perf_counter() >= self._wait_until:
            self._flush()

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._file.write("".join(map(self._line, waiting)).encode())
        self._file.flush()
        self._wait_until = time.perf_counter() + WRITE_EVERY

    def _line(self, record: StepRecord) -> str:
        values = record.plain()
        for name in _MAY_BE_INFINITE:
            value = values[name]
            if value is not None and not math.isfinite(value):
                values[name] = None
        if self.prefix:
            values = {self._named(name): value for name, value in values.items()}
        return self._encode(values) + "\n"

    def _end(self) -> None:
        try:
            self._flush()
        finally:
            self._file.close()


_MAY_BE_INFINITE = ("loss", "best_loss", "diversity", "step_size")


def _made(path: Path) -> BinaryIO:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
    except FileExistsError as error:
        raise FileExistsError(
            f"{path} is there already: give another path, or append=True to go on in this file"
        ) from error
    return os.fdopen(descriptor, "wb")  # at the file's end, wherever that is: another process may append too


def _opened_at_its_end(path: Path) -> BinaryIO:
    file = path.open("a+b")
    if file.seek(0, os.SEEK_END):
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")
    return file
