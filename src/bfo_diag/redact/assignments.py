"""Values that the name before them makes a secret: assignments, JSON, YAML, options, headers, queries of URLs.

What a name tells is read in `secret_names.py`, what a value looks like by itself in `secret_values.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from bfo_diag.redact.forms import past_escape, plain, run_before
from bfo_diag.redact.secret_names import name_strength, name_words
from bfo_diag.redact.secret_values import PATH_VALUE, is_stand_in, looks_random, past_scheme
from bfo_diag.redact.spans import Span

LONGEST_VALUE = 4 * 1024

_NAME_HINTS = tuple(
    re.compile(
        literal + r"(?=[\w.-]{0,40}(?:(?:\\{0,15}[\"'])?\]?\)?\s{0,8}(?:[:=,]|%(?:25)?3[ad]|\\{1,4}u003[ad])"
        r"|\s|\\{0,15}[\"']\s))"
    )
    for literal in "pass pw secret token key credential auth cookie jwt bearer sas pat sig".split()
)
_NAME = re.compile(r"[\w.-]{0,48}")
_NAME_REST = re.compile(r"[\w.-]{0,40}")
# `API key: ...`: a name of two or three words.
_OWNER_BEFORE = re.compile(
    r"(?<![A-Za-z])(?:api|access|secret|private|auth|account|session|personal|user|client)(?: key)? \Z", re.I
)
_QUERY_BEFORE = ("?", "&", ";", "%3f", "%26", "\\u0026")
_SEPARATOR = re.compile(
    r"(?P<closing>\\{0,15}[\"'])?\]?\)?"
    r"(?P<sep>:\s{0,4}[A-Za-z][\w.\[\]| ,]{0,40}=\s{0,4}(?=[fFrRbBuU]{0,2}\\{0,15}[\"'])"  # NAME: type = "..."
    r"|\s{0,8}(?:=>|:=|===?|=|:|%(?:25)?3[AaDd]|\\{1,4}u003[AaDd])[ \t]{0,8}|\s{0,4},\s{0,40}|[ \t]{1,8})"
)
_QUOTE = re.compile(r"[fFrRbBuU]{0,2}(\\{0,15})([\"'])")
_CODE = re.compile(
    r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*[(\[]"
    r"|(?:self|cls|os|args|config|cfg|opts?|options|settings|request|kwargs|env|secrets|st)\.[A-Za-z_]"
    r"|[a-z_]+(?:\.[a-z_]+)+\Z"
)
_PROSE = frozenset(
    "to is for or and if option flag in on the a an of from when with as by you your it was not are must file".split()
)
_READS_A_NAME = re.compile(r"(?:get|getenv|setdefault|setenv|environ\w*)\(\s*\\*[\"']\Z")
_QUOTE_BEFORE = re.compile(r"(\\{0,15})([\"'])\Z")
# What a value without quotes takes, by the place that it stands in.
_STOP_QUERY = re.compile(r"[^\s\"'&#<>\\`\ufffd]{0,2048}?(?=%26|%23|\\u0026|[\s\"'&#<>\\`\ufffd]|\Z)")
_STOP_WORD = re.compile(r"[^\s\"'`,;<>(){}\[\]|\\&\ufffd]{1,4096}")
_STOP_ARGUMENT = re.compile(r"[^\s\"'`\\\ufffd]{1,4096}")
_STOP_SHELL = re.compile(r"[^\s\"'`\ufffd]{1,4096}")
_STOP_LINE = re.compile(r"[^\r\n\ufffd]{1,4096}?(?=\s{1,64}#|\s{0,64}[\r\n\ufffd]|\s{0,64}\Z)")
_STOP_ESCAPED_LINE = re.compile(r"[^\r\n\ufffd\\\"]{1,4096}")
_STOP_HEADER = re.compile(r"[^\r\n\"'\\\ufffd]{1,4096}")
_LINE_START = re.compile(r"(?:^|[\n\ufffd]|(?P<escaped>\\n))[ \t]{0,32}(?:[-#] |export |set |declare -x |ENV |ARG )?\Z")


class _Assignment(NamedTuple):
    """A name that holds a secret, and how its value is joined to it."""

    name: str
    start: int
    strength: int
    dashed: bool
    query: bool
    separator: str
    value: int  # where the value begins
    quoted_name: bool
    called: bool  # an argument after the name: getenv("NAME", "value")


def find_assignments(text: str, lower: str) -> Iterator[Span]:
    """Yield the values of names that hold a secret."""
    done = -1
    for start in sorted(place.start() for hint in _NAME_HINTS for place in hint.finditer(lower)):
        found = _assignment(text, start) if start >= done else None
        span = _value(text, found) if found else None
        if span:
            done = span.end
            yield span


def _assignment(text: str, index: int) -> _Assignment | None:
    """Read the name around `index` and what joins a value to it."""
    start = past_escape(text, run_before(_NAME, text, index, 48), index)
    rest = _NAME_REST.match(text, index)
    end = rest.end() if rest else index
    owner = _OWNER_BEFORE.search(text, max(0, start - 20), start) if text[start - 1 : start] == " " else None
    start = owner.start() if owner else start
    joined = _SEPARATOR.match(text, end)
    if not joined:
        return None
    written, separator = text[start:end], joined["sep"]
    name = written.lstrip("-.")
    query = text[max(0, start - 6) : start].lower().endswith(_QUERY_BEFORE)
    strength = name_strength(name, query=query)
    if not strength:
        return None
    alone = text[start - 1 : start] in {"", " ", '"', "'", "\n"}
    dashed = written.startswith("--") or (written.startswith("-") and name[:1].isalpha() and alone)
    called = separator.strip() == "," and bool(joined["closing"])
    if (separator.strip() == "," and not called) or (not separator.strip() and not dashed):
        return None
    return _Assignment(name, start, strength, dashed, query, separator, joined.end(), bool(joined["closing"]), called)


def _value(text: str, found: _Assignment) -> Span | None:
    quote = _QUOTE.match(text, found.value)
    start, end = _quoted(text, quote) if quote else _unquoted(text, found)
    if not quote or "\n" not in found.separator:
        credential = past_scheme(text, start, end)
        start = credential if credential < end else start
    value = text[start:end]
    if not (_is_quoted_secret(value, found, text) if quote else _is_unquoted_secret(value, found, text, end)):
        return None
    kind = "password" if found.strength == 2 else "token"
    return Span(start, end, kind, plain(value)) if end > start else None


def _quoted(text: str, quote: re.Match[str]) -> tuple[int, int]:
    """Return where the value begins and ends that stands after `quote`, or after three of them."""
    start, slashes, sign = quote.end(), len(quote[1]), quote[2]
    if not slashes and text.startswith(sign * 2, start):
        end = text.find(sign * 3, start + 2, min(len(text), start + LONGEST_VALUE))
        return (start + 2, end) if end >= 0 else (start, start)
    return start, _closing(text, start, slashes, sign)


def _closing(text: str, start: int, slashes: int, sign: str) -> int:
    """Return where a quoted value ends: at a quote of its own depth, or an outer one, or the end of the line."""
    limit = min(len(text), start + LONGEST_VALUE)
    for found in re.compile(r"\n|(\\*)" + sign).finditer(text, start, limit):
        if found[0] == "\n":
            return found.start()
        depth = len(found[1])
        if depth < slashes or depth % (2 * (slashes + 1)) == slashes:
            return found.end() - 1 - min(depth, slashes)
    return limit


def _unquoted(text: str, found: _Assignment) -> tuple[int, int]:
    """Return where the value begins and ends, by the place that the name stands in."""
    start = found.value
    line_start = _at_line_start(text, found.start)
    quote_before = _QUOTE_BEFORE.search(text, max(0, found.start - 16), found.start)
    if name_words(found.name)[-1] in {"cookie", "authorization"}:
        stop = _STOP_HEADER
    elif found.query or found.separator.startswith(("%", "\\")):
        stop = _STOP_QUERY
    elif quote_before and not found.quoted_name and found.separator == "=":
        return start, _closing(text, start, len(quote_before[1]), quote_before[2])
    elif line_start and found.separator == "=":
        stop = _STOP_ARGUMENT if line_start["escaped"] else _STOP_SHELL
    elif line_start and found.strength == 2 and found.separator.strip() == ":":
        # A line inside a JSON string ends at an escaped break or with the string.
        stop = _STOP_ESCAPED_LINE if line_start["escaped"] else _STOP_LINE
    elif found.dashed:
        stop = _STOP_ARGUMENT
    else:
        credential = _STOP_WORD.match(text, past_scheme(text, start, len(text)))
        return start, credential.end() if credential else start
    value = stop.match(text, start)
    return start, value.end() if value else start


def _at_line_start(text: str, index: int) -> re.Match[str] | None:
    return _LINE_START.search(text, max(0, index - 48), index)


def _is_quoted_secret(value: str, found: _Assignment, text: str) -> bool:
    if is_stand_in(value.strip()) or PATH_VALUE.match(value):
        return False
    named = found.dashed or _READS_A_NAME.search(text, max(0, found.start - 24), found.start)
    if found.called and not named:
        return looks_random(value) and len(value) >= 12
    if name_words(found.name)[-1] == "cookie":
        return "=" in value
    return found.strength == 2 or looks_random(value)


def _is_unquoted_secret(value: str, found: _Assignment, text: str, end: int) -> bool:
    if found.called or "==" in found.separator:
        return False
    if is_stand_in(value) or _CODE.match(value + text[end : end + 1]) or PATH_VALUE.match(value):
        return False
    if name_words(found.name)[-1] == "cookie":
        return "=" in value and "(" not in value
    if found.strength == 1:
        return looks_random(value)
    if not found.separator.strip():
        return value.lower() not in _PROSE and not value.startswith("-") and not (value.isupper() and value.isalpha())
    if value.replace("_", "").isalpha():
        return not name_strength(value) and value.lower() not in _PROSE and not _in_code(text, found, end)
    return not re.fullmatch(r"\d{1,3}", value)


def _in_code(text: str, found: _Assignment, end: int) -> bool:
    """Whether a value that is one plain word is a variable: an argument of a call, or assigned with spaces."""
    if text[end : end + 1] in {",", ")", "]", "}", "("}:
        return True
    return found.separator == " = " and not _at_line_start(text, found.start)
