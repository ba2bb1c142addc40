"""Who works on a trial, and whether that worker still lives. A killed one leaves nothing but what is told here.

On its own host a worker holds a lock on a file, which the kernel takes back when the process is gone. Elsewhere what
counts is how long ago it was last heard of.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event, Thread

from bfo_diag.records import JSONValue

if sys.platform != "win32":
    import fcntl

HEARTBEAT_S = 20.0
SILENCE_S = 180.0
"""After so long without a heartbeat a worker of another host counts as dead."""
_FOLDER = "leases"


@dataclass(frozen=True)
class Worker:
    """One process that works on a study, as the study knows it."""

    name: str
    host: str
    lease: str
    """The file that it keeps locked."""

    def to_json(self) -> dict[str, JSONValue]:
        """Return what a trial holds of it."""
        return asdict(self)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[Worker]:
    """Be a worker: hold a lease in a study's folder."""
    name = uuid.uuid4().hex
    path = folder.absolute() / _FOLDER / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if sys.platform != "win32":
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield Worker(name, socket.gethostname(), str(path))
        path.unlink(missing_ok=True)  # (after an error it stays, to say that what this worker had is free)
    finally:
        os.close(descriptor)


def lost(worker: Mapping[str, JSONValue] | None, heard_s: float) -> bool:
    """Return whether a worker is dead; `heard_s`: when it was last heard of, in seconds of the epoch."""
    silent = time.time() - heard_s > SILENCE_S
    if worker is None or worker.get("host") != socket.gethostname() or sys.platform == "win32":
        return silent
    try:
        descriptor = os.open(str(worker.get("lease")), os.O_RDONLY)
    except OSError:
        return silent  # (another container of this name has its files elsewhere)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


@contextlib.contextmanager
def beating(beat: Callable[[], bool]) -> Iterator[None]:
    """Call `beat` now and then, in a thread of its own, until it returns False."""
    over = Event()

    def run() -> None:
        while not over.wait(HEARTBEAT_S) and beat():
            pass

    thread = Thread(target=run, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
