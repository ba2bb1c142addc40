r"""Home folders: `/home/x`, `C:\Users\x`, `/root`, and the one that is known by its path; each gives its user's name.

That name as a bare word, outside of a path, is left to `known.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from bfo_diag.redact.forms import SLASH, ends_with_escape, lowered, plain
from bfo_diag.redact.placeholders import PLACEHOLDER
from bfo_diag.redact.spans import Span

_SYSTEM_HOMES = frozenset({"shared", "public", "default", "all users", "default user", "desktop.ini"})

_NAME_PART = r"(?:[\w.+@$~-]|\\{1,4}u0[0-5][0-9a-fA-F]{2}|\\x[0-9a-fA-F]{2}|%(?:25)?[89A-Fa-f][0-9A-Fa-f])"
_HOME = re.compile(rf"(?:home|Users|users|USERS)({SLASH}{{1,2}})({_NAME_PART}{{1,64}})")
_SPACED_NAME = re.compile(r"[^\\/:*?\"<>|\r\n\t\x00-\x1f]{1,64}(?=\\)")
# What stands between the root and `home`: a drive, a mount, a system folder, or nothing.
_MOUNT = (
    rf"(?:(?:var|export|usr|private|mnt|net|nfs\d*|gpfs|lustre|vol\d*|data\d*|scratch|storage|cluster|hpc|srv|rds"
    rf"|cygdrive|Volumes|[a-z]){SLASH}{{1,2}}){{0,2}}"
)
_SLASH_BEGINS = re.compile(r"[/\\%]")
_SLASHES = re.compile(rf"{SLASH}{{1,2}}")
_ROOTED = re.compile(rf"(?:{SLASH}{{1,2}}){_MOUNT}\Z")
_DRIVE = re.compile(rf"(?P<drive>[A-Za-z](?::|%3[aA]|\\{{1,4}}u003[aA])){SLASH}{{1,2}}\Z")
_SUPERUSER = re.compile(rf"({SLASH})(?:var{SLASH})?root(?![\w.-])")
_FLAG_BEFORE = re.compile(r"(?:-[ILF]|[\[\d;]m)\Z")


def find_homes(text: str, lower: str) -> Iterator[tuple[Span, str]]:
    """Yield the home folders, each with its user's name."""
    if "home" in lower or "users" in lower:
        for found in _HOME.finditer(text):
            home = _home(text, found)
            if home:
                yield home
    if "root" in lower:
        for found in _SUPERUSER.finditer(text):
            if _anchored(text, found.start()):
                yield Span(found.end(1), found.end(), "home", "root", True), "root"


def _home(text: str, found: re.Match[str]) -> tuple[Span, str] | None:
    root = _root_of(text, found.start())
    if root is None:
        return None
    windows = text[max(0, root - 3) : root].lower().endswith((":", "%3a"))
    if found[0].startswith(("users", "USERS")) and not windows:
        return None  # an address of a web interface, /users/42
    name, end = found[2], found.end()
    spaced = _SPACED_NAME.match(text, found.start(2)) if windows and text[end : end + 1] == " " else None
    if spaced:
        name, end = spaced[0], spaced.end()
    trimmed = name.rstrip(".~+@$-")
    if not trimmed or name.startswith("$") or PLACEHOLDER.match(name):
        return None
    end -= len(name) - len(trimmed)
    user = plain(trimmed)
    if user.lower() in _SYSTEM_HOMES:
        return None
    slashes = _SLASHES.match(text, root, found.start())
    return Span(slashes.end() if slashes else root, end, "home", user, True), user


def _root_of(text: str, index: int) -> int | None:
    """Return where the first slash of the path stands whose `home` begins at `index`."""
    if text[max(0, index - 2) : index] in {" /", '"/', "'/", "\n/", "=/"}:
        return index - 1  # as most are written
    low = max(0, index - 64)
    drive = _DRIVE.search(text, low, index)
    if drive and (drive.start() == 0 or not text[drive.start() - 1].isalnum()):
        return drive.end("drive")
    for slash in _SLASH_BEGINS.finditer(text, low, index):
        if _ROOTED.match(text, slash.start(), index) and _anchored(text, slash.start()):
            return slash.start()
    return None


def _anchored(text: str, index: int) -> bool:
    """Whether a path that begins at `index` begins at the root."""
    previous = text[index - 1] if index else ""
    if not (previous.isalnum() or previous in {".", "-", "~", "_", ")", "}"}):
        return True
    return ends_with_escape(text, index) or _FLAG_BEFORE.search(text, max(0, index - 8), index) is not None


class OwnHome(NamedTuple):
    """A home that stands in no usual place."""

    path: str
    pattern: re.Pattern[str]
    last: str  # its last folder, in lower case

    def find(self, text: str, lower: str) -> Iterator[Span]:
        """Yield where the home is written."""
        if self.last in lower:
            for found in self.pattern.finditer(text):
                if _anchored(text, found.start()):
                    yield Span(found.end(1), found.end(), "home", self.path, True)


def user_of(home: str) -> str | None:
    """Return whose `home` it is, if it stands in the usual place."""
    return next((user for _, user in find_homes(home, lowered(home))), None)


def own_home(home: str) -> OwnHome | None:
    """Return how to find a home by its path; none for a path that is too short to tell anything."""
    parts = [part for part in re.split(r"[/\\]+", home) if part]
    if len(parts) < 2 or len(parts[-1]) < 2:
        return None
    below = parts[1:] if re.fullmatch(r"[A-Za-z]:", parts[0]) else parts
    body = rf"{SLASH}{{1,2}}".join(re.escape(part) for part in below)
    return OwnHome(home, re.compile(rf"({SLASH}{{1,2}}){body}(?![\w-])"), lowered(parts[-1]))
