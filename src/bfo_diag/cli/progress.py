"""How far a run is, on a terminal while it goes on: a progress line, and its latest figures. Nothing in a pipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from bfo_diag.render.live_table import LEAST_HEIGHT, live_table
from bfo_diag.render.text import one_line
from bfo_diag.shown import Table
from bfo_diag.store import read_progress


class _Bar(Progress):
    """A progress line with a table below it."""

    table: Table | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.table is None:  # (as while rich makes this object: it has no console yet)
            return
        room = self.console.height - 2  # less the progress line, and the one that the cursor ends in
        if room >= LEAST_HEIGHT:
            yield live_table(self.table, width=self.console.width, height=room)


class _Follower:
    """Shows what the run's process last said of itself."""

    def __init__(self, bar: _Bar, name: str) -> None:
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
        self._bar.table = said["table"]
        self._bar.update(
            self._task,
            description=f"{self._name}{count}: {one_line(said['doing'])}",
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
    with _Bar(*columns, console=out, transient=True) as bar:
        yield _Follower(bar, name)
