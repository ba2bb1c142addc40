"""What runs in the child process: one probe on one target, its facts written to the log as they come.

Started by `runner.py` as `python -m bfo_diag.child FOLDER`; what it has to do stands in `FOLDER/raw/spec.json`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from bfo_diag import environment, frames, targets
from bfo_diag.attempt import TimeLimitReached, describe
from bfo_diag.errors import DiagError, WorkspaceError
from bfo_diag.probes import load_all
from bfo_diag.records import Observation, loads
from bfo_diag.store import RAW_FOLDER, ObservationWriter

SPEC_FILE = "spec.json"
EXIT_LOG_UNWRITABLE = 72
"""The child's own exit status when the log can't be written; the parent says so."""


@dataclass(frozen=True)
class LazyTarget:
    """A `probes.Request`: the probe decides when the target's code is imported."""

    text: str | None
    inputs: tuple[str, ...]
    device: str
    seed: int

    def load(self) -> targets.Target:
        """Import the target."""
        if self.text is None:
            raise DiagError("there is no TARGET")
        return targets.load(self.text, inputs=self.inputs, device=self.device, seed=self.seed)


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise `TimeLimitReached` in the main thread after `seconds`, or when the parent sends SIGALRM (Ctrl-C)."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeLimitReached(frames.here())

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds or 0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _die_with_parent() -> None:
    """Ask Linux to end this process when its parent is killed, so that no target runs on unseen."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def run(folder: Path) -> int:
    """Run the probe; everything that happens becomes an observation."""
    spec: dict[str, Any] = loads((folder / RAW_FOLDER / SPEC_FILE).read_bytes())
    with ObservationWriter(folder) as log:
        # First of all, so that the parent's clock starts when the target can.
        log.write(Observation("environment", environment.devices()))
        try:
            with time_limit(spec["timeout"]):
                _capture(spec, log)
        except TimeLimitReached:
            log.write(Observation("timed_out", {"phase": "between steps"}))
        except WorkspaceError:
            raise
        except DiagError as error:
            log.write(
                Observation(
                    "refused",
                    {"message": error.message, "mend": error.mend, "detail": error.detail, "exit": error.exit_code},
                )
            )
        except Exception as error:  # noqa: BLE001 - the outermost frame of the process: it goes on record
            log.write(describe(error).observation("probe"))
            sys.excepthook(*sys.exc_info())
        log.write(Observation("end"))
    return 0


def _capture(spec: dict[str, Any], log: ObservationWriter) -> None:
    probe = load_all()[spec["probe"]]
    request = LazyTarget(text=spec["target"], inputs=tuple(spec["inputs"]), device=spec["device"], seed=spec["seed"])
    targets.check_device(request.device)
    for observation in probe.capture(request, **spec["options"]):
        log.write(observation)


def main() -> None:
    """Be the child process, and end without waiting for threads that the target left behind."""
    _die_with_parent()
    try:
        status = run(Path(sys.argv[1]))
    except WorkspaceError as error:
        sys.stderr.write(f"{error.message}\n")
        status = EXIT_LOG_UNWRITABLE
    with contextlib.suppress(OSError, ValueError, AttributeError):  # the target may have closed or replaced them
        sys.stdout.flush()
        sys.stderr.flush()
    deadline = time.monotonic() + 2
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(max(0.0, deadline - time.monotonic()))
    os._exit(status)


if __name__ == "__main__":
    main()
