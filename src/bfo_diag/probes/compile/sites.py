"""Groups breaks and recompiles of a run by the place they come from. Needs no torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bfo_diag.records import Observation, Place

YOURS, LIBRARY, ON_PURPOSE = "yours", "library", "torch on purpose"
_ON_PURPOSE = {
    "GB0025": "torch._dynamo.graph_break()",
    "GB0098": "torch.compiler.disable",
    "GB0099": "torch.compiler.disable",
}
_ONLY_RAISED = "GB0088"
"""Dynamo's word for an exception of the target's own, which leaves the compiled function: no break where it does."""

Numbered = tuple[int, Observation]


@dataclass
class Site:
    """One place that breaks the graph, for one reason, however often."""

    code: str
    type: str
    owner: str
    place: Place | None
    inner: Place | None
    """The innermost frame, where it is not the user's: the line of the library that broke."""
    observations: list[Numbered] = field(default_factory=list)

    @property
    def first(self) -> Mapping[str, Any]:
        """The values of its first event."""
        return self.observations[0][1].values

    @property
    def events(self) -> int:
        """How often it broke a graph."""
        return len(self.observations)

    @property
    def cascade(self) -> list[tuple[str, str]]:
        """What broke only because of it, as (code, type)."""
        found = {tuple(pair) for _, observation in self.observations for pair in observation.values["cascade"]}
        return sorted(found)

    def key(self, root: Path | None = None) -> str:
        """Return what stays the same when lines move: file (seen from `root`), qualified name, source text, type."""
        return key_of(self.described(root))

    def described(self, root: Path | None = None) -> dict[str, str]:
        """Return the parts of the key and the code, as they stand in a baseline file in the folder `root`."""
        place = self.inner or self.place or Place()
        return {
            "code": self.code,
            "file": portable(place.file or "", root),
            "function": place.function or "",
            "source": normalised(place.source or ""),
            "type": self.type,
        }


def key_of(described: Mapping[str, str]) -> str:
    """Return a short hash of what a baseline entry is."""
    parts = (described["file"], described["function"], described["source"], described["type"])
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def normalised(source: str) -> str:
    """Return a line of source without what formatting changes."""
    return " ".join(source.split())


def portable(file: str, root: Path | None) -> str:
    """Return a file's path from its package folder on, else as it is seen from `root`, with slashes."""
    parts = Path(file).parts
    for index in range(len(parts) - 1, -1, -1):
        if parts[index] in ("site-packages", "dist-packages"):
            return "/".join(parts[index + 1 :])
    if root is None or not file:
        return file
    try:
        return Path(os.path.relpath(Path(file).resolve(), root.resolve())).as_posix()
    except (ValueError, OSError):  # another drive
        return file


def group(breaks: Iterable[Numbered], *, raised_in: frozenset[int] = frozenset()) -> list[Site]:
    """Return the sites of these `break` observations, in the order of their first events.

    What dynamo says of an exception in a call that then raised (`raised_in`) is the exception's, not a break.
    """
    found: dict[tuple[Any, ...], Site] = {}
    for number, observation in breaks:
        values = observation.values
        if values["code"] == _ONLY_RAISED and values["call"] in raised_in:
            continue
        stack = values["frames"]
        innermost = stack[-1] if stack else None
        owner, inner = _owner(values, innermost)
        at = inner or observation.place or Place()
        key = (at.file, at.line, values["code"], values["type"] if values["code"] == "GB-UNKNOWN" else "")
        site = found.get(key)
        if site is None:
            site = found[key] = Site(values["code"], values["type"], owner, observation.place, inner)
        elif site.inner is not None and site.place is not None and site.place.file == site.inner.file:
            # An event that knows the user's line tells more than one that only knows the library's.
            site.place = observation.place or site.place
        site.observations.append((number, observation))
    return list(found.values())


def _owner(values: Mapping[str, Any], innermost: Mapping[str, Any] | None) -> tuple[str, Place | None]:
    if innermost is None or innermost["owner"] == "user":
        return YOURS, None
    place = Place(
        file=innermost["file"],
        line=innermost["line"],
        source=innermost["source"] or None,
        function=innermost["function"],
    )
    called_by_user = any(frame["owner"] == "user" for frame in values["frames"])
    if innermost["owner"] == "python" and called_by_user:
        return YOURS, place
    if innermost["owner"] == "torch" and values["code"] in _ON_PURPOSE:
        return ON_PURPOSE, place
    return LIBRARY, place
