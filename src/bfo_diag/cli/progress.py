"""A progress line on a terminal while a run goes on; nothing in a pipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from bfo_diag.render.text import clean
from bfo_diag.store import read_progress


class _Follower:
    """Shows what the run's process last said of itself."""

    def __init__(self, bar: Progress, name: str) -> None:
        self._bar = bar
        self._task = bar.add_task(f"{name}: starting torch", total=None, left="")
        self._name = name

    def __call__(self, folder: Path) -> None:
        """Look at what it says now."""
        said = read_progress(folder)
        if said is None:
            return
        count = f" {said['done']}/{said['total']}" if said["total"] else ""
        left = "" if said["left_s"] is None else f"about {duration(said['left_s'])} left"
        self._bar.update(
            self._task,
            description=f"{self._name}{count}: {clean(said['doing'])}",
            completed=said["done"],
            total=said["total"],
            left=left,
        )


def duration(seconds: float) -> str:
    """Return `42 s`, `3 min` or `2.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


@contextmanager
def watching(out: Console, name: str) -> Iterator[Callable[[Path], None] | None]:
    """Yield what the runner calls now and then, or None where nobody watches."""
    if not out.is_terminal:
        yield None
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=out, transient=True) as bar:
        yield _Follower(bar, name)
