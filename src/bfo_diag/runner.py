"""Runs one probe in one child process. A crash, a kill or a time-out of the child becomes an observation.

The parent never imports torch: it starts the child, watches the log grow, and reads it when the child is gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bfo_diag import environment, sources, store
from bfo_diag.child import EXIT_LOG_UNWRITABLE, SPEC_FILE
from bfo_diag.errors import DiagError, ExitCode, WorkspaceError
from bfo_diag.parts import SAFE_PATH, STARTUP_S
from bfo_diag.probes import Probe
from bfo_diag.records import CaseRecord, JSONValue, Observation, Outcome, Run, dumps
from bfo_diag.redact import Identity
from bfo_diag.workspace import Workspace

GRACE_S = 5.0
"""How long after --timeout a child that does not stop by itself is killed."""
_POLL_S = 0.05


@dataclass(frozen=True)
class Job:
    """What to run: a probe, its target and options."""

    probe: Probe
    target: str | None = None
    inputs: tuple[str, ...] = ()
    device: str = "cpu"
    seed: int = 0
    timeout: float | None = None
    options: Mapping[str, JSONValue] = field(default_factory=dict)
    argv: tuple[str, ...] = ()


Progress = Callable[[Path], None]
"""Called now and then while the child runs, with the run's folder."""


def run(job: Job, workspace: Workspace, *, progress: Progress | None = None) -> tuple[Path, Run]:
    """Run the job to its end, whatever that is, and return the folder and the run.

    Raises:
        WorkspaceError: the log can't be written; what was recorded before is kept.
    """
    short = (job.target or "builtin").removesuffix(sources.READ)
    name = Path(short.replace(":", "-").replace(".py", "")).name
    case = CaseRecord(id="", name=name, target=job.target, inputs=job.inputs, device=job.device, seed=job.seed)
    folder, header = store.create(
        workspace,
        probe=job.probe.name,
        case=case,
        argv=job.argv,
        environment=environment.versions(),
        options=dict(job.options),
        timeout_s=job.timeout,
    )
    spec: dict[str, Any] = {
        "probe": job.probe.name,
        "parent": os.getpid(),
        "target": job.target,
        "inputs": list(job.inputs),
        "device": job.device,
        "seed": job.seed,
        "timeout": job.timeout,
        "options": dict(job.options),
    }
    raw = folder / store.RAW_FOLDER
    try:
        (raw / SPEC_FILE).write_text(dumps(spec, indent=1), "utf-8")
        (raw / store.IDENTITY_FILE).write_text(dumps(Identity.here().to_json(), indent=1), "utf-8")
        with (raw / "stdout.txt").open("wb") as out, (raw / "stderr.txt").open("wb") as err:
            child = subprocess.Popen(
                [sys.executable, *SAFE_PATH, "-m", "bfo_diag.child", str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, **job.probe.environment, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )
    except OSError as error:
        raise WorkspaceError(
            f"the run {folder} can't be started: {error.strerror or error}", mend="free some space, or --workspace DIR"
        ) from error
    outcome: Outcome | None = None
    interrupted = False
    try:
        # A child that conducts parts keeps the time itself: their start-up is not the target's.
        longest = None if job.timeout is None or job.probe.parts else job.timeout + GRACE_S
        outcome = _watch(child, folder, longest, progress)
    except KeyboardInterrupt:
        interrupted = True
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # from here on the log is brought to its end
        _ask_to_stop(child)
    finally:
        _kill(child)
    if interrupted:
        _append(folder, Observation("interrupted"))
        ended = store.finish(folder, header, Outcome.INTERRUPTED)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return folder, ended
    return folder, store.finish(folder, header, _how_it_ended(child, folder, outcome))


def _watch(
    child: subprocess.Popen[bytes], folder: Path, longest: float | None, progress: Progress | None
) -> Outcome | None:
    """Wait for the child; return TIMED_OUT where it had to be killed, `longest` seconds after its target started."""
    observations = folder / store.OBSERVATIONS_FILE
    started = time.monotonic()
    target_started: float | None = None
    while True:
        try:
            child.wait(_POLL_S)
        except subprocess.TimeoutExpired:
            pass
        else:
            return None
        now = time.monotonic()
        if target_started is None and observations.exists() and observations.stat().st_size:
            target_started = now
        if progress is not None:
            progress(folder)
        if longest is None:
            continue
        if target_started is None:
            late = now - started > STARTUP_S
        else:
            late = now - target_started > longest
        if late:
            return Outcome.TIMED_OUT


def _ask_to_stop(child: subprocess.Popen[bytes]) -> None:
    """Let the child write down what it saw, for a moment."""
    if hasattr(signal, "SIGALRM"):
        child.send_signal(signal.SIGALRM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_S)


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End the child and whatever it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
    child.wait()


def _append(folder: Path, observation: Observation) -> None:
    with store.ObservationWriter(folder) as log:
        log.write(observation)


def _how_it_ended(child: subprocess.Popen[bytes], folder: Path, killed: Outcome | None) -> Outcome:
    seen = store.read(folder)
    kinds = {observation.kind for observation in seen.observations}
    if killed is Outcome.TIMED_OUT:
        _append(folder, Observation("timed_out", {"phase": "did not stop by itself"}))
        return Outcome.TIMED_OUT
    if child.returncode == EXIT_LOG_UNWRITABLE:
        _append(folder, Observation("log_unwritable"))  # fails with the cause, if it still holds
        raise WorkspaceError(
            f"the log in {folder} could not be written to its end",
            mend="free some space or name another folder with --workspace DIR; what was recorded before is kept",
        )
    if "end" not in kinds:
        number = child.returncode
        name = signal.Signals(-number).name if number < 0 else None
        _append(folder, Observation("died", {"exit_status": number, "signal": name, **_last_words(folder)}))
        return Outcome.CRASHED
    if "timed_out" in kinds:
        return Outcome.TIMED_OUT
    return Outcome.CRASHED if kinds & {"raised", "refused", "died"} else Outcome.COMPLETE


def _last_words(folder: Path) -> dict[str, JSONValue]:
    """Return the end of what the child wrote on stderr: with a fatal signal it is all there is."""
    path = folder / store.RAW_FOLDER / "stderr.txt"
    try:
        return {"stderr_tail": path.read_bytes()[-2000:].decode("utf-8", "replace")}
    except OSError:
        return {}


def refusal(run: Run) -> DiagError | None:
    """Return the error with which the child refused the job (a target that can't be loaded, a wrong option)."""
    for _, observation in run.of_kind("refused"):
        values = observation.values
        error = DiagError(values["message"], mend=values["mend"], detail=values["detail"])
        error.exit_code = ExitCode(values["exit"])
        return error
    return None
