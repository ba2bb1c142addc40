"""A progress line on a terminal while a run goes on; nothing in a pipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from bfo_diag.records import loads
from bfo_diag.store import OBSERVATIONS_FILE


class _Follower:
    """Counts the lines of a growing log, reading each byte once."""

    def __init__(self, bar: Progress, name: str) -> None:
        self._bar = bar
        self._task = bar.add_task(f"{name}: starting torch", total=None)
        self._name = name
        self._read = 0
        self._cells = 0
        self._total: int | None = None

    def __call__(self, folder: Path) -> None:
        """Look at what was written since the last call."""
        path = folder / OBSERVATIONS_FILE
        if not path.exists():
            return
        with path.open("rb") as log:
            log.seek(self._read)
            new = log.read()
        whole = new.rfind(b"\n") + 1
        self._read += whole
        for line in new[:whole].splitlines():
            if b'"kind": "plan"' in line:
                self._total = loads(line)["values"]["cells"]
            elif b'"kind": "cell"' in line or b'"kind": "step"' in line:
                self._cells += 1
        if whole:
            self._bar.update(self._task, description=self._name, completed=self._cells, total=self._total)


@contextmanager
def watching(out: Console, name: str) -> Iterator[Callable[[Path], None] | None]:
    """Yield what the runner calls now and then, or None where nobody watches."""
    if not out.is_terminal:
        yield None
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=out, transient=True) as bar:
        yield _Follower(bar, name)
