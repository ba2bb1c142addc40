"""A text, however it comes in, cut into blocks at places that depend on the text alone.

So a stream gives what the whole text gives; what is done with a block is decided elsewhere.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

BLOCK = 256 * 1024  # characters that are emitted at once
MARGIN = 24 * 1024  # characters seen on either side of a block: more than the longest match


@dataclass
class Window:
    """A block of the text, from `begin` to `end`, between what stands before and after it."""

    text: str
    begin: int
    end: int
    whole: bool  # there is no other block
    skipped: int = 0  # characters that a match of this block took from the next one: its reader says so


def pieces_of(text: str) -> Iterator[str]:
    """Cut a whole text, so that `windows` copies no more of it than it sees."""
    return (text[start : start + BLOCK] for start in range(0, len(text), BLOCK))


def windows(pieces: Iterable[str]) -> Iterator[Window]:
    """Yield the blocks of the text that `pieces` make up."""
    source = iter(pieces)
    buffer, begin, first, ended = "", 0, True, False
    while True:
        incoming, size, seen = [buffer], len(buffer), begin + BLOCK + MARGIN
        while not ended and size < seen:
            piece = next(source, None)
            ended = piece is None
            incoming.append(piece or "")
            size += len(piece or "")
        buffer = "".join(incoming)
        last = ended and len(buffer) <= seen
        end = len(buffer) if last else begin + BLOCK
        window = Window(buffer[:seen], begin, end, whole=first and last)
        yield window
        if last:
            return
        first = False
        at = end + window.skipped
        buffer, begin = buffer[max(0, at - MARGIN) :], min(at, MARGIN)


def decoded(chunks: Iterable[bytes]) -> Iterator[str]:
    """Yield the text of UTF-8, or of UTF-16 if it says so at its beginning."""
    decoder: codecs.IncrementalDecoder | None = None
    head = b""
    for chunk in chunks:
        head += chunk
        if decoder is None and len(head) >= 2:
            wide = head[:2] in {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE}
            decoder = codecs.getincrementaldecoder("utf-16" if wide else "utf-8")("replace")
        if decoder is not None:
            for start in range(0, len(head), BLOCK):
                yield decoder.decode(head[start : start + BLOCK])
            head = b""
    if decoder is None:
        yield head.decode("utf-8", "replace")
    else:
        yield decoder.decode(b"", True)
