"""What is written in place of a hidden thing: `REDACTED_user_1`, the same for the same thing in every text.

What has to be hidden is not decided here.
"""

from __future__ import annotations

import re
from collections import Counter

from bfo_diag.redact.spans import Span

PLACEHOLDER = re.compile(r"REDACTED_[A-Za-z]+_\d+")

_SECRET_KINDS = frozenset({"token", "password", "secret"})


class Placeholders:
    """Numbers things by kind in the order that they are first seen in, and counts the replacements."""

    def __init__(self) -> None:
        """Begin with no thing seen."""
        self.counts: Counter[str] = Counter()
        self._numbers: dict[tuple[str, str], int] = {}
        self._last: Counter[str] = Counter()
        self._secret_kinds: dict[str, str] = {}

    def number(self, kind: str, key: str) -> int:
        """Return the number of a thing; one that was never seen gets the next."""
        if (kind, key) not in self._numbers:
            self._last[kind] += 1
            self._numbers[kind, key] = self._last[kind]
        return self._numbers[kind, key]

    def replacement(self, span: Span, text: str) -> str:
        """Return what stands for `span` of `text`; it has as many line breaks, so that lines keep their numbers.

        A user's name keeps its case (`REDACTED_User_1`, `REDACTED_USER_1`): two names in a source stay two names.
        """
        kind = span.kind
        if kind in _SECRET_KINDS:
            kind = self._secret_kinds.setdefault(span.key, kind)  # as which it was first seen
        self.counts[kind] += 1
        written = text[span.start : span.end]
        shown = kind
        if kind == "user" and written[:1].isupper():
            shown = "USER" if written.isupper() else "User"
        return f"REDACTED_{shown}_{self.number(kind, span.key)}" + "\n" * written.count("\n")
