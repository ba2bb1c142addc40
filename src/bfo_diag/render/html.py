"""A review as one HTML page that needs nothing else: what an expert opens. Here is what it shows, and how much of it;
the layout is in `templates/page.html.j2`. Escaping is the business of `templates.py`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import replace

from markupsafe import Markup

from bfo_diag.records import Severity
from bfo_diag.render import page_parts
from bfo_diag.render.page_parts import FoundPart, Limits
from bfo_diag.render.templates import render, source
from bfo_diag.render.text import clip, setting
from bfo_diag.shown import Review

MOST_BYTES = 1_500_000
"""Of a page. A review that would need more is shown with less of each part, and the page says what it leaves out."""
_SHORT = Limits(findings=100, message=500, rows=400, cell=120, points=10, log_line=120, cell_links=1, links=3)
_LIMITS = (
    Limits(),
    Limits(message=2000, cell=500, points=30, log_line=1000, cell_links=2),
    Limits(message=1000, cell=200, points=20, log_line=300, cell_links=1, links=6),
    _SHORT,
    replace(_SHORT, findings=80, tables=20, rows=200, columns=24, log_lines=2000),
    replace(_SHORT, sections=30, findings=60, tables=12, rows=120, columns=16, charts=8, log_lines=800),
    replace(_SHORT, sections=15, findings=40, tables=8, rows=40, columns=12, cell=80, charts=8, log_lines=200),
    replace(
        _SHORT, sections=6, findings=12, message=200, tables=3, rows=12, columns=10, cell=40, charts=3, log_lines=40
    ),
)
"""From all to little: first long texts grow shorter, then parts are left out."""


def page(review: Review) -> str:
    """Return the review as one HTML document, the same bytes for the same review."""
    text = ""
    for limits in _LIMITS:
        text = _page(review, limits)
        if len(text.encode()) <= MOST_BYTES:
            break
    return text


def _page(review: Review, limits: Limits) -> str:
    style = Markup(source("page.css") + source("chart.css"))
    script = source("page.js")
    shown_runs = page_parts.runs(review, limits)
    found = page_parts.findings(shown_runs, limits)
    shown = found[: limits.findings]
    return render(
        "page.html.j2",
        review=review,
        setting=clip(setting(review), 300, where="below"),
        runs=shown_runs,
        grave=[one for one in shown if one.finding.severity is not Severity.NOTE],
        notes=[one for one in shown if one.finding.severity is Severity.NOTE],
        counts=_counts(found),
        unshown=_unshown(found[limits.findings :]),
        unshown_runs=[
            (section.target or section.probe, len(section.report.findings))
            for section in review.sections[limits.sections :][:50]
        ],
        state=_state(review, found),
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _state(review: Review, found: Sequence[FoundPart]) -> tuple[str, str]:
    """Return tone and headline of the whole."""
    if any(one.finding.severity is Severity.ERROR for one in found):
        return "error", "Errors were found"
    if not review.clean:
        return "warning", "This needs attention"
    if not review.sections:
        return "warning", "Nothing was measured"
    whole = not review.missing and all(section.outcome == "complete" for section in review.sections)
    return ("clean", "Clean") if whole else ("note", "Clean, as far as it was measured")


def _counts(found: Sequence[FoundPart]) -> list[tuple[str, str]]:
    """Return (severity, how many) for each severity that occurs, the gravest first."""
    counts = []
    for severity in sorted(Severity, key=lambda severity: -severity.rank):
        count = sum(one.finding.severity is severity for one in found)
        if count:
            counts.append((severity.value, f"{count:,} {severity.value}{'s' if count > 1 else ''}"))
    return counts


def _unshown(found: Sequence[FoundPart]) -> list[tuple[str, int]]:
    codes: dict[str, int] = {}
    for one in found:
        codes[one.finding.code] = codes.get(one.finding.code, 0) + 1
    return sorted(codes.items())[:50]
