"""Copies what was recorded into a package's folder: redacted, capped, readable as text; nothing is judged here.

A line of a log that is no strict JSON (a kill cuts one short) becomes a line that says so, in its place.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bfo_diag import sources, store, words
from bfo_diag.archive.names import clash, fault_of_file, header
from bfo_diag.archive.text import json_fault
from bfo_diag.errors import DiagError, RecordError
from bfo_diag.records import JSONValue, Observation, dumps, loads
from bfo_diag.redact import Identity, Redactor

CAP = 16 * 2**20
"""Bytes of a file that are packed; of a larger one its beginning and its end."""
LONGEST_NAME = 80
"""Characters of a package's own name, which stands before that of each file."""
_CHUNK = 2**16
_LONGEST_LINE = 4 * 2**20
_BORDER = 2**20
"""How far from the cap a line may end for the cut to lie there."""
_TEXTS = (".txt", ".log", ".jsonl")
_OURS = ".json"
"""What raw/ holds in JSON tells the processes of a run what to do; it is in the record too, and stays here."""
_COOKIE = re.compile(rb"^([ \t\f]*#.*?coding[:=][ \t]*)([-\w.]+)", re.MULTILINE)


@dataclass
class Packing:
    """The folder that is being filled, and what was done to the files on their way in."""

    folder: Path
    redactor: Redactor
    cap: int = CAP
    truncated: list[dict[str, JSONValue]] = field(default_factory=list)
    left_out: list[dict[str, JSONValue]] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    """Source files that differ between the packed runs; the last is packed."""
    _sources: dict[str, bytes] = field(default_factory=dict)
    _taken: list[str] = field(default_factory=list)

    def run(self, folder: Path) -> Path:
        """Copy a run's record and its raw texts, and return where they are now."""
        name = self._name(folder.name)
        if (self.folder / "logs" / name).exists():
            raise DiagError(
                f"two runs would be packed as {name}: {folder} is the second", mend="pack them one at a time"
            )
        for path in _recorded_files(folder):
            self._log(path, f"logs/{name}/{path.relative_to(folder).as_posix()}")
        for path in _sources_of(folder):
            self._source(path, path.relative_to(folder / store.RAW_FOLDER / sources.FOLDER).as_posix())
        return self.folder / "logs" / name

    def write(self, path: str, text: str) -> None:
        """Put a text of the package's own into it."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text.encode("utf-8", "replace"))

    def _log(self, path: Path, to: str) -> None:
        to = self._name(to if path.suffix != ".log" else f"{to}.txt")
        if path.suffix not in (*_TEXTS, _OURS):
            self.left_out.append({"path": to, "why": f"{path.suffix or 'no suffix'} is no text"})
            return
        if not self._takes(to):
            return
        size = path.stat().st_size
        as_lines = path.suffix == ".jsonl"
        chunks = _capped(path, self.cap, _left_out_line if as_lines else _left_out_text)
        target = self.folder / to
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            redacted = self._lines(_strict(chunks)) if as_lines else self.redactor.stream(chunks)
            for chunk in redacted:
                file.write(chunk)
        if size > self.cap:
            self.truncated.append({"path": to, "bytes": size, "cap": self.cap})

    def _lines(self, lines: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the lines of a log redacted, some at a time; one that is no strict JSON any more says so there."""
        for some in _batches(lines):
            done = self.redactor.text(b"".join(some).decode("utf-8", "replace")).encode("utf-8", "replace")
            redacted = done.splitlines(keepends=True)
            if len(redacted) != len(some):  # something went from line to line: then each by itself
                redacted = [
                    self.redactor.text(line.decode("utf-8", "replace")).encode("utf-8", "replace") for line in some
                ]
            yield from (_checked(line.rstrip(b"\n")) for line in redacted)

    def _name(self, path: str) -> str:
        """Return a path as it is called in the package: part by part, since no part of it is a folder of its own."""
        return "/".join(self.redactor.path(part) for part in path.split("/"))

    def _takes(self, path: str) -> bool:
        """Whether a package can hold a file of this name beside those that it holds; what it can't is told."""
        fault = fault_of_file(path)
        both = None if fault else clash([*self._taken, path])
        if both is not None:
            fault = f"can't stand beside {both[0] if both[0] != path else both[1]} on every disk"
        if not fault:
            try:
                header(f"{'x' * LONGEST_NAME}/{path}", 0)
            except RecordError:
                fault = "is too long for an archive"
        if fault:
            self.left_out.append({"path": path, "why": f"its name {fault}"})
            return False
        self._taken.append(path)
        return True

    def _source(self, path: Path, name: str) -> None:
        content = path.read_bytes()
        if self._sources.get(name) == content:
            return
        text = self.redactor.text(_source_text(content))
        to = f"src/{self._name(name)}"
        if name in self._sources:
            self.changed.append(to)
        elif not self._takes(to):
            return
        target = self.folder / to
        self._sources[name] = content
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text.encode("utf-8", "replace"))


