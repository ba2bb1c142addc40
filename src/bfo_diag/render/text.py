"""Text of runs and packages made fit to be shown. Each renderer escapes for its own format; this comes before that,
and is the same for all of them.
"""

from __future__ import annotations

import re
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
