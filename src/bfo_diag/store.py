"""The only writer and reader of logs/: `logs/<utc>-<probe>-<case>/{run.json,observations.jsonl,raw/}`.

A kill at any moment leaves a readable log: `run.json` is replaced in one step, and each observation is one
`write` of one line. The reader passes over a last line that was cut short, and says so.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

from bfo_diag.errors import RecordError, WorkspaceError
from bfo_diag.records import CaseRecord, JSONValue, Observation, Outcome, Run, RunHeader, dumps, loads
from bfo_diag.shown import Cell, Table
from bfo_diag.workspace import Workspace

RUN_FILE = "run.json"
OBSERVATIONS_FILE = "observations.jsonl"
RAW_FOLDER = "raw"
PROGRESS_FILE = "progress.json"
PROGRESS_ROWS = 30
"""Of the table of a progress file: it is written anew at each step, and read twenty times a second."""
IDENTITY_FILE = "identity.json"
"""Whose machine wrote the log, so that a package can hide it; it is never packed itself."""


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn a failed write into an error that names the file and the mend."""
    try:
        yield
    except OSError as error:
        raise WorkspaceError(
            f"the log {path} can't be written: {error.strerror or error}",
            mend="free some space or name another folder with --workspace DIR; what was recorded before is kept",
        ) from error


