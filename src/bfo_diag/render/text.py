"""Text of runs and packages made fit to be shown. Each renderer escapes for its own format; this comes before that,
and is the same for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from bfo_diag.shown import Review

_SETTING = {"torch": "torch", "python": "Python", "platform": "on", "cuda": "CUDA", "gpus": "GPU"}
"""What of the environment an expert asks first, and the word before each."""

# Escape codes and other controls; what changes the direction of text or has no width; the line ends that are not "\n";
# what UTF-8 or XML can't hold; the invisible copies of ASCII.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff"
    "\U000e0000-\U000e007f]"
)


def clean(text: str) -> str:
    """Return `text` with what can't be seen (escape codes, text direction) made visible as hexadecimal codes."""
    # (A record that somebody sent may hold a number where a text belongs.)
    return _UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text).replace("\t", "    "))


def one_line(text: str) -> str:
    """Return `text` clean and in one line: a line end shows as its code."""
    return clean(text).replace("\n", "\\n")


def clip(text: str, limit: int, *, where: str) -> str:
    """Return `text`, or its first `limit` characters and a word that says how many are left out, and `where` they are.

    What is only a little longer than the limit stays whole.
    """
    if len(text) <= limit + 20:
        return text
    return f"{text[:limit]}… ({len(text) - limit:,} more characters {where})"


def cut(text: str, most: int, *, head: int | None = None) -> str:
    """Return a text that is short enough; its middle goes, as names mostly differ at their ends.

    `head` says how many characters stay before the cut: half of them, if it is not given.
    """
    shown = clean(text).replace("\n", " ")
    if len(shown) <= most:
        return shown
    head = most // 2 - 1 if head is None else head
    return f"{shown[:head]}…{shown[len(shown) - (most - 1 - head) :]}"


def cut_apart(names: Sequence[str], most: int) -> list[str]:
    """Return names that are short enough, and as far as can be still differ where the names do.

    `encoder.layers.7.attention.weight` and its eleven sisters differ in their middle: what all of them begin with goes,
    and the cut lies where it leaves the most of them apart (to the eye: by letters and digits), as near to the middle
    as that allows.
    """
    shown = [clean(name).replace("\n", " ") for name in names]
    if all(len(name) <= most for name in shown):
        return shown
    first, last = min(shown), max(shown)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    shared = first[:same].rfind(".") + 1 if len(shown) > 1 else 0
    if shared:
        shown = [f"…{name[shared:]}" for name in shown]
    middle = most // 2 - 1
    heads = sorted(range(most), key=lambda head: (abs(head - middle), head))
    return max(([cut(name, most, head=head) for name in shown] for head in heads), key=_told_apart)


def _told_apart(names: Sequence[str]) -> tuple[int, int]:
    return len({re.sub(r"[\W_]+", "", name) for name in names}), len(set(names))


def safe_url(url: str) -> str:
    """Return a web address as it is, and an empty text for all else (javascript:, file:, no host, white space)."""
    if len(url) > 2000 or re.search(r"[\s\\<>\"'`{}|^]", url) or clean(url) != url:
        return ""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return url if parts.scheme in ("https", "http") and parts.hostname else ""


def setting(review: Review) -> str:
    """Return in one line where the runs were made: what an expert asks first."""
    known = dict(review.environment)
    words = [f"{name} {known[key]}" for key, name in _SETTING.items() if known.get(key) not in (None, "", "none")]
    started = min((section.started_utc for section in review.sections), default="")
    return ", ".join([*words, *([started.partition("T")[0]] if started else [])])
