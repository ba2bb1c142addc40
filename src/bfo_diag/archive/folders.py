"""Folders on disk: a package unpacked into an empty one, and one compared with the manifest in it.

What is written has passed the reader of `read.py` before; no link in a folder is followed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from bfo_diag.archive.manifest import LIMITS, Limits, Listed, Manifest
from bfo_diag.archive.names import MANIFEST, PackageError, fault_of_name, visible
from bfo_diag.archive.read import PIECE, Content, Entry, Verification, open_regular, opened, result, verify
from bfo_diag.errors import RecordError, WorkspaceError

CACHES = frozenset({"__pycache__", ".pytest_cache"})
_EXTRAS = 1000  # files beyond the manifest that are named


class _Unpacker:
    """Writes members into an empty folder, and takes all of them away again when asked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[Path, None] = {}  # in the order of their making
        if folder.is_symlink() or not folder.is_dir() or any(folder.iterdir()):
            raise WorkspaceError(f"{visible(str(folder))} is no empty folder", mend="name a new folder")

    def __call__(self, path: str) -> BinaryIO:
        """Open a new file and make the folders above it."""
        above = self._folder
        for part in path.split("/")[:-1]:
            above = above / part
            if above not in self._made:
                above.mkdir(0o700)
                self._made[above] = None
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(self._folder / path, flags, 0o600)
        self._made[self._folder / path] = None
        return os.fdopen(descriptor, "wb")

    def undo(self) -> None:
        """Remove what was made."""
        for path in reversed(self._made):
            with contextlib.suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()


def unpack(path: Path, folder: Path, *, limits: Limits = LIMITS) -> Verification:
    """Verify a package and, if it is ok, write its files and its manifest into the empty `folder`.

    The files are read and hashed a second time as they are written; on any error all of them are removed.

    Raises:
        RecordError: the package changed between the two.
        WorkspaceError: `folder` is not an empty folder, or a file can't be written.
    """
    seen = verify(path, limits=limits)
    if not seen.ok:
        return seen
    try:
        unpacker = _Unpacker(folder)
        try:
            again = verify(path, limits=limits, sink=unpacker)
            if not again.ok or again.content_id != seen.content_id:
                raise RecordError(f"{visible(str(path))} changed while it was unpacked", mend="try again")
        except BaseException:
            unpacker.undo()
            raise
    except OSError as error:
        place = visible(str(error.filename or folder))
        raise WorkspaceError(f"{place} can't be written: {error.strerror or error}") from error
    return again


def walk(folder: Path, *, skip: frozenset[str] = frozenset()) -> Iterator[tuple[str, str]]:
    """Yield path and kind of what is below `folder`, folders left out; no link is followed.

    Raises:
        OSError: a folder can't be read.
    """
    waiting = [""]
    while waiting:
        above = waiting.pop()
        with os.scandir(folder / above) as entries:
            for entry in entries:
                path = above + entry.name
                if entry.is_symlink():
                    yield path, "a symbolic link"
                elif entry.is_dir(follow_symlinks=False):
                    if entry.name not in skip:
                        waiting.append(path + "/")
                else:
                    yield path, "file" if entry.is_file(follow_symlinks=False) else "neither a file nor a folder"


def check_folder(folder: Path, *, limits: Limits = LIMITS) -> Verification:
    """Compare an unpacked folder with its own `MANIFEST.json`; what the manifest does not list is refused.

    Caches that running the files leaves behind (`__pycache__`, `.pytest_cache`) are passed over.
    """
    manifest: Manifest | None = None
    met: dict[str, Entry] = {}
    extras: list[Entry] = []
    try:
        with opened(folder / MANIFEST, follow=False) as file:
            text = file.read(limits.manifest_bytes + 1)
        manifest = Manifest.from_bytes(text, limits)
        listed = {file.path: file for file in manifest.files}
        for path, kind in walk(folder, skip=CACHES):
            if path in listed and kind == "file":
                met[path] = _on_disk(folder / path, listed[path])
            elif path in listed:
                met[path] = Entry(path, listed[path].bytes, "refused", f"it is {kind}")
            elif path != MANIFEST:
                what = kind if kind != "file" else fault_of_name(path)
                extras.append(Entry(visible(path), 0, "refused", "not in the manifest" + (f"; {what}" if what else "")))
                if len(extras) == _EXTRAS:
                    raise PackageError(f"{_EXTRAS} files are not in the manifest, and more are not told")
    except PackageError as error:
        seen = result(folder, manifest, met, error.message)
    except OSError as error:
        seen = result(folder, manifest, met, f"{folder} can't be read: {error.strerror or error}")
    else:
        seen = result(folder, manifest, met)
    entries = (*seen.entries, *sorted(extras, key=lambda entry: entry.path))
    return Verification(folder, seen.manifest, entries, seen.refusals)


def _on_disk(path: Path, listed: Listed) -> Entry:
    content = Content(listed)
    try:
        with open_regular(path, follow=False) as file:
            while piece := file.read(PIECE):
                content.feed(piece)
    except OSError as error:
        return Entry(listed.path, listed.bytes, "refused", f"it can't be read: {error.strerror or error}")
    return content.entry()
