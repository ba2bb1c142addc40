"""The runs of a package, of an unpacked one, or of a single run's folder: read, and nothing of them run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bfo_diag import archive, recorded, store
from bfo_diag.errors import DiagError
from bfo_diag.recorded import Recorded


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
