"""Where logs/ and review_packages/ are. Knows nothing of what is in them (that is `store.py`)."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bfo_diag.errors import WorkspaceError

VARIABLE = "BFO_DIAG_WORKSPACE"


@dataclass(frozen=True)
class Workspace:
    """The folder that holds `logs/` and `review_packages/`."""

    root: Path

    @property
    def logs(self) -> Path:
        """One folder a run."""
        return self.root / "logs"

    @property
    def packages(self) -> Path:
        """The tarballs for an expert."""
        return self.root / "review_packages"

    @classmethod
    def find(cls, given: Path | None = None, *, write: bool = True) -> Workspace:
        """Return the workspace: `given`, else `$BFO_DIAG_WORKSPACE`, else the current folder.

        With `write`, its logs/ folder is made.

        Raises:
            WorkspaceError: its logs/ folder can't be made or written.
        """
        if given is not None:
            root, said_by = given, "--workspace"
        elif os.environ.get(VARIABLE):
            root, said_by = Path(os.environ[VARIABLE]), f"${VARIABLE}"
        else:
            root, said_by = Path(), "the current folder"
        workspace = cls(root.expanduser().absolute())
        if not write:
            return workspace
        try:
            workspace.logs.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=workspace.logs):
                pass
        except OSError as error:
            raise WorkspaceError(
                f"the workspace {workspace.root} (from {said_by}) can't be written: {error.strerror or error}",
                mend=f"name a folder that you may write to: --workspace DIR, or set {VARIABLE}",
            ) from error
        return workspace


def make_folder(folder: Path) -> None:
    """Make the folder of packages.

    Raises:
        WorkspaceError: it can't be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkspaceError(
            f"the folder {folder} can't be made: {error.strerror or error}", mend="name another with --out DIR"
        ) from error


def write_whole(path: Path, text: str) -> None:
    """Write a text in one step: what was there stays whole until the new one is.

    Raises:
        WorkspaceError: it can't be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(text.encode("utf-8", "replace"))
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise WorkspaceError(
            f"{path} can't be written: {error.strerror or error}", mend="name another file with --out"
        ) from error
