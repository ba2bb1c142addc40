"""Has a part of a probe done in a process of its own, within the time that is left.

State of torch leaks from one compile to the next, and timings from one process to the next: an analysis that must not
feel the one before it is a part. The part writes into the run's own log; here it is started, watched and read.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bfo_diag.attempt import TimeLimitReached
from bfo_diag.errors import WorkspaceError
from bfo_diag.probes import PartResult
from bfo_diag.records import JSONValue, Observation, dumps
from bfo_diag.store import RAW_FOLDER, ObservationReader, ObservationWriter

SAFE_PATH = ["-P"] if sys.version_info >= (3, 11) else []
"""For a process of ours: a `json.py` in the current folder does not stand in for Python's own."""
STARTUP_S = 120.0
"""How long a process may take to import torch before it counts as hung (a cold disk is slow)."""
GRACE_S = 3.0
"""How long after its time a part that does not stop by itself is killed."""
STOPS = frozenset({"raised", "refused", "timed_out"})
_POLL_S = 0.02


class Parts:
    """Runs the parts of one run, one after the other."""

    def __init__(self, folder: Path, spec: Mapping[str, Any], log: ObservationWriter) -> None:
        self._folder = folder
        self._spec = spec
        self._log = log
        self._left: float | None = spec["timeout"]
        self._count = 0

    def run(
        self,
        name: str,
        options: Mapping[str, JSONValue],
        *,
        case: str = "",
        target: str | None = None,
        environment: Mapping[str, str] | None = None,
        must_end: bool = True,
    ) -> PartResult:
        """Do what `probes.Request.part` promises.

        Raises:
            TimeLimitReached: the person pressed Ctrl-C; the part has written down what it saw.
            WorkspaceError: the part can't be started, or could not write the log.
        """
        labels = {"part": name, **({"case": case} if case else {})}
        if "arm" in options:
            labels["arm"] = options["arm"]
        if self._left is not None and self._left <= 0:
            late = Observation("timed_out", {**labels, "phase": f"before {name}"})
            self._log.write(late)
            return PartResult((late,), ended=False, stopped=True)
        reader = ObservationReader(self._folder, from_the_end=True)
        process = self._start(name, options, labels, target, environment)
        was_killed = self._wait(process, reader)
        self._log.end_line()
        seen = reader.read()
        kinds = {observation.kind for observation in seen}
        if was_killed:
            if "timed_out" not in kinds:
                late = Observation("timed_out", {**labels, "phase": f"{name} did not stop by itself"})
                self._log.write(late)
                seen = (*seen, late)
            return PartResult(seen, ended=False, stopped=True)
        if "part_ended" not in kinds:
            number = process.returncode
            how = {"exit_status": number, "signal": signal.Signals(-number).name if number < 0 else None}
            died = Observation("died" if must_end else "part_died", {**labels, **how})
            self._log.write(died)
            return PartResult((*seen, died), ended=False, stopped=must_end)
        return PartResult(seen, stopped=bool(kinds & STOPS))

    def _start(
        self,
        name: str,
        options: Mapping[str, JSONValue],
        labels: Mapping[str, JSONValue],
        target: str | None,
        environment: Mapping[str, str] | None,
    ) -> subprocess.Popen[bytes]:
        self._count += 1
        spec = {
            **self._spec,
            "part": name,
            "parent": os.getpid(),
            "labels": dict(labels),
            "options": dict(options),
            "target": self._spec["target"] if target is None else target,
            "timeout": self._left,
            "first": self._count == 1,
        }
        path = self._folder / RAW_FOLDER / f"part-{self._count:02d}-{name}.json"
        try:
            path.write_text(dumps(spec, indent=1), "utf-8")
            return subprocess.Popen(
                [sys.executable, *SAFE_PATH, "-m", "bfo_diag.child", str(self._folder), str(path)],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **(environment or {})},
            )
        except OSError as error:
            raise WorkspaceError(
                f"the part {name} of {self._folder} can't be started: {error.strerror or error}",
                mend="free some space, or --workspace DIR",
            ) from error

    def _wait(self, process: subprocess.Popen[bytes], reader: ObservationReader) -> bool:
        """Wait for the part, and return whether it had to be killed; the time it took is used up."""
        began = time.monotonic()
        started: float | None = None
        late = False
        try:
            while process.poll() is None and not late:
                time.sleep(_POLL_S)
                now = time.monotonic()
                if started is None and reader.grew():
                    started = now
                if started is None:
                    late = now - began > STARTUP_S
                elif self._left is not None:
                    late = now - started > self._left + GRACE_S
        except TimeLimitReached:
            process.send_signal(signal.SIGALRM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
            raise
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            if self._left is not None and started is not None:
                self._left -= time.monotonic() - started
        return late
