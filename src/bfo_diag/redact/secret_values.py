"""What a value looks like by itself: a token, a stand-in for one, a path.

What its name makes of it is decided where the name is read, in `assignments.py` and `logins.py`.
"""

from __future__ import annotations

import re

from bfo_diag.redact.placeholders import PLACEHOLDER

_NOTHING = re.compile(
    r"(?:none|null|nil|true|false|undefined|nan|yes|no|on|off|str|string|int|integer|bytes|bool|boolean|any|object|optional"
    r"|secretstr|required|empty|unset|hidden|masked|redacted|password|passwd|token|secret|\*+|x{3,}|\.{2,}|-+|\d\.\d+)\Z",
    re.I,
)
TEMPLATE = re.compile(
    r"(?:\$\{?\w|\$\(|<[\w /|-]{1,64}>?\Z|\{[\w.()\[\]'\" !:]{0,64}\}?\Z|\{\{|%[sdr(]|%\w{1,40}%|\[[\w ]{1,32}\]\Z)"
)
PATH_VALUE = re.compile(r"(?:~|\.{1,2}|[A-Za-z]:)?[/\\]{1,4}[\w.@ -]{1,64}(?:[/\\]|\Z|\.\w{1,8}\Z)|(?:~|\.{1,2})/")
_SCHEME = re.compile(r"(?:Bearer|Basic|Token|Digest|Negotiate|ApiKey|AWS4-HMAC-SHA256)(?: |%20|\+)", re.I)
_NO_TOKEN = re.compile(r"\s|[<>|(){}]")
_NUMBER = re.compile(r"[\d.,:eE+-]+")


def is_stand_in(value: str) -> bool:
    """Whether `value` stands where a secret would: nothing, a placeholder, `none`, `${PASSWORD}`."""
    return not value or bool(PLACEHOLDER.search(value) or _NOTHING.match(value) or TEMPLATE.match(value))


def looks_random(value: str) -> bool:
    """Whether `value` looks as if no person had written it."""
    if len(value) < 8 or _NO_TOKEN.search(value) or _NUMBER.fullmatch(value):
        return False
    digit, letter = any(c.isdigit() for c in value), any(c.isalpha() for c in value)
    mixed = value != value.lower() and value != value.upper()
    return (digit and letter) or (mixed and len(value) >= 16) or (len(value) >= 24 and value.isalnum())


def past_scheme(text: str, start: int, end: int) -> int:
    """Return where the credential begins after the scheme of an Authorization header, else `start`."""
    scheme = _SCHEME.match(text, start, end)
    return scheme.end() if scheme else start
