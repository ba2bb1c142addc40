"""Runs what a package recorded again, on the packed source, and compares finding by finding.

Only commands that are put together here are run, from the packed sources' folder, with the runs written to a temporary
workspace. Nothing of a package is run before its person has said so.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bfo_diag import commands, difference, recorded, store
from bfo_diag.errors import DiagError
from bfo_diag.parts import SAFE_PATH
from bfo_diag.probes import sweep
from bfo_diag.probes.sweep.storage import FOLDER, VARIABLE
from bfo_diag.recorded import Recorded

_LIBRARY = "pytorch_bfo_optimizer"
_FLAG_VALUE = re.compile(r"[\w.,+-]{1,64}")
_FLAGS = (
    "TORCHDYNAMO_DISABLE",
    "TORCH_COMPILE_DISABLE",
    "TORCHINDUCTOR_FREEZING",
    "TORCHINDUCTOR_CPP_WRAPPER",
    "TORCH_COMPILE_DEBUG",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
)
"""What of the recorded environment a replay sets again: flags that change results, and no path or program."""


@dataclass(frozen=True)
class Command:
    """What a replay runs for one recorded run, or why it can't."""

    recorded: Recorded
    words: tuple[str, ...]
    flags: tuple[tuple[str, str], ...] = ()
    why_not: str = ""

    def __str__(self) -> str:
        """Return the command as it is shown, to be read before it is run."""
        shown = shlex.join(["bfo-diag", *self.words])
        return " ".join([*(f"{name}={value}" for name, value in self.flags), shown])


def plan(runs: Sequence[Recorded]) -> list[Command]:
    """Return what a replay of these runs would run."""
    return [_command(one) for one in runs]


def _command(one: Recorded) -> Command:
    header = one.run.header
    target = one.portable_target
    if target is None and header.case.target is not None:
        return Command(one, (), why_not="the source of its target is not in the package")
    words = tuple(commands.arguments(header, one.probe, target=target, elsewhere=True))
    recorded_flags = header.environment.get("flags")
    recorded_flags = recorded_flags if isinstance(recorded_flags, dict) else {}
    flags = tuple(
        (name, value)
        for name in _FLAGS
        if isinstance(value := recorded_flags.get(name), str) and _FLAG_VALUE.fullmatch(value)
    )
    return Command(one, words, flags)


def run(command: Command, sources: Path, *, keep: Path | None = None) -> Recorded:
    """Run a command in a workspace, `keep` or a temporary one, and return what it recorded, read into memory.

    Raises:
        DiagError: it left no run.
    """
    with tempfile.TemporaryDirectory(prefix="bfo-diag-replay-") as folder:
        workspace = keep or Path(folder)
        if command.recorded.probe.name == sweep.PROBE.name and (workspace / FOLDER).exists():
            raise DiagError(f"{keep} holds studies of sweeps, which a replay might join", mend="--keep another folder")
        before = {*(workspace / "logs").glob(f"*/{store.RUN_FILE}")}
        environment = {name: value for name, value in os.environ.items() if name not in (*_FLAGS, VARIABLE)}
        environment.update(command.flags)
        environment["PYTHONPATH"] = _import_path(command, sources, Path(folder))
        done = subprocess.run(
            [sys.executable, *SAFE_PATH, "-m", "bfo_diag", *command.words, f"--workspace={workspace}"],
            cwd=sources if sources.is_dir() else folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
        found = sorted({*(workspace / "logs").glob(f"*/{store.RUN_FILE}")} - before)
        if not found:
            said = done.stderr.decode("utf-8", "replace").strip()
            raise DiagError(f"{command} left no run (exit status {done.returncode})", detail=said)
        return recorded.read(found[-1].parent)


def _import_path(command: Command, sources: Path, folder: Path) -> str:
    """Return PYTHONPATH for a replay: no entry of it means the current folder, which holds what somebody sent.

    For the built-in cases the packed optimizers, and nothing else of the package, stand in for the installed ones.
    """
    given = [str(Path(entry).absolute()) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    library = sources / _LIBRARY
    if command.recorded.run.header.case.target is not None or not library.is_dir():
        return os.pathsep.join(given)
    shutil.copytree(library, folder / "library" / _LIBRARY)
    return os.pathsep.join([str(folder / "library"), *given])


def compare(command: Command, sources: Path, *, keep: Path | None = None) -> difference.Difference:
    """Run a command and compare what it finds with what was recorded."""
    return difference.between(command.recorded, run(command, sources, keep=keep))
