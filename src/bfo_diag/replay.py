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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bfo_diag import archive, commands, difference, recorded, store
from bfo_diag.errors import DiagError, ExitCode
from bfo_diag.parts import SAFE_PATH
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
        before = {*(workspace / "logs").glob(f"*/{store.RUN_FILE}")}
        environment = {name: value for name, value in os.environ.items() if name not in _FLAGS}
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


@contextmanager
def opened(path: Path) -> Iterator[tuple[list[Recorded], Path]]:
    """Yield the runs of a package, or of an unpacked one or a single run's folder, and the folder of their sources.

    Raises:
        DiagError: there is no such thing, or a package that does not verify.
    """
    if path.is_dir() and (path / archive.MANIFEST).is_file():
        yield runs_in(path), path / "src"
    elif path.is_dir():
        one = recorded.read(path)
        yield [one], one.source_folder
    else:
        with tempfile.TemporaryDirectory(prefix="bfo-diag-unpacked-") as folder:
            verification = archive.unpack(path, Path(folder))
            if not verification.ok:
                raise DiagError(f"{path} does not verify", mend=f"bfo-diag verify {path} names what is wrong")
            root = Path(folder)
            yield runs_in(root), root / "src"


def edited(path: Path) -> list[str]:
    """Return the files of an unpacked package that are not as its manifest says; none of anything else."""
    if not (path / archive.MANIFEST).is_file():
        return []
    return [entry.path for entry in archive.check_folder(path).entries if entry.state != "ok"]


def runs_in(folder: Path) -> list[Recorded]:
    """Return the runs of an unpacked package, oldest first."""
    runs = sorted((folder / "logs").glob(f"*/{store.RUN_FILE}"))
    return [recorded.read(path.parent, source_folder=folder / "src") for path in runs]


class Recheck:
    """The checks of an unpacked package, as its tests call them: the recorded run of a probe, made again once."""

    def __init__(self, package: Path, probe: str) -> None:
        self._package = package
        self._probe = probe

    @cached_property
    def _differences(self) -> list[difference.Difference]:
        runs = [one for one in runs_in(self._package) if one.probe.name == self._probe]
        wanted = [command for command in plan(runs) if not command.why_not]
        if not wanted:
            import unittest

            why = "; ".join(command.why_not for command in plan(runs)) or f"no run of bfo-diag {self._probe} is packed"
            raise unittest.SkipTest(f"not measured: {why}")  # (pytest takes it as a skip, too)
        return [compare(command, self._package / "src") for command in wanted]

    def ends_as_recorded(self) -> None:
        """Fail where the run ends another way than it did."""
        for one in self._differences:
            before, after = one.outcomes
            if before != after:  # (no assert: python -O would pass it by)
                raise AssertionError(f"{one.title} ended {after}; recorded: {before}")

    def finds_all_again(self) -> None:
        """Fail where a recorded finding is gone or changed."""
        self._none_is(difference.GONE, difference.CHANGED)

    def finds_nothing_new(self) -> None:
        """Fail where there is a finding that was not recorded."""
        self._none_is(difference.NEW)

    def _none_is(self, *statuses: str) -> None:
        said = [
            f"{compared.status}: {compared.finding.code} {compared.finding.place or ''} "
            f"{compared.what or compared.finding.message}"
            for one in self._differences
            for compared in one.compared
            if compared.counts and compared.status in statuses
        ]
        if said:
            raise AssertionError("\n".join(said))

    def main(self, write: Callable[[str], object] = sys.stdout.write) -> int:
        """Run all checks without pytest, say what came of each, and return the exit status."""
        import unittest

        failed = False
        for check in (self.ends_as_recorded, self.finds_all_again, self.finds_nothing_new):
            name = check.__name__.replace("_", " ")
            try:
                check()
                write(f"ok      {self._probe}: {name}\n")
            except unittest.SkipTest as why:
                write(f"skipped {self._probe}: {why}\n")
                return int(ExitCode.CLEAN)
            except DiagError as error:
                write(f"FAILED  {self._probe}: {error.message}\n{error.detail}\n")
                return int(error.exit_code)
            except AssertionError as error:
                failed = True
                write(f"FAILED  {self._probe}: {name}\n{error}\n")
        return int(ExitCode.FINDING if failed else ExitCode.CLEAN)
