"""Who logs in with what: `Bearer` headers, netrc, curl, pairs in code, XML elements, and the logins in URLs.

A token that shows by its own shape is left to `shapes.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from bfo_diag.redact.forms import has_at, plain
from bfo_diag.redact.placeholders import PLACEHOLDER
from bfo_diag.redact.secret_names import name_strength
from bfo_diag.redact.secret_values import TEMPLATE, is_stand_in, looks_random
from bfo_diag.redact.shapes import SHAPES
from bfo_diag.redact.spans import Span

_SCHEMED = re.compile(r"(?:bearer|basic)(?: |%20|\+|\\u0020)([\w.~+/=-]{8,4096})", re.I)
_NETRC = re.compile(r"\blogin\s{1,40}(\S{1,128})\s{1,40}password\s{1,40}(\S{1,256})")
_CURL_USER = re.compile(r"(?:-u|--user|--proxy-user)[ =]?[\"']?([\w.@+-]{1,64}):([^\s\"']{1,256})")
_AUTH_PAIR = re.compile(
    r"(?:auth\s{0,4}=\s{0,4}|BasicAuth)\(\s{0,8}\\{0,7}[\"']([^\"'\\\n]{1,128})\\{0,7}[\"'],"
    r"\s{0,8}\\{0,7}[\"']([^\"'\\\n]{1,256})\\{0,7}[\"']"
)
_ELEMENT = re.compile(r"<([A-Za-z][\w.-]{1,48})>([^<>\r\n]{1,1024})<\\{0,4}/")
_SSHPASS = re.compile(r"sshpass\s{1,4}-p\s{0,4}[\"']?([^\s\"'\\]{1,256})")
_URL = re.compile(
    r"(?::|%(?:25)?3[aA]|\\u003[aA])(?:\\{0,8}/|%(?:25)?2[fF]|\\{1,4}u002[fF]){2}"
    r"(?P<user>(?:(?!%(?:25)?(?:3[aA]|2[fF]|40)|\\{1,4}u00)[^\s/:@\"'<>?#\\,|`(]){0,256})"
    r"(?:(?::|%(?:25)?3[aA]|\\{1,4}u003[aA])"
    r"(?P<password>(?:(?!%(?:25)?40|\\{1,4}u0040)[^\s/\"'<>\\|`]){0,1024}))?"
    r"(?P<at>@|%(?:25)?40|\\{1,4}u0040)"
)
_URL_HINT = re.compile(r":(?:\\{0,8}/){2}|%(?:25)?3[aA]%(?:25)?2[fF]|\\u003[aA]")


def find_logins(text: str, lower: str) -> Iterator[Span]:
    """Yield the credentials of headers, command lines, code and XML."""
    if "bearer" in lower or "basic" in lower:
        for found in _SCHEMED.finditer(text):
            if looks_random(found[1]) and not PLACEHOLDER.search(found[1]):
                yield Span(found.start(1), found.end(1), "token", found[1])
    for word, pairs in (("login", _NETRC), ("curl", _CURL_USER), ("auth", _AUTH_PAIR)):
        if word in lower:
            for found in pairs.finditer(text):
                yield from _pair(found, 1, 2)
    if "</" in text or "<\\/" in text:
        yield from _elements(text)
    if "sshpass" in lower:
        for found in _SSHPASS.finditer(text):
            if not is_stand_in(found[1]):
                yield Span(found.start(1), found.end(1), "password", found[1])


def _elements(text: str) -> Iterator[Span]:
    for found in _ELEMENT.finditer(text):
        strength = name_strength(found[1])
        if strength and not is_stand_in(found[2]) and (strength == 2 or looks_random(found[2])):
            yield Span(found.start(2), found.end(2), "password" if strength == 2 else "token", plain(found[2]))


def _pair(found: re.Match[str], user_group: int | str, password_group: int | str) -> Iterator[Span]:
    user, password = found[user_group], found[password_group] or ""
    if not is_stand_in(user):
        start, end = found.span(user_group)
        if SHAPES.fullmatch(user):
            yield Span(start, end, "token", user)
        else:
            yield Span(start, end, "user", plain(user).lower())
    if password.strip("*x.") and not PLACEHOLDER.search(password) and not TEMPLATE.match(password):
        start, end = found.span(password_group)
        yield Span(start, end, "password", plain(password))


def find_urls(text: str, lower: str) -> Iterator[Span]:
    """Yield the users and passwords in URLs; the host stays."""
    if not has_at(text):
        return
    for hint in _URL_HINT.finditer(text):
        found = _URL.match(text, hint.start())
        if found and (found["password"] or found["user"].lower() not in {"git", "hg", "svn"}):
            yield from _pair(found, "user", "password")
