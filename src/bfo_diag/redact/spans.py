"""A part of a text that has to go, and what is left of it where parts overlap.

Nothing here knows what a part holds or what is written in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple


class Span(NamedTuple):
    """A part of the text that has to go."""

    start: int
    end: int
    kind: str
    key: str  # what is the same for all written forms of one thing
    whole: bool = False  # left alone, not cut to pieces, where it meets a placeholder


# Of a text and the same text in lower case.
Detector = Callable[[str, str], Iterator[Span]]


class Cover:
    """What of a text is already taken: a part that comes later gets only what is left."""

    def __init__(self, length: int) -> None:
        """Begin with a text of which nothing is taken."""
        self._taken = bytearray(length)

    def take(self, start: int, end: int) -> None:
        """Take everything between `start` and `end`."""
        self._taken[start:end] = b"\1" * (end - start)

    def rest(self, span: Span) -> list[Span]:
        """Return the parts of `span` that were free, and take them."""
        if self._taken.find(1, span.start, span.end) < 0:
            self.take(span.start, span.end)
            return [span]
        if span.whole:
            return []
        pieces: list[Span] = []
        low = self._taken.find(0, span.start, span.end)
        while low >= 0:
            high = self._taken.find(1, low, span.end)
            high = span.end if high < 0 else high
            pieces.append(span._replace(start=low, end=high))
            self.take(low, high)
            low = self._taken.find(0, high, span.end)
        return pieces
