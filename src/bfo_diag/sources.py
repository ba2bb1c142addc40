"""The examined source files: which they are, and a copy of each beside the log, as it was when it ran.

A file that is edited between the run and its package would else be shown beside findings that it never had.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bfo_diag import frames
from bfo_diag.records import Observation, Run

FOLDER = "src"
"""The copies are in `raw/src`, below it as they were below the folder from which they were imported."""
_LARGEST = 4 * 2**20
_GENERATED = "torch."
"""Code that Inductor writes into its cache is imported under torch's own name."""
_OF_THE_TOOL = ("bfo_diag.cases", "pytorch_bfo_optimizer")


@dataclass(frozen=True)
class Source:
    """A file of examined code, as a run names it; `path` is relative to the folder of its import, with `/`."""

    file: str
    path: str
    sha256: str
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
    of_target = _file_of(target)
    if of_target is not None:
        yield of_target, of_target.relative_to(import_root(of_target)[0]).as_posix()
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or not file.endswith(".py") or name.startswith(_GENERATED):
            continue
        examined = of_the_tool if name.startswith(_OF_THE_TOOL) else frames.owner_of_file(file) is frames.Owner.USER
        if examined:
            path = Path(file).absolute()
            depth = 1 + name.count(".") + (path.stem == "__init__")
            yield path, "/".join(path.parts[-depth:])


def keep(raw: Path, target: str | None) -> Iterator[Observation]:
    """Copy what is loaded and not yet kept below `raw`, and yield a `source` observation for each file.

    Of two files of one name from two folders the first is kept: an import would have found that one.
    """
    folder = raw / FOLDER
    for file, path in loaded(target):
        try:
            content = file.read_bytes()
            copy = folder / path
            if copy.exists() or len(content) > _LARGEST:
                continue
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(content)
        except OSError:
            continue  # (a full disk is told by the log itself)
        digest = hashlib.sha256(content).hexdigest()
        values = {"file": str(file), "path": path, "sha256": digest, "bytes": len(content)}
        yield Observation("source", {**values, "target": file == _file_of(target)})


def _file_of(target: str | None) -> Path | None:
    """Return the file that TARGET names, None where it names a module."""
    where = Path((target or "").rpartition(":")[0])
    return where.resolve() if where.suffix == ".py" and where.is_file() else None


def recorded(run: Run) -> Iterator[Source]:
    """Yield what the `source` observations of a run name."""
    for _, observation in run.of_kind("source"):
        values = observation.values
        yield Source(str(values["file"]), str(values["path"]), str(values["sha256"]), bool(values["target"]))
