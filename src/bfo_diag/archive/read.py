"""Reads a package that comes from a stranger: in one pass, in bounded memory, with nothing unpacked.

A fault in the structure ends the reading and is told; a file that changed is named and the reading goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from bfo_diag.archive.manifest import LIMITS, Limits, Listed, Manifest
from bfo_diag.archive.names import BLOCK, MANIFEST, PackageError, parse_header, visible
from bfo_diag.archive.text import TextCheck

PIECE = 64 << 10
_FILLING = 64 << 10  # empty bytes with which other tools fill the last record of an archive

Sink = Callable[[str], BinaryIO]


@dataclass(frozen=True)
class Entry:
    """What became of one file: `state` is "ok", "changed", "missing" or "refused", `why` says more."""

    path: str
    bytes: int
    state: str
    why: str = ""


@dataclass(frozen=True)
class Verification:
    """What a reader found. `refusals` are the faults of the structure, at the first of which it stopped."""

    path: Path
    manifest: Manifest | None = None
    entries: tuple[Entry, ...] = ()
    refusals: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether all is there, unchanged, and nothing else is."""
        return self.manifest is not None and not self.refusals and all(entry.state == "ok" for entry in self.entries)

    @property
    def root(self) -> str:
        """The name of the package, empty without a manifest."""
        return self.manifest.name if self.manifest is not None else ""

    @property
    def content_id(self) -> str:
        """The content id, empty without a manifest."""
        return self.manifest.content_id if self.manifest is not None else ""


