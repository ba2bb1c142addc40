"""Addresses of private networks, told from the versions of packages (`10.3.5.147`).

Addresses that anyone may know stay; a host's name is left to `known.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from bfo_diag.redact.forms import word_begins
from bfo_diag.redact.spans import Span

_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_NETWORKS = tuple(
    re.compile(rf"{network}\.{_OCTET}\.{_OCTET}(?!\d|\.\d|[A-Za-z])")
    for network in (
        rf"10\.{_OCTET}",
        r"192\.168",
        r"172\.(?:1[6-9]|2\d|3[01])",
        r"169\.254",
        r"100\.(?:6[4-9]|[7-9]\d|1[01]\d|12[0-7])",
    )
)
_IP6 = re.compile(
    r"(?:(?<=[\s\"'\[(=/@,<])|(?<=\\n))(?:fe80|f[cd][0-9a-f]{2}):(?=[0-9a-f]{0,4}:)[0-9a-f:]{2,37}(?:%[\w.-]{1,16})?"
)
_IP_NAME = re.compile(r"ip-1(?:0|72|92)(?:-\d{1,3}){3}(?!\d)")
_VERSION_BEFORE = re.compile(
    r"(?:(?:nvidia|cu(?:da|dnn|blas|rand|fft|solver|sparse|pti|file|tlass)|nccl|nvtx|nvjit|tensorrt|driver|toolkit|mkl"
    r"|version|release|build|pkg|package|wheel)[\w.-]{0,40}[\s\"'\\:=<>~!(@,v]{0,24}|[=<>~!]=\s?|\bv|[A-Za-z0-9]-)\Z",
    re.I,
)
_HIDDEN_BEFORE = re.compile(r"REDACTED_[A-Za-z]+_\d+\S{0,24}\s{0,24}\Z")
_ADDRESS_BEFORE = re.compile(
    r"(?:addr|address|host|hostname|inet|ip|peer|server|gateway|route|via|dns|listen|bind|connect|ping|ssh|endpoint)"
    r"(?:ed|ing)?[\s\"'\\:=<>(\[]{0,12}(?:to |from |on |at |is )?\Z|[/@]\Z",
    re.I,
)
_PORT_OR_MASK = re.compile(r"[:/<]\d")


def find_addresses(text: str, lower: str) -> Iterator[Span]:
    """Yield the addresses of private networks."""
    for network in _NETWORKS:
        for found in network.finditer(text):
            start = found.start()
            if word_begins(text, start) and text[start - 1 : start] not in {".", "_"} and not _is_version(text, found):
                yield Span(start, found.end(), "ip", found[0], True)
    if "::" in text or "fe80:" in lower:
        for found in _IP6.finditer(" " + lower):  # what stands at the beginning, too, has a sign before it
            if "::" in found[0] or found[0].count(":") == 7:
                yield Span(found.start() - 1, found.end() - 1, "ip", found[0], True)
    if "ip-1" in text:
        for found in _IP_NAME.finditer(text):
            if word_begins(text, found.start()):
                yield Span(found.start(), found.end(), "ip", found[0][3:].replace("-", "."), True)


def _is_version(text: str, found: re.Match[str]) -> bool:
    """Whether four numbers are the version of a package: only those that begin with 10 can be one."""
    if not found[0].startswith("10."):
        return False
    start, end = found.span()
    if _PORT_OR_MASK.match(text, end):
        return False
    line = text[max(0, start - 64) : start].rpartition("\n")[2]
    if _ADDRESS_BEFORE.search(line):
        return False
    if _HIDDEN_BEFORE.search(line):
        return True  # it was judged by what now is hidden
    return bool(_VERSION_BEFORE.search(line)) or text.startswith((".dist-info", "-py", ".whl", "+cu", "-cp"), end)
