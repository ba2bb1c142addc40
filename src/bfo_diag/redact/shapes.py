"""Tokens that show by their shape what they are, whatever stands before them: those of well-known services.

A secret without a shape of its own is found by its name, in `assignments.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from bfo_diag.redact.forms import SLASH, plain, run_before, word_begins
from bfo_diag.redact.spans import Span

SHAPES = re.compile(
    "|".join(
        (
            r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Za-z0-9])",
            r"gh[pousr]_[A-Za-z0-9]{30,255}",
            r"github_pat_\w{22,255}",
            r"gl(?:pat|ptt|dt|rt|soat|cbt)-[\w-]{20,128}",
            r"hf_[A-Za-z0-9]{30,64}",
            r"sk-(?=[\w-]{0,255}\d)[\w-]{20,255}",
            r"xox[abeposr]-[\w-]{10,255}",
            r"xapp-\d-[\w-]{10,255}",
            r"AIza[\w-]{35}",
            r"ya29\.[\w-]{20,1024}",
            r"pypi-[\w-]{50,512}",
            r"npm_[A-Za-z0-9]{36}",
            r"(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,255}",
            r"whsec_[A-Za-z0-9]{24,64}",
            r"SG\.[\w-]{16,64}\.[\w-]{16,128}",
            r"SK[0-9a-f]{32}(?![A-Za-z0-9])",
            r"eyJ[\w-]{8,4096}\.[\w-]{8,8192}(?:\.[\w-]{0,4096}){0,3}",
            r"nvapi-[\w-]{40,128}",
            r"gsk_[A-Za-z0-9]{40,64}",
            r"r8_[A-Za-z0-9]{30,64}",
            r"do[por]_v1_[0-9a-f]{64}",
            r"dckr_pat_[\w-]{20,64}",
            r"lin_api_[A-Za-z0-9]{32,64}",
            r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}",
            r"AGE-SECRET-KEY-1[0-9A-Z]{50,64}",
            r"wandb_v1_[\w-]{20,128}",
            r"key-[0-9a-f]{32}(?![A-Za-z0-9])",
            r"hvs\.[\w-]{20,255}",
        )
    )
)
# A search for a literal is several times faster than one for many alternatives.
_SHAPE_HINTS = tuple(
    re.compile(hint)
    for hint in (
        r"A(?:[KSB]I|CC)A gh[pousr]_ github_pat_ gl[a-z]{2,4}- hf_ sk[-_] rk_ xox xapp- AIza ya29 pypi- npm_ whsec_"
        r" SG\. SK[0-9a-f] eyJ nvapi- gsk_ r8_ do[por]_v1_ wandb_v1_ dckr_ lin_api_ shp[acs] AGE-S key-[0-9a-f] hvs\."
    ).split()
)
_TELEGRAM = re.compile(r":AA[\w-]{32,36}(?![\w-])")
_TELEGRAM_BOT = re.compile(r"\d{8,10}")
_HOOK = re.compile(
    rf"(?:hooks\.slack\.com{SLASH}(?:services|workflows)|discord(?:app)?\.com{SLASH}api{SLASH}webhooks){SLASH}"
    rf"([\w-]{{4,32}}(?:{SLASH}[\w-]{{4,128}}){{1,4}})"
)


def find_shapes(text: str, lower: str) -> Iterator[Span]:
    """Yield the tokens of well-known services, and the secret part of a webhook's address."""
    for hint in _SHAPE_HINTS:
        for place in hint.finditer(text):
            start = place.start()
            found = SHAPES.match(text, start)
            if found and word_begins(text, start) and text[start - 1 : start] not in {"-", "_"}:
                yield Span(start, found.end(), "token", found[0])
    if ":AA" in text:
        for found in _TELEGRAM.finditer(text):
            start = run_before(_TELEGRAM_BOT, text, found.start(), 10)
            if start < found.start():
                yield Span(start, found.end(), "token", text[start : found.end()])
    if "hooks" in lower:
        for found in _HOOK.finditer(text):
            yield Span(found.start(1), found.end(1), "token", plain(found[1]))