def open_regular(path: Path, *, follow: bool = True) -> BinaryIO:
    """Open a plain file for reading, without waiting for a writer of a fifo.

    Raises:
        OSError: it can't be read, or is no plain file.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOCTTY", 0)
    descriptor = os.open(path, flags | (0 if follow else getattr(os, "O_NOFOLLOW", 0)))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "it is no plain file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


class _Stream:
    """What a single gzip member holds, given out in pieces."""

    def __init__(self, file: BinaryIO, limits: Limits) -> None:
        self._file = file
        self._limits = limits
        self._inflate = zlib.decompressobj(wbits=31)
        self._taken = 0
        self._given = 0
        self._held = memoryview(b"")

    def _read(self) -> bytes:
        try:
            chunk = self._file.read(PIECE)
        except OSError as error:
            raise PackageError(f"it can't be read: {error.strerror or error}") from error
        if self._taken == 0 and (chunk[:3] != b"\x1f\x8b\x08"[: len(chunk)] or not chunk):
            raise PackageError("it is no gzip file")
        return chunk

    def _fill(self) -> bool:
        """Hold the next piece; return False at the end, whose checksum is then known to be right."""
        while not self._inflate.eof:
            chunk = self._inflate.unconsumed_tail or self._read()
            try:
                piece = self._inflate.decompress(chunk, PIECE)
            except zlib.error as error:
                raise PackageError(f"the gzip stream is broken: {error}") from error
            self._taken += len(chunk) - len(self._inflate.unconsumed_tail)
            self._given += len(piece)
            if self._given > max(self._limits.free_bytes, self._limits.ratio * self._taken):
                raise PackageError(f"it grows more than {self._limits.ratio} times: {self._given} bytes and no end")
            if piece:
                self._held = memoryview(piece)
                return True
            if not chunk and not self._inflate.eof:
                raise PackageError("it is truncated: the gzip stream has no end")
        return False

    def up_to(self, count: int) -> bytes:
        """Return at least one byte and at most `count`."""
        if not self._held and not self._fill():
            raise PackageError("it is truncated: the archive ends too early")
        piece, self._held = self._held[:count], self._held[count:]
        return bytes(piece)

    def exactly(self, count: int) -> bytes:
        """Return `count` bytes."""
        parts = []
        while count:
            parts.append(self.up_to(count))
            count -= len(parts[-1])
        return b"".join(parts)

    def pad(self, size: int) -> None:
        """Go over the padding after a member."""
        if any(self.exactly(-size % BLOCK)):
            raise PackageError("the padding after a member is not empty")

    def end(self) -> None:
        """Check that the archive and the file end here, after one empty block was read."""
        if any(self.exactly(BLOCK)):
            raise PackageError("the archive does not end with two empty blocks")
        filling = 0
        while self._held or self._fill():
            filling += len(self._held)
            if filling > _FILLING or any(self._held):
                raise PackageError("there is something after the end of the archive")
            self._held = memoryview(b"")
        rest = self._inflate.unused_data or self._read()
        if rest.startswith(b"\x1f\x8b"):
            raise PackageError("there is a second gzip member")
        if rest:
            raise PackageError("there is something after the gzip stream")


class _Reading:
    """One pass over a package; what it found so far is kept when a fault ends it."""

    def __init__(self, limits: Limits, sink: Sink | None) -> None:
        self.manifest: Manifest | None = None
        self.entries: dict[str, Entry] = {}
        self._limits = limits
        self._sink = sink

    def first(self, stream: _Stream) -> Manifest:
        """Read the manifest, which has to come first."""
        block = stream.exactly(BLOCK)
        if not any(block):
            raise PackageError("the archive is empty")
        name, size = parse_header(block)
        root, _, rest = name.partition("/")
        if rest != MANIFEST:
            raise PackageError(f"the first member is {visible(name)}, not {MANIFEST} in the folder of the package")
        if size > self._limits.manifest_bytes:
            raise PackageError(f"the manifest is larger than {self._limits.manifest_bytes} bytes")
        text = stream.exactly(size)
        stream.pad(size)
        manifest = Manifest.from_bytes(text, self._limits)
        if manifest.name != root:
            raise PackageError(f"the manifest is of {visible(manifest.name)}, the package of {visible(root)}")
        if self._sink is not None:
            with contextlib.closing(self._sink(MANIFEST)) as out:
                out.write(text)
        return manifest

    def whole(self, stream: _Stream) -> None:
        """Read the manifest and all that follows it."""
        self.manifest = self.first(stream)
        prefix = f"{self.manifest.name}/"
        listed = {prefix + file.path: file for file in self.manifest.files}
        total = 0
        while any(block := stream.exactly(BLOCK)):
            name, size = parse_header(block)
            if name not in listed:
                raise PackageError(f"the member {visible(name)} is not in the manifest")
            if listed[name].path in self.entries:
                raise PackageError(f"the member {visible(name)} stands there twice")
            total += size
            if size > self._limits.file_bytes or total > self._limits.total_bytes:
                raise PackageError(f"the member {visible(name)} is larger than the manifest and the limits allow")
            self.entries[listed[name].path] = self._member(stream, listed[name], size)
        stream.end()

    def _member(self, stream: _Stream, listed: Listed, size: int) -> Entry:
        content = Content(listed)
        with contextlib.ExitStack() as stack:
            out = None if self._sink is None else stack.enter_context(contextlib.closing(self._sink(listed.path)))
            left = size
            while left:
                piece = stream.up_to(left)
                left -= len(piece)
                content.feed(piece)
                if out is not None:
                    out.write(piece)
        stream.pad(size)
        return content.entry()


class Content:
    """Compares the content of a file with what the manifest says of it."""

    def __init__(self, listed: Listed) -> None:
        self._listed = listed
        self._digest = hashlib.sha256()
        self._check = TextCheck(listed.path)
        self._size = 0

    def feed(self, piece: bytes) -> None:
        """Take the next piece."""
        self._digest.update(piece)
        self._check.feed(piece)
        self._size += len(piece)

    def entry(self) -> Entry:
        """Return what became of the file, after its last piece."""
        self._check.feed(b"", last=True)
        listed, fault, sha256 = self._listed, self._check.fault, self._digest.hexdigest()
        if (self._size, sha256) == (listed.bytes, listed.sha256):
            return Entry(listed.path, listed.bytes, "refused" if fault else "ok", fault)
        why = f"{self._size} bytes, sha256 {sha256}; the manifest says {listed.bytes} bytes, sha256 {listed.sha256}"
        return Entry(listed.path, listed.bytes, "changed", f"{why}; {fault}" if fault else why)


def result(path: Path, manifest: Manifest | None, met: Mapping[str, Entry], refusal: str = "") -> Verification:
    """Put the entries in the order of the manifest; what was not met is missing."""
    why = "not read" if refusal else "it is not there"
    files = manifest.files if manifest is not None else ()
    entries = tuple(met.get(file.path, Entry(file.path, file.bytes, "missing", why)) for file in files)
    return Verification(path, manifest, entries, (visible(refusal, limit=600),) if refusal else ())


def examine(file: BinaryIO, path: Path, *, limits: Limits = LIMITS, sink: Sink | None = None) -> Verification:
    """Verify the package that is open as `file`, from where it stands."""
    reading = _Reading(limits, sink)
    try:
        reading.whole(_Stream(file, limits))
    except PackageError as error:
        return result(path, reading.manifest, reading.entries, error.message)
    return result(path, reading.manifest, reading.entries)


@contextlib.contextmanager
def opened(path: Path, *, follow: bool = True) -> Iterator[BinaryIO]:
    """Open a file; a failure is a reason to refuse the package."""
    try:
        file = open_regular(path, follow=follow)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise PackageError(f"{visible(str(path))} can't be read: {why}") from error
    with file:
        yield file


def verify(path: Path, *, limits: Limits = LIMITS, sink: Sink | None = None) -> Verification:
    """Verify a package in one pass; whatever it holds, the result says so and nothing is raised.

    `sink` is called with the path of each member in turn and gets its bytes, which are not verified before all
    are: who writes them somewhere must throw them away when the result is not ok.
    """
    try:
        with opened(path) as file:
            return examine(file, path, limits=limits, sink=sink)
    except PackageError as error:
        return Verification(path, refusals=(visible(error.message, limit=600),))


def read_manifest(path: Path, *, limits: Limits = LIMITS) -> Manifest:
    """Return the manifest of a package, with nothing after it read.

    Raises:
        RecordError: the package is refused.
    """
    with opened(path) as file:
        return _Reading(limits, None).first(_Stream(file, limits))
