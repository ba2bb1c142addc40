"""Writes a package: the same files give the same bytes, whoever packs them and wherever.

It appears under its name in one step, and only after the reader of `read.py` accepted it.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from bfo_diag.archive.folders import walk
from bfo_diag.archive.manifest import LIMITS, Listed, Manifest
from bfo_diag.archive.names import BLOCK, MANIFEST, PackageError, fault_of_file, header, visible
from bfo_diag.archive.read import PIECE, examine, open_regular
from bfo_diag.errors import DiagError, WorkspaceError
from bfo_diag.records import JSONValue

_LEVEL = 6


@contextmanager
def _naming(path: Path, done: str) -> Iterator[None]:
    """Turn a failed read or write into an error that names the file."""
    try:
        yield
    except OSError as error:
        raise WorkspaceError(
            f"{visible(str(path))} can't be {done}: {error.strerror or error}",
            mend="free some space or name a file in another folder" if done == "written" else "",
        ) from error


def write(folder: Path, target: Path, *, root: str, about: Mapping[str, JSONValue], force: bool = False) -> Manifest:
    """Pack every file below `folder` into `target`, with `root` as the name of the package.

    Raises:
        DiagError: there is something that a package can't hold (it is named), or `target` exists.
        WorkspaceError: a file can't be read, or `target` can't be written.
    """
    if not force and os.path.lexists(target):
        raise _exists(target)
    listed = tuple(_listed(folder, path) for path in _paths(folder))
    try:
        text = Manifest(root, listed, about).to_bytes()
        manifest = Manifest.from_bytes(text)
    except PackageError as error:
        raise DiagError(f"{visible(str(folder))} can't be packed: {error.message}") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise DiagError(f"what is said about the package is no strict JSON: {visible(str(error))}") from error
    with _in_one_step(target, force=force) as file:
        _pack(file, folder, manifest, text)
        file.flush()
        file.seek(0)
        seen = examine(file, target)
        if not seen.ok:
            why = [*seen.refusals, *(f"{entry.path}: {entry.why}" for entry in seen.entries if entry.state != "ok")]
            raise DiagError(f"{visible(str(folder))} can't be packed: {why[0]}", detail="\n".join(why[1:20]))
    return manifest


def _exists(target: Path) -> DiagError:
    return DiagError(f"{visible(str(target))} exists", mend="name another file, or replace it with --force")


def _paths(folder: Path) -> list[str]:
    """Return the paths of all files in the order of their bytes (which is that of their code points)."""
    found: list[str] = []
    with _naming(folder, "read"):
        for path, kind in walk(folder):
            if kind != "file":
                raise DiagError(f"{visible(str(folder / path))} is {kind}: a package holds plain files only")
            if fault := fault_of_file(path):
                raise DiagError(f"{visible(str(folder / path))} can't be packed: its name {fault}")
            found.append(path)
            if len(found) > LIMITS.files:
                raise DiagError(f"{visible(str(folder))} holds more than {LIMITS.files} files")
    return sorted(found)


def _listed(folder: Path, path: str) -> Listed:
    digest, size = hashlib.sha256(), 0
    with _naming(folder / path, "read"), open_regular(folder / path, follow=False) as file:
        while piece := file.read(PIECE):
            digest.update(piece)
            size += len(piece)
    return Listed(path, size, digest.hexdigest())


def _pack(target: BinaryIO, folder: Path, manifest: Manifest, text: bytes) -> None:
    """Write the archive: the manifest, the files, two empty blocks."""
    with gzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=target, mtime=0) as tar:
        tar.write(header(f"{manifest.name}/{MANIFEST}", len(text)) + text + bytes(-len(text) % BLOCK))
        for listed in manifest.files:
            tar.write(header(f"{manifest.name}/{listed.path}", listed.bytes))
            for piece in _pieces(folder / listed.path, listed.bytes):
                tar.write(piece)
            tar.write(bytes(-listed.bytes % BLOCK))
        tar.write(bytes(2 * BLOCK))


def _pieces(path: Path, size: int) -> Iterator[bytes]:
    """Yield `size` bytes of a file; that they are the bytes of before is seen when the package is verified."""
    with _naming(path, "read"):
        file = open_regular(path, follow=False)
    with file:
        while size:
            with _naming(path, "read"):
                piece = file.read(min(PIECE, size))
            if not piece:
                raise DiagError(f"{visible(str(path))} changed while it was packed", mend="try again")
            size -= len(piece)
            yield piece


@contextmanager
def _in_one_step(target: Path, *, force: bool) -> Iterator[BinaryIO]:
    """Yield a file of another name that becomes `target` at the end, and is removed on any error."""
    partial = target.parent / f".{secrets.token_hex(8)}.partial"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with _naming(target, "written"):
        try:
            with os.fdopen(os.open(partial, flags, 0o644), "w+b") as file:
                yield file
                os.fsync(file.fileno())
            _publish(partial, target, force=force)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink()


def _publish(partial: Path, target: Path, *, force: bool) -> None:
    """Give the file its name; without `force` never that of a file that came in between."""
    if force:
        partial.replace(target)
    else:
        try:
            _link(partial, target)
        except FileExistsError:
            raise _exists(target) from None
    with contextlib.suppress(OSError):
        descriptor = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _link(partial: Path, target: Path) -> None:
    try:
        os.link(partial, target)
    except FileExistsError:
        raise
    except OSError:  # a disk without hard links: take the name first, then replace what holds it
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
        try:
            partial.replace(target)
        except BaseException:
            target.unlink()
            raise
