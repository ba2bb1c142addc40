"""What a member of a package may be called, and its USTAR header, byte for byte.

The reader takes a header that holds a plain file's name and size; mode, owner and time say nothing to it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from bfo_diag.errors import RecordError

MANIFEST = "MANIFEST.json"
SUFFIXES = frozenset({".md", ".json", ".jsonl", ".html", ".py", ".toml", ".txt"})
BLOCK = 512
_USTAR, _GNU = b"ustar\x0000", b"ustar  \0"
NAME_BYTES = 255

_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
"""Categories of characters that are not seen or that turn what is seen: controls, bidi overrides, surrogates."""

_DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{kind}{n}" for kind in ("com", "lpt") for n in range(10))})
_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"5": "a folder",
    b"6": "a fifo",
    b"x": "a PAX header",
    b"g": "a global PAX header",
    b"L": "a GNU long name",
    b"K": "a GNU long link name",
    b"S": "a GNU sparse file",
}


class PackageError(RecordError):
    """A package is refused; the message names the reason."""


def visible(text: str, *, limit: int = 200) -> str:
    """Return `text` in one line and cut to `limit`, with what is not printable written as an escape."""
    shown = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text[: limit + 1]
    )
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def fault_of_name(path: str) -> str:
    """Return why `path` is no safe relative POSIX path; an empty text when it is one."""
    unseen = next((letter for letter in path if unicodedata.category(letter) in _UNSEEN), None)
    if unseen is not None:
        return f"holds the character U+{ord(unseen):04X}"
    if "\\" in path:
        return "holds a backslash"
    if ":" in path:
        return "holds a colon"
    if path.startswith("/"):
        return "is absolute"
    if len(path.encode()) > NAME_BYTES:
        return f"is longer than {NAME_BYTES} bytes"
    for part in path.split("/"):
        if part in ("", ".", ".."):
            return f"has the component {part!r}"
        if part != part.strip(" ") or part.endswith("."):
            return "has a component that begins or ends with a space, or ends with a dot"
        if part.partition(".")[0].rstrip(" ").casefold() in _DEVICES:
            return "is the name of a device on Windows"
    return ""


def fault_of_file(path: str) -> str:
    """Return why a package can't hold a file of this name; an empty text when it can."""
    stem, dot, end = path.rpartition("/")[2].rpartition(".")
    suffix = dot + end if stem.strip(".") else ""
    if suffix in SUFFIXES:
        return fault_of_name(path)
    return fault_of_name(path) or f"has the suffix {visible(suffix)!r}, not one of {' '.join(sorted(SUFFIXES))}"


def clash(paths: Iterable[str]) -> tuple[str, str] | None:
    """Return two paths that are one on a disk that ignores case, or of which one is a folder of the other.

    Paths that share a folded beginning are neighbours once sorted by it, so that only neighbours are compared.
    """

    def folded(path: str) -> str:
        decomposed = unicodedata.normalize("NFD", path).casefold()
        return unicodedata.normalize("NFD", decomposed).replace("/", "\0")

    before: tuple[str, str] | None = None
    for key, path in sorted((folded(path), path) for path in paths):
        if before is not None:
            old, new = before[0].split("\0"), key.split("\0")
            pairs = enumerate(zip(old, new, strict=False))
            shared = next((n for n, (a, b) in pairs if a != b), min(len(old), len(new)))
            if shared == len(old) or before[1].split("/")[:shared] != path.split("/")[:shared]:
                return before[1], path
        before = key, path
    return None


def _split(name: bytes) -> tuple[bytes, bytes]:
    """Return prefix and name as they stand in the header."""
    if len(name) <= 100:
        return b"", name
    slash = name.find(b"/", len(name) - 101)
    if not 0 < slash <= 155:
        raise PackageError(f"the name {visible(name.decode())} does not fit in a USTAR header")
    return name[:slash], name[slash + 1 :]


def header(name: str, size: int) -> bytes:
    """Return the header of a plain file: mode 0644, of nobody, of no time.

    Raises:
        PackageError: the name or the size does not fit.
    """
    prefix, tail = _split(name.encode())
    if size >= 8**11:
        raise PackageError(f"{visible(name)} is too large for a USTAR header: {size} bytes")
    owner = b"0000000\0" * 2
    before = tail.ljust(100, b"\0") + b"0000644\0" + owner + b"%011o\0" % size + b"00000000000\0"
    after = b"0" + bytes(100) + _USTAR + bytes(64) + owner + prefix.ljust(155, b"\0") + bytes(12)
    return before + b"%06o\0 " % (sum(before) + 8 * ord(" ") + sum(after)) + after


def parse_header(block: bytes) -> tuple[str, int]:
    """Return name and size of a member, whose name is safe.

    Raises:
        PackageError: this is not the header of a plain file. Its mode, owner and time say nothing and are not looked
            at: who packed an edited folder again with a tool of their own is to be told which file changed.
    """
    if block[148:156] != b"%06o\0 " % (sum(block) - sum(block[148:156]) + 8 * ord(" ")):
        raise PackageError("a member's header is broken: its checksum is wrong")
    gnu = block[257:265] == _GNU
    raw, _, after = block[:100].partition(b"\0")
    prefix, _, after_prefix = block[345:500].partition(b"\0")
    raw = prefix + b"/" + raw if prefix else raw
    shown = visible(raw.decode(errors="backslashreplace"))
    if block[156:157] != b"0":
        kind = _KINDS.get(block[156:157], f"of the type {block[156:157]!r}")
        raise PackageError(f"the member {shown} is {kind}, not a plain file")
    if block[257:265] not in (_USTAR, _GNU):
        raise PackageError(f"the member {shown} has no USTAR header")
    if any(after) or any(after_prefix) or any(block[157:257]) or any(block[500:]) or (gnu and prefix):
        raise PackageError(f"the header of the member {shown} is not plain: it holds more than the member's name")
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise PackageError(f"the name {shown} is not UTF-8") from None
    if fault := fault_of_name(name):
        raise PackageError(f"the name {shown} {fault}")
    if not re.fullmatch(rb"[0-7]{11}\0", block[124:136]):
        raise PackageError(f"the size of the member {shown} is no plain octal number")
    return name, int(block[124:135], 8)
