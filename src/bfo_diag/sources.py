"""The examined source files: which they are, and a copy of each beside the log, as it was when it ran.

A file that is edited between the run and its package would else be shown beside findings that it never had.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from bfo_diag import frames
from bfo_diag.archive.names import fault_of_name
from bfo_diag.records import Observation, Run

FOLDER = "src"
"""The copies are in `raw/src`, below it as they were below the folder from which they were imported."""
READ = ".toml"
"""The suffix of a TARGET that is read and not imported: a recipe."""
KEPT = (".py", READ)
_LARGEST = 4 * 2**20
_GENERATED = "torch."
"""Code that Inductor writes into its cache is imported under torch's own name."""
_OF_THE_TOOL = ("bfo_diag.cases", "pytorch_bfo_optimizer")


@dataclass(frozen=True)
class Source:
    """A file of examined code, as a run names it; `path` is relative to the folder of its import, with `/`."""

    file: str
    path: str
    is_target: bool
    """Whether it is the file that TARGET names."""


def import_root(file: Path) -> tuple[Path, list[str]]:
    """Return the folder from which a file is imported, and its module's name in parts: a package is imported whole."""
    root, names = file.parent, [file.stem]
    while (root / "__init__.py").is_file() and root.name.isidentifier():
        names.insert(0, root.name)
        root = root.parent
    return root, names


def loaded(target: str | None) -> Iterator[tuple[Path, str]]:
    """Yield `(file, path below its import root)` of each module in this process that is examined code.

    The built-in cases and the optimizers that come along are the tool's own, but where they are what is examined.
    """
    of_the_tool = target is None or target.startswith(_OF_THE_TOOL)
    modules = [(name, module) for name, module in sys.modules.items() if isinstance(name, str)]
    for name, module in sorted(modules, key=lambda pair: pair[0]):
        # (Not getattr: what stands in for a module may do anything when it is asked for an attribute.)
        file = module.__dict__.get("__file__") if isinstance(module, ModuleType) else None
        if not isinstance(file, str) or not file.endswith(".py") or name.startswith(_GENERATED):
            continue
        examined = of_the_tool if name.startswith(_OF_THE_TOOL) else frames.owner_of_file(file) is frames.Owner.USER
        if examined:
            path = Path(file).absolute()
            depth = 1 + name.count(".") + (path.stem == "__init__")
            yield path, "/".join(path.parts[-depth:])


class Keeper:
    """Copies the examined files of one process below `raw`, each once: TARGET's own before it is imported."""

    def __init__(self, raw: Path, target: str | None) -> None:
        self._folder = raw / FOLDER
        self._target = target
        self._file = _file_of(target)  # now: the target may change the current folder, or its own text
        self._first = list(self._keep(self._file, _path_of(self._file))) if self._file is not None else []

    def observations(self) -> Iterator[Observation]:
        """Yield a `source` observation for each file that is examined and was not told yet.

        Of two files of one name from two folders the first is kept: an import would have found that one.
        """
        yield from self._first
        self._first = []
        for file, path in loaded(self._target):
            yield from self._keep(file, path)

    def _keep(self, file: Path, path: str) -> Iterator[Observation]:
        yield from keep(self._folder.parent, file, path, target=file == self._file)


def keep(raw: Path, file: Path, path: str, *, target: bool = False) -> Iterator[Observation]:
    """Copy a file below `raw`, and yield the observation that says so; nothing where one of this path is there."""
    copy = raw / FOLDER / path
    try:
        content = file.read_bytes()
        if copy.exists() or len(content) > _LARGEST:
            return
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(content)
    except OSError:
        return  # (a full disk is told by the log itself)
    yield Observation("source", {"file": str(file), "path": path, "target": target})


def recorded(run: Run) -> Iterator[Source]:
    """Yield what the `source` observations of a run name; a path that leads out of its folder is no source."""
    for _, observation in run.of_kind("source"):
        file, path = observation.values.get("file"), observation.values.get("path")
        if isinstance(file, str) and isinstance(path, str) and not fault_of_name(path) and path.endswith(KEPT):
            yield Source(file, path, observation.values.get("target") is True)


def file_part(target: str) -> str:
    """Return what of TARGET names a file: all of a recipe, else what stands before `:name`; nothing of a module."""
    where = target if target.endswith(READ) else target.rpartition(":")[0]
    return where if where.endswith(KEPT) else ""


def _file_of(target: str | None) -> Path | None:
    """Return the file that TARGET names, None where it names a module."""
    where = Path(file_part(target or ""))
    return where.resolve() if where.is_file() else None


def _path_of(file: Path) -> str:
    return file.relative_to(import_root(file)[0]).as_posix()