def redactor_for(folders: list[Path], texts: list[str]) -> Redactor:
    """Return a redactor that knows whose machines wrote these runs, and every user whose home they name.

    `secrets` are those of this process's environment: they are never written anywhere, so no run can name them.
    """
    here = Identity.here()
    known = [_identity(folder) for folder in folders]
    written_by = [identity for identity in known if identity is not None] or [here]
    # Who packs is hidden where the questions name them; without one the bytes do not depend on who it is.
    packer = [name for name in (*here.users, *here.hosts) if any(name in text for text in texts)]
    redactor = Redactor(
        Identity(
            users=tuple(dict.fromkeys((*(user for one in written_by for user in one.users), *packer))),
            hosts=tuple(dict.fromkeys(host for identity in written_by for host in identity.hosts)),
            homes=tuple(dict.fromkeys(home for identity in written_by for home in identity.homes)),
            secrets=here.secrets,
        ),
        keep=frozenset(_kept(folders)),
    )
    for folder in folders:
        for path in (*_recorded_files(folder), *_sources_of(folder)):
            redactor.learn(_chunks(path))
    redactor.learn(text.encode("utf-8", "replace") for text in texts)
    return redactor


def _kept(folders: Sequence[Path]) -> set[str]:
    """Return the words of the records and of the libraries that the sources use."""
    found: set[str] = set()
    code: dict[str, str] = {}
    for folder in folders:
        for path in (folder / store.RUN_FILE, folder / store.OBSERVATIONS_FILE):
            if path.is_file():
                found |= words.of_record(_chunks(path))
        for path in _sources_of(folder):
            code[path.relative_to(folder / store.RAW_FOLDER / sources.FOLDER).as_posix()] = _source_text(
                path.read_bytes()
            )
    return found | words.of_code(code)


def _identity(folder: Path) -> Identity | None:
    try:
        return Identity.from_json(loads((folder / store.RAW_FOLDER / store.IDENTITY_FILE).read_bytes()))
    except (OSError, RecordError):
        return None


def _recorded_files(folder: Path) -> list[Path]:
    """Return the record and the raw texts of a run, without what only this machine needs."""
    raw = folder / store.RAW_FOLDER
    texts = [path for path in sorted(raw.glob("*")) if path.is_file() and path.suffix != _OURS]
    record = [folder / store.RUN_FILE, folder / store.OBSERVATIONS_FILE]
    return [path for path in (*record, *texts) if path.is_file() and not path.is_symlink()]


def _sources_of(folder: Path) -> list[Path]:
    found = (folder / store.RAW_FOLDER / sources.FOLDER).rglob("*")
    return sorted(path for path in found if path.suffix in sources.KEPT and path.is_file() and not path.is_symlink())


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _capped(path: Path, cap: int, marker: Callable[[int], bytes]) -> Iterator[bytes]:
    """Yield the file, or of one over the cap its beginning and end, cut where a line ends, and the marker between."""
    size = path.stat().st_size
    if size <= cap:
        yield from _chunks(path)
        return
    with path.open("rb") as file:
        first = _line_end(file, cap // 2, last=True)
        second = _line_end(file, size - cap // 2, last=False)
        file.seek(0)
        yield from _up_to(file, first)
        yield marker(second - first)
        file.seek(second)
        yield from _up_to(file, size - second)


def _line_end(file: io.BufferedReader, near: int, *, last: bool) -> int:
    """Return where a line ends before (`last`) or after `near`; `near` itself where none ends in reach."""
    begin = max(0, near - _BORDER) if last else near
    file.seek(begin)
    window = file.read(near - begin if last else _BORDER)
    at = window.rfind(b"\n") if last else window.find(b"\n")
    if at >= 0:
        return begin + at + 1
    return near  # a line of more than a MiB is cut where it is


def _up_to(file: io.BufferedReader, count: int) -> Iterator[bytes]:
    while count > 0 and (chunk := file.read(min(count, _CHUNK))):
        count -= len(chunk)
        yield chunk


def _left_out_text(count: int) -> bytes:
    return f"[... {count} bytes left out: the file is over the cap ...]\n".encode()


def _left_out_line(count: int) -> bytes:
    why = f"{count} bytes were left out here: the log is over the cap of the package"
    return (dumps(Observation("damaged", {"why": why}).to_json()) + "\n").encode()


def _strict(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield whole lines, each strict JSON; what is none is replaced by a line that says so."""
    line = bytearray()
    for chunk in chunks:
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            line += end
            yield _checked(bytes(line))
            line.clear()
        if len(line) <= _LONGEST_LINE:  # no more is kept of a line that will be replaced
            line += rest
    if line:
        yield _checked(bytes(line))


def _batches(lines: Iterator[bytes]) -> Iterator[list[bytes]]:
    some: list[bytes] = []
    size = 0
    for line in lines:
        some.append(line)
        size += len(line)
        if size >= _BORDER:
            yield some
            some, size = [], 0
    if some:
        yield some


def _checked(line: bytes) -> bytes:
    try:
        if len(line) > _LONGEST_LINE:
            raise RecordError(f"a line of more than {_LONGEST_LINE} bytes is left out")
        loads(line)
        if fault := json_fault(line):
            raise RecordError(fault)
    except RecordError as error:
        return (dumps(Observation("damaged", {"why": error.message}).to_json()) + "\n").encode()
    return line + b"\n"


def _source_text(content: bytes) -> str:
    """Return a source file as text that is UTF-8 once written, whatever encoding it names."""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        text = content.decode(encoding, "replace")
    except SyntaxError:
        return content.decode("utf-8", "replace").replace("\0", "�")
    if encoding not in ("utf-8", "utf-8-sig"):
        head, separator, tail = text.encode("utf-8").partition(b"\n")
        second, separator2, rest = tail.partition(b"\n")
        head, second = (_COOKIE.sub(rb"\1utf-8", line) for line in (head, second))
        text = (head + separator + second + separator2 + rest).decode("utf-8")
    return text.replace("\0", "�")
