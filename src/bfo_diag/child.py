"""What runs in the child process: one probe on one target, its facts written to the log as they come.

Started by `runner.py` as `python -m bfo_diag.child FOLDER`; what it has to do stands in `FOLDER/raw/spec.json`.
A probe that has parts conducts them from there: each is `python -m bfo_diag.child FOLDER PART.json`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from bfo_diag import environment, frames, sources, targets
from bfo_diag.attempt import TimeLimitReached, describe
from bfo_diag.errors import DiagError, WorkspaceError
from bfo_diag.parts import Parts
from bfo_diag.probes import PartResult, Probe, load_all
from bfo_diag.records import JSONValue, Observation, loads
from bfo_diag.shown import Progress
from bfo_diag.store import RAW_FOLDER, ObservationWriter, read_progress, write_progress

SPEC_FILE = "spec.json"
EXIT_LOG_UNWRITABLE = 72
"""The child's own exit status when the log can't be written; the parent says so."""


@dataclass(frozen=True)
class ChildRequest:
    """A `probes.Request`: the probe decides when the target's code is imported."""

    text: str | None
    inputs: tuple[str, ...]
    device: str
    seed: int
    parts: Parts | None = None
    loaded: Callable[[], None] = lambda: None
    """Called when the target's code has been imported, or has failed to be."""
    raw: Path | None = None

    def load(self) -> targets.Target:
        """Import the target."""
        if self.text is None:
            raise DiagError("there is no TARGET")
        try:
            return targets.load(self.text, inputs=self.inputs, device=self.device, seed=self.seed)
        finally:
            self.loaded()

    def part(self, name: str, options: Mapping[str, JSONValue], **how: Any) -> PartResult:
        """Have a part done in a process of its own."""
        if self.parts is None:
            raise DiagError(f"{name}: a part has no parts")
        return self.parts.run(name, options, **how)


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


def _die_with_parent(spec_file: Path) -> None:
    """Ask Linux to end this process when its parent is killed, so that no target runs on unseen."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != loads(spec_file.read_bytes())["parent"]:
            os._exit(1)  # it was killed before this process could ask


def run(folder: Path, part_file: Path | None = None) -> int:
    """Run the probe, or the part of it that `part_file` describes; everything that happens becomes an observation."""
    spec: dict[str, Any] = loads((part_file or folder / RAW_FOLDER / SPEC_FILE).read_bytes())
    probe = load_all()[spec["probe"]]
    labels: dict[str, JSONValue] = spec.get("labels", {})
    conducts = bool(probe.parts) and part_file is None
    with ObservationWriter(folder) as log:

        def write(observation: Observation) -> None:
            log.write(replace(observation, values={**observation.values, **labels}) if labels else observation)

        # First of all, so that the parent's clock starts when the target can.
        if not conducts and spec.get("first", True):
            log.write(Observation("environment", environment.devices()))
        elif part_file is not None:
            import torch  # noqa: F401 - its time is not the target's

            write(Observation("part_started"))
        try:
            with time_limit(None if conducts else spec["timeout"]):
                _capture(probe, spec, write, folder, Parts(folder, spec, log) if conducts else None)
        except TimeLimitReached:
            if not conducts:  # else the part has said so
                write(Observation("timed_out", {"phase": "between steps"}))
        except WorkspaceError:
            raise
        except DiagError as error:
            write(
                Observation(
                    "refused",
                    {"message": error.message, "mend": error.mend, "detail": error.detail, "exit": error.exit_code},
                )
            )
        except Exception as error:  # noqa: BLE001 - the outermost frame of the process: it goes on record
            write(describe(error).observation("probe"))
            sys.excepthook(*sys.exc_info())
        write(Observation("end" if part_file is None else "part_ended"))
    return 0


def _capture(
    probe: Probe, spec: dict[str, Any], write: Callable[[Observation], None], folder: Path, parts: Parts | None
) -> None:
    device = spec["device"] if parts is not None else targets.resolve_device(spec["device"])

    # (Who conducts parts imports nothing of the target: each part keeps what it imported itself.)
    raw = folder / RAW_FOLDER
    keeper = sources.Keeper(raw, spec["target"]) if parts is None else None

    def keep_sources() -> None:
        for source in keeper.observations() if keeper is not None else ():
            write(source)

    request = ChildRequest(spec["target"], tuple(spec["inputs"]), device, spec["seed"], parts, keep_sources, raw)
    capture = probe.capture if "part" not in spec else probe.parts[spec["part"]]
    if parts is None:
        targets.check_device(request.device)
        targets.use_device(request.device)
    for said in capture(request, **spec["options"]):
        if isinstance(said, Progress):
            # A part says what it does; how far all is, only its conductor knows.
            whole = read_progress(folder) if "part" in spec else None
            where = {} if whole is None else {**whole, "doing": f"{whole['doing'].partition(': ')[0]}: {said.doing}"}
            if where and said.table is not None:
                where["table"] = said.table
            write_progress(folder, where or vars(said))
        else:
            write(said)
    keep_sources()  # what was imported later on


def main() -> None:
    """Be the child process, and end without waiting for threads that the target left behind."""
    folder, *part_file = map(Path, sys.argv[1:3])
    _die_with_parent(*part_file or (folder / RAW_FOLDER / SPEC_FILE,))
    sys.path.append(str(Path.cwd()))  # last: a target may import what lies here, and nothing of ours does
    try:
        status = run(folder, *part_file)
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
