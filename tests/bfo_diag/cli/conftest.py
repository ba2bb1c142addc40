"""The command in a process of its own, as its user starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bfo_diag import store
from bfo_diag.workspace import Workspace

COMMAND = [sys.executable, "-c", "from bfo_diag.cli.app import main; main()"]


class Result:
    def __init__(self, done: subprocess.CompletedProcess[str], workspace: Path) -> None:
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr
        self.runs = store.runs(Workspace(workspace))

    @property
    def run(self):
        return store.read(self.runs[-1])

    @property
    def document(self):
        return json.loads(self.out, parse_constant=lambda literal: pytest.fail(literal))


@pytest.fixture
def bfo_diag(tmp_path):
    def call(*arguments: str, environment: dict[str, str] | None = None, **options: object) -> Result:
        env = {**os.environ, "BFO_DIAG_WORKSPACE": str(tmp_path), "COLUMNS": "200", **(environment or {})}
        done = subprocess.run(
            [*COMMAND, *arguments], capture_output=True, text=True, env=env, check=False, timeout=120, **options
        )
        assert "bfo_diag/" not in done.stderr, "a traceback of ours"
        return Result(done, tmp_path)

    return call


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
