"""The command as its user starts it, in processes of its own; and its answer alone, had in this one."""

from __future__ import annotations

import contextlib
import io
import json
import linecache
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from bfo_diag import child, parts, runner, store
from bfo_diag.cli import app
from bfo_diag.probes.compile import events
from bfo_diag.torch_state import as_it_was
from bfo_diag.workspace import Workspace

COMMAND = [sys.executable, "-c", "from bfo_diag.cli.app import main; main()"]


class Result:
    def __init__(self, code: int, out: str, err: str, workspace: Path) -> None:
        assert "bfo_diag/" not in err, "a traceback of ours"
        self.code, self.out, self.err = code, out, err
        self.runs = store.runs(Workspace(workspace))

    @property
    def run(self):
        return store.read(self.runs[-1])

    @property
    def document(self):
        return json.loads(self.out, parse_constant=lambda literal: pytest.fail(literal))


@pytest.fixture
def bfo_diag(tmp_path):
    """Run the command in processes of its own: each of them imports torch, which takes seconds."""

    def call(*arguments: str, environment: dict[str, str] | None = None, **options: object) -> Result:
        env = {**os.environ, "BFO_DIAG_WORKSPACE": str(tmp_path), "COLUMNS": "200", **(environment or {})}
        done = subprocess.run(
            [*COMMAND, *arguments], capture_output=True, text=True, env=env, check=False, timeout=120, **options
        )
        return Result(done.returncode, done.stdout, done.stderr, tmp_path)

    return call


class DoneHere:
    """Stands in for a child process of the tool: what that would do is done in this one, which has torch already."""

    returncode = 0

    def __init__(self, arguments: Sequence[str], *, stdout=None, stderr=None, env, **_: object) -> None:
        where = arguments[arguments.index("bfo_diag.child") + 1 :]
        linecache.clearcache()  # a new process has read no source
        events._definitions.cache_clear()
        with (
            as_it_was(),
            warnings.catch_warnings(),
            mock.patch.dict(os.environ, env, clear=True),
            _written_to(stdout, contextlib.redirect_stdout),
            _written_to(stderr, contextlib.redirect_stderr),
        ):
            warnings.simplefilter("ignore")  # a target may warn as it likes
            child.run(*map(Path, where))

    def wait(self, timeout: float | None = None) -> int:
        return self.returncode

    def poll(self) -> int:
        return self.returncode


@contextlib.contextmanager
def _written_to(file: io.BufferedIOBase | None, redirect: type) -> Iterator[None]:
    """Have what is printed meanwhile written to a binary file, where there is one."""
    if file is None:
        yield
        return
    text = io.TextIOWrapper(file, "utf-8", write_through=True)
    try:
        with redirect(text):
            yield
    finally:
        text.detach()


@pytest.fixture
def bfo_diag_here(tmp_path, monkeypatch, capsys, fresh_imports):
    """Run the command, its child processes and their parts in this process: for what it answers.

    Crashes, signals, time limits, the real stdout and what leaks from part to part need processes: `bfo_diag`.
    """
    monkeypatch.setenv("BFO_DIAG_WORKSPACE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    for module in (runner, parts):
        monkeypatch.setattr(module, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": DoneHere}))
    monkeypatch.setattr(runner, "_kill", lambda process: None)
    monkeypatch.setattr(child, "time_limit", lambda seconds: contextlib.nullcontext())  # the clock is pytest's
    at_the_end = signal.getsignal(signal.SIGTERM)

    def call(*arguments: str, environment: dict[str, str] | None = None) -> Result:
        monkeypatch.setattr(sys, "argv", ["bfo-diag", *arguments])
        for mounted in ("registered_commands", "registered_groups"):
            monkeypatch.setattr(app.app, mounted, [])  # as in a process that has mounted none
        with mock.patch.dict(os.environ, environment or {}), pytest.raises(SystemExit) as ended:
            app.main()
        return Result(ended.value.code, *capsys.readouterr(), tmp_path)

    yield call
    signal.signal(signal.SIGTERM, at_the_end)


@pytest.fixture
def command():
    """Return the command, to be started by hand."""
    return COMMAND


@pytest.fixture
def misbehaving(targets_folder):
    return f"{targets_folder / 'misbehaving.py'}:"


@pytest.fixture(scope="session")
def module_command():
    """Run the command with an environment of its own; for what several tests share."""

    def call(*arguments: str, environment: dict[str, str] | None = None, **options: object):
        env = {**os.environ, "COLUMNS": "200", **(environment or {})}
        return subprocess.run(
            [*COMMAND, *arguments], capture_output=True, text=True, env=env, check=False, timeout=240, **options
        )

    return call
