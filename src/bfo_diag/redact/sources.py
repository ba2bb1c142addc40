"""Where a Python source may change and still run: in its strings and comments.

What is found there, and the names that may change anywhere, are decided elsewhere.
"""

from __future__ import annotations

import io
import re
import tokenize
import warnings
from functools import cached_property

from bfo_diag.redact.spans import Span

_HINT = re.compile(r"^(?:import \w|from [\w.]+ import |\s*(?:async )?def \w+\(|class \w+[(:]|@\w)", re.M)
_OPENING = re.compile(r"[A-Za-z]*(\"\"\"|'''|\"|')")
_ONLY_SYNTAX_TREE = 0x400  # nothing runs


class Source:
    """A text that may be the whole of a Python source."""

    def __init__(self, text: str, *, whole: bool) -> None:
        """Take `text`; a part of a text (not `whole`) counts as no source."""
        self._text = text
        self._whole = whole

    def within(self, spans: list[Span]) -> list[Span]:
        """Return what of `spans` stands where the text may change: everything, if it is no source."""
        if not spans or self._parts is None:
            return spans
        return [
            span._replace(start=max(span.start, low), end=min(span.end, high))
            for span in spans
            for low, high in self._parts
            if low < span.end and span.start < high
        ]

    @cached_property
    def _parts(self) -> list[tuple[int, int]] | None:
        """Where the strings and comments stand, if this is a source."""
        if not self._whole or not _HINT.search(self._text):
            return None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                compile(self._text, "source", "exec", dont_inherit=True, flags=_ONLY_SYNTAX_TREE)
            return _strings_and_comments(self._text)
        except (SyntaxError, ValueError, MemoryError, RecursionError, tokenize.TokenError, OverflowError):
            return None


def _strings_and_comments(text: str) -> list[tuple[int, int]]:
    line_starts = [0]
    for line in io.StringIO(text, newline=""):
        line_starts.append(line_starts[-1] + len(line))
    parts: list[tuple[int, int]] = []
    for token in tokenize.generate_tokens(io.StringIO(text, newline="").readline):
        start, end = (line_starts[line - 1] + column for line, column in (token.start, token.end))
        if token.type == tokenize.COMMENT:
            parts.append((start + 1, end))
        elif token.type == tokenize.STRING:
            opening = _OPENING.match(text, start, end)
            parts.append((opening.end(), end - len(opening[1])) if opening else (start, end))
        elif tokenize.tok_name[token.type] == "FSTRING_MIDDLE":
            parts.append((start, end))
    return parts
