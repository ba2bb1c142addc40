"""Private keys in PEM blocks: whole ones, those without an end and those without a beginning.

A key in one line, as the value of a name, is left to `assignments.py` and `shapes.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from bfo_diag.redact.forms import past_escape
from bfo_diag.redact.spans import Span

LONGEST_KEY = 16 * 1024

_GAP = r"(?: |%(?:25)?20|\+|\\u0020)"
_BORDER = rf"{_GAP}(?:[A-Z0-9]{{1,16}}{_GAP}){{0,3}}PRIVATE{_GAP}KEY(?:{_GAP}BLOCK)?-----"
_BEGIN = re.compile(rf"-----BEGIN{_BORDER}")
_END = re.compile(rf"-----END{_BORDER}")
_BODY = r"(?:[A-Za-z0-9+/=]{16,100}(?:%(?:25)?(?:2[BbFf]|3[Dd])[A-Za-z0-9+/=]{0,100}){0,40}|[A-Za-z0-9+/=]{1,100})"
_BREAK = r"(?:\\{0,8}r)?(?:\\{1,8}n|\r?\n|%(?:25)?0[Aa])"
_LINE = re.compile(rf"[\s\"',+>|()-]{{0,40}}(?:{_BREAK})?[\s\"',+>|()bf]{{0,40}}{_BODY}(?=\\|\s|%|[\"',]|\Z)")
_LINE_BEFORE = re.compile(rf"([A-Za-z0-9+/=]{{1,128}})[\"'\s,]{{0,24}}(?:{_BREAK})?[\"'\s,]{{0,24}}\Z")


def find_key_blocks(text: str, lower: str) -> Iterator[Span]:
    """Yield private keys, whole, without an end and without a beginning."""
    if "-----" not in text:
        return
    done = 0
    stops: list[int] = []
    for begin in _BEGIN.finditer(text):
        if begin.start() < done:
            continue
        end = _END.search(text, begin.end(), begin.end() + LONGEST_KEY)
        done = end.end() if end else _end_of_lines(text, begin.end())
        stops.append(done)
        yield Span(begin.start(), done, "key", text[begin.start() : done])
    before = 0  # where the last whole key before this end stops
    for end in _END.finditer(text):
        while stops and stops[0] <= end.start():
            before = stops.pop(0)
        tail = _begin_of_lines(text, max(before, end.start() - LONGEST_KEY), end.start())
        yield Span(tail, end.end(), "key", text[tail : end.end()])


def _end_of_lines(text: str, index: int) -> int:
    """Return the end of the lines that look like those of a key whose end is missing."""
    limit = min(len(text), index + LONGEST_KEY)
    while index < limit:
        line = _LINE.match(text, index, limit)
        if not line:
            break
        index = line.end()
    return index


def _begin_of_lines(text: str, low: int, high: int) -> int:
    """Return where the lines of a key begin whose beginning was cut off."""
    index = high
    while index > low:
        line = _LINE_BEFORE.search(text, max(low, index - 160), index)
        if line is None or (index != high and len(line[1]) < 16):
            break
        begin = past_escape(text, line.start(), index)  # the letter of an escaped line break is none of the line
        if begin >= index:
            break
        index = begin
    return index
