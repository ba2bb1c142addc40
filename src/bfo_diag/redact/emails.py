"""E-mail addresses, told from products of matrices (`x@model.weight`).

The user of a URL is left to `logins.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from bfo_diag.redact.forms import AT, has_at, past_escape, plain, run_before
from bfo_diag.redact.spans import Span

_LOCAL = re.compile(r"[\w.+%'=~-]{1,64}")
_DOMAIN = re.compile(r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}([^\W\d_]{2,24}|xn--[a-z0-9-]{2,40})(?![\w-]|\.[\w])")
_TLDS = frozenset(
    """
    example test invalid localhost local localdomain lan internal corp intra intranet home
    com org net edu gov mil int info biz name pro dev app cloud tech online site xyz page blog shop store life world
    group team work solutions digital network media one berlin london nyc swiss asia science academy university
    systems email company
    io ai me tv cc co to gg fm ly im us uk de fr it es nl be ch at se no fi dk pl cz sk hu ro bg gr pt ie ru ua by
    lt lv ee is lu li mt cy hr si rs ba mk al md tr il ae sa ir iq pk in bd lk np cn jp kr tw hk sg my th vn ph id
    au nz ca mx br ar cl pe uy ve ec bo py za ng ke eg ma tn eu ac
    """.split()  # reserved and private ones; general ones; those of countries
)
_CODE_LABELS = frozenset(
    "self cls model net layer layers module weight weights bias data grad torch np args x w".split()
)
_FILE_ENDINGS = frozenset(
    "py png jpg jpeg gif svg json txt md yaml yml toml html css js ts sh cfg ini log so whl gz zip".split()
)


def find_emails(text: str, lower: str) -> Iterator[Span]:
    """Yield the e-mail addresses."""
    if not has_at(text):
        return
    for at in AT.finditer(text):
        span = _email(text, at)
        if span:
            yield span


def _email(text: str, at: re.Match[str]) -> Span | None:
    domain = _DOMAIN.match(text, at.end())
    start = _local_begin(text, at.start()) if domain else at.start()
    local = text[start : at.start()]
    if not domain or not local or local in {"git", "hg", "svn"}:
        return None
    if not _is_email(text, start, local, domain):
        return None
    return Span(start, domain.end(), "email", plain(local + "@" + domain[0]).lower(), True)


def _local_begin(text: str, end: int) -> int:
    """Return where the part before the `@` begins: after an escape, after `name=`, and at no sign."""
    start = run_before(_LOCAL, text, end, 64)
    percent = text.rfind("%", start, end)
    if percent >= 0:
        start = min(end, percent + (5 if text.startswith("%25", percent) else 3))
    start = past_escape(text, max(start, text.rfind("=", start, end) + 1), end)
    return end - len(text[start:end].lstrip(".'-~"))


def _is_email(text: str, start: int, local: str, domain: re.Match[str]) -> bool:
    """Tell an address from a product of matrices: by the end of its domain and by what follows."""
    labels, after = domain[0].lower().split("."), text[domain.end() : domain.end() + 1]
    if after in {"(", "["} or (domain[1] not in {domain[1].lower(), domain[1].upper()}):
        return False
    if labels[0] in _CODE_LABELS or len(labels[0]) == len(local) == 1:
        return False
    if labels[-1] in _TLDS:
        return True
    before = text[max(0, start - 7) : start]
    enclosed = before.endswith(("<", '"', "'", "mailto:")) and after in {">", '"', "'", "\\", "?"}
    return enclosed and labels[-1] not in _CODE_LABELS | _FILE_ENDINGS