def slug(text: str, *, limit: int = 48) -> str:
    """Return `text` as a part of a file name: letters, digits, '-', '_' and '.'."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.")[:limit].strip("-.") or "case"


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as log:
        if not log.seek(0, os.SEEK_END):
            return True
        log.seek(-1, os.SEEK_END)
        return log.read(1) == b"\n"


class ObservationWriter:
    """Appends observations to a log, each as one whole line."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / OBSERVATIONS_FILE
        with _writing(self._path):
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self.end_line()

    def end_line(self) -> None:
        """End a line that a killed writer cut short, so that it does not swallow the next one."""
        with _writing(self._path):
            if not _ends_with_newline(self._path):
                os.write(self._descriptor, b"\n")

    def write(self, observation: Observation) -> None:
        """Append one line.

        Raises:
            WorkspaceError: the disk is full or the file is gone.
        """
        line = (dumps(observation.to_json()) + "\n").encode()
        with _writing(self._path):
            while line:
                line = line[os.write(self._descriptor, line) :]

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def __enter__(self) -> ObservationWriter:
        """Return self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()


class ObservationReader:
    """Reads what is appended to a log from a moment on."""

    def __init__(self, folder: Path, *, from_the_end: bool = False) -> None:
        self._path = folder / OBSERVATIONS_FILE
        self._offset = self._size() if from_the_end else 0

    def _size(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0

    def grew(self) -> bool:
        """Whether there is something new."""
        return self._size() > self._offset

    def read(self) -> tuple[Observation, ...]:
        """Return the new observations; what is damaged is told by the reader of the whole run."""
        if not self.grew():
            return ()
        with self._path.open("rb") as log:
            log.seek(self._offset)
            new = log.read()
        self._offset += len(new)
        found: list[Observation] = []
        for line in new.splitlines():
            with contextlib.suppress(RecordError):
                found.append(Observation.from_json(loads(line)))
        return tuple(found)


def utc_now() -> datetime:
    """Return the present, with its time zone."""
    return datetime.now(timezone.utc)


def create(
    workspace: Workspace,
    *,
    probe: str,
    case: CaseRecord,
    argv: Iterable[str],
    environment: dict[str, JSONValue],
    options: dict[str, JSONValue],
    timeout_s: float | None = None,
) -> tuple[Path, RunHeader]:
    """Make the folder of a new run, with a `run.json` that says it is running.

    Two runs that start in the same second get folders of their own.
    """
    now = utc_now()
    stem = f"{now:%Y%m%dT%H%M%SZ}-{slug(probe)}-{slug(case.name)}"
    for attempt in range(1, 1000):
        run_id = stem if attempt == 1 else f"{stem}-{attempt}"
        folder = workspace.logs / run_id
        with _writing(folder):
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            (folder / RAW_FOLDER).mkdir()
        header = RunHeader(
            run_id=run_id,
            probe=probe,
            argv=tuple(argv),
            started_utc=now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            case=case,
            environment=environment,
            options=options,
            timeout_s=timeout_s,
        )
        write_header(folder, header, Outcome.RUNNING)
        return folder, header
    raise WorkspaceError(f"{workspace.logs} holds 1000 runs of this very second", mend="try again")


def write_header(folder: Path, header: RunHeader, outcome: Outcome) -> None:
    """Replace `run.json` in one step: a reader sees the old one or the new one."""
    path = folder / RUN_FILE
    partial = folder / (RUN_FILE + ".partial")
    with _writing(path):
        try:
            partial.write_text(dumps({**header.to_json(), "outcome": outcome.value}, indent=1) + "\n", "utf-8")
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise


def write_progress(folder: Path, said: Mapping[str, Any]) -> None:
    """Say how far the run is: the fields of a `probes.Progress`.

    It is no fact of the run: what can't be written is left out, and so is what a table has beyond `PROGRESS_ROWS`.
    """
    path = folder / RAW_FOLDER / PROGRESS_FILE
    partial = path.with_suffix(f".{os.getpid()}")
    table = said.get("table")
    if table is not None:
        said = {**said, "table": asdict(replace(table, rows=table.rows[:PROGRESS_ROWS]))}
    with contextlib.suppress(OSError):
        partial.write_text(dumps(said), "utf-8")
        partial.replace(path)


def read_progress(folder: Path) -> dict[str, Any] | None:
    """Return what `write_progress` said last: done, total, doing, left_s, and a table or None.

    None where nothing was said, or nothing that can be read: who watches sees the progress before.
    """
    try:
        said = loads((folder / RAW_FOLDER / PROGRESS_FILE).read_bytes())
    except (OSError, RecordError):
        return None
    if not isinstance(said, dict) or not isinstance(said.get("doing"), str) or not _is_number(said.get("done")):
        return None
    optional = {name: said.get(name) if _is_number(said.get(name)) else None for name in ("total", "left_s")}
    return {"done": said["done"], "doing": said["doing"], **optional, "table": _table(said.get("table"))}


def _is_number(value: JSONValue) -> bool:
    return isinstance(value, (int, float)) and 0 <= value < 1e15


def _table(said: JSONValue) -> Table | None:
    """Return the table of a progress file; None for what is none."""
    try:
        rows = tuple(tuple(map(_cell, row)) for row in said["rows"][:PROGRESS_ROWS])
        columns = tuple(map(str, said["columns"]))
        whole = all(len(row) == len(columns) for row in rows)
        return Table(str(said["title"]), columns, rows, str(said["caption"])) if whole and columns else None
    except (TypeError, KeyError):
        return None


def _cell(said: JSONValue) -> str | Cell:
    return Cell(str(said["text"]), str(said["tone"])) if isinstance(said, dict) else str(said)


def finish(folder: Path, header: RunHeader, outcome: Outcome) -> Run:
    """Write how the run ended, with the environment and case as the child process saw them; return the whole."""
    seen = read(folder)
    for observation in seen.observations:
        if observation.kind == "environment":
            header = replace(header, environment={**header.environment, **observation.values})
        elif observation.kind == "case":
            header = replace(header, case=CaseRecord.from_json(dict(observation.values)))
    write_header(folder, header, outcome)
    return replace(seen, header=header, outcome=outcome)


def read(folder: Path) -> Run:
    """Read a run, tolerating what a kill leaves behind.

    A run that says it is still running is returned as such: the caller knows whether its writer lives.

    Raises:
        RecordError: there is no run in `folder`, or its header can't be read.
    """
    try:
        data = loads((folder / RUN_FILE).read_bytes())
    except OSError as error:
        raise RecordError(f"no run in {folder}: {error.strerror}", mend="name a folder under logs/") from error
    except RecordError as error:
        raise RecordError(f"{folder / RUN_FILE}: {error.message}") from error
    header = RunHeader.from_json(data)
    try:
        outcome = Outcome(data.get("outcome"))
    except ValueError as error:
        raise RecordError(f"{folder / RUN_FILE}: {error}") from error
    observations, damaged = _read_observations(folder / OBSERVATIONS_FILE)
    return Run(header=header, observations=observations, outcome=outcome, damaged=damaged)


def read_header(folder: Path) -> RunHeader | None:
    """Return what a run says of itself, None where it can't be read; its observations are not looked at."""
    try:
        return RunHeader.from_json(loads((folder / RUN_FILE).read_bytes()))
    except (OSError, RecordError, TypeError):
        return None


def _read_observations(path: Path) -> tuple[tuple[Observation, ...], tuple[str, ...]]:
    if not path.is_file():
        return (), ()
    observations: list[Observation] = []
    damaged: list[str] = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                observations.append(Observation.from_json(loads(line)))
            except RecordError as error:
                # The line keeps its number, so that evidence still points to the right one.
                observations.append(Observation("damaged", {"why": error.message}))
                damaged.append(f"{path.name} line {number}: {error.message}")
    return tuple(observations), tuple(damaged)


def runs(workspace: Workspace) -> list[Path]:
    """Return the folders of all runs, oldest first."""
    return sorted(path.parent for path in workspace.logs.glob(f"*/{RUN_FILE}"))
