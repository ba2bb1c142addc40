"""Two recordings of the same run, finding by finding: reproduced, changed, gone or new; figures side by side.

Nothing is run here, and nothing printed: `replay.py` and `bfo-diag diff` compare with the same rules.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from bfo_diag.findings import catalogue
from bfo_diag.recorded import Recorded
from bfo_diag.records import SCHEMA, Finding, JSONValue, Place
from bfo_diag.shown import Cell, Report, Table

REPRODUCED, CHANGED, GONE, NEW = "reproduced", "changed", "gone", "new"
_NUMBER = re.compile(r"0x[0-9a-f]+|(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
_EXPLAIN = ("torch", "python", "cuda", "gpus", "platform", "machine", "cpu_count", "threads", "default_dtype")
"""What of the environment may explain a difference, besides versions and flags."""
_LATE = re.compile(r"(.*\.)?(compile_s|cache|thrown_away)\b")
_FIGURES = 40
"""Figures shown for a run; the log has them all."""


@dataclass(frozen=True)
class Compared:
    """A finding of the first recording beside that of the second; `what` says what changed of it."""

    status: str
    before: Finding | None
    after: Finding | None
    what: str = ""

    @property
    def finding(self) -> Finding:
        """The finding, as the later recording has it where it has it."""
        found = self.after or self.before
        assert found is not None
        return found

    @property
    def counts(self) -> bool:
        """Whether it makes the two differ: what tells of a machine (that it was busy, say) does not."""
        entry = catalogue().get(self.finding.code)
        return self.status != REPRODUCED and not (entry is not None and entry.of_the_machine)


@dataclass(frozen=True)
class Difference:
    """Two recordings of one run."""

    title: str
    compared: tuple[Compared, ...]
    outcomes: tuple[str, str]
    verdicts: tuple[str, str]
    figures: tuple[tuple[str, JSONValue, JSONValue], ...]
    environment: tuple[tuple[str, JSONValue, JSONValue], ...]

    @property
    def reproduced(self) -> bool:
        """Whether every finding is there again, none is new, and the run ended the same way."""
        return self.outcomes[0] == self.outcomes[1] and not any(one.counts for one in self.compared)


def pairs(before: Sequence[Recorded], after: Sequence[Recorded]) -> tuple[list[tuple[Recorded, Recorded]], list[str]]:
    """Return the runs that can be compared, and in words those that have no counterpart.

    A pair has the same probe and target, the latest of several; else it is the only one of its probe on both sides:
    a package may name the target otherwise (it hides who its files belong to).
    """
    left = {(one.probe.name, _target(one)): one for one in before}
    right = {(one.probe.name, _target(one)): one for one in after}
    found = [(left.pop(key), right.pop(key)) for key in list(left) if key in right]
    for probe in dict.fromkeys(name for name, _ in left):
        one, other = ([key for key in side if key[0] == probe] for side in (left, right))
        if len(one) == len(other) == 1:
            found.append((left.pop(one[0]), right.pop(other[0])))
    alone = [f"{probe} {of} is in {word} alone" for side, word in ((left, "A"), (right, "B")) for probe, of in side]
    return found, alone


def _target(one: Recorded) -> str:
    return one.portable_target or one.run.header.case.target or "built-in cases"


def between(before: Recorded, after: Recorded) -> Difference:
    """Compare two recordings."""
    target, other = _target(before), _target(after)
    return Difference(
        title=f"{before.probe.name} {target}" + (f" -> {other}" if other != target else ""),
        compared=tuple(_findings(_portable(before), _portable(after))),
        outcomes=(before.run.outcome.value, after.run.outcome.value),
        verdicts=(
            before.probe.verdict(before.run, before.findings),
            after.probe.verdict(after.run, after.findings),
        ),
        figures=tuple(_figures(before.summary, after.summary)),
        environment=tuple(_environment(before.run.header.environment, after.run.header.environment)),
    )


def _portable(recorded: Recorded) -> list[Finding]:
    """Return the findings without the folders of their machine, in their places and in what they say."""
    files = sorted(recorded.sources, key=len, reverse=True)

    def plain(text: str) -> str:
        for file in files:
            text = text.replace(file, recorded.portable(file))
        return text

    found = []
    for finding in recorded.findings:
        place = finding.place
        if place is not None and place.file is not None:
            place = replace(place, file=recorded.portable(place.file))
        found.append(replace(finding, place=place, message=plain(finding.message), fix=plain(finding.fix)))
    return found


def _findings(before: Sequence[Finding], after: Sequence[Finding]) -> Iterator[Compared]:
    """Pair the findings: first those that are the same in all, then by code and less and less of the place."""
    left, right = dict(enumerate(before)), dict(enumerate(after))
    pairs: dict[int, Compared] = {}
    for key in (_whole, _at_place, _at_line, _in_file):
        waiting: dict[tuple[object, ...], deque[int]] = {}
        for index, new in right.items():
            waiting.setdefault(key(new), deque()).append(index)
        for index, old in list(left.items()):
            found = waiting.get(key(old))
            if found:
                new = right.pop(found.popleft())
                what = _what_changed(old, new)
                pairs[index] = Compared(CHANGED if what else REPRODUCED, left.pop(index), new, what)
    for index, old in left.items():
        pairs[index] = Compared(GONE, old, None)
    yield from (pairs[index] for index in sorted(pairs))
    yield from (Compared(NEW, None, new) for new in right.values())


def _said(finding: Finding) -> str:
    """Return what a finding says without its figures, which are compared as figures."""
    return _NUMBER.sub("#", finding.message)


def _whole(finding: Finding) -> tuple[object, ...]:
    place = finding.place or Place()
    return (*_at_place(finding), place.line, finding.severity, _said(finding))


def _at_place(finding: Finding) -> tuple[object, ...]:
    place = finding.place or Place()
    return finding.code, place.file, place.source, place.parameter


def _at_line(finding: Finding) -> tuple[object, ...]:
    place = finding.place or Place()
    return finding.code, place.source, place.parameter


def _in_file(finding: Finding) -> tuple[object, ...]:
    return finding.code, (finding.place or Place()).file


def _what_changed(old: Finding, new: Finding) -> str:
    parts = []
    if old.severity is not new.severity:
        parts.append(f"severity {old.severity.value} -> {new.severity.value}")
    before, after = old.place or Place(), new.place or Place()
    if before.file != after.file:
        parts.append(f"file {before.file} -> {after.file}")
    if before.source != after.source:
        parts.append(f"line «{before.source or ''}» -> «{after.source or ''}»")
    elif before.line != after.line:
        parts.append(f"line {before.line} -> {after.line}")
    if before.parameter != after.parameter:
        parts.append(f"parameter {before.parameter} -> {after.parameter}")
    if _said(old) != _said(new):
        parts.append(f"«{old.message}» -> «{new.message}»")
    return "; ".join(parts)


def _figures(before: JSONValue, after: JSONValue) -> Iterator[tuple[str, JSONValue, JSONValue]]:
    old, new = dict(_leaves(before)), dict(_leaves(after))
    last = [key for key in old if _LATE.match(key)]  # what depends on the cache and the machine most comes last
    for key in dict.fromkeys((*(key for key in (*old, *new) if key not in last), *last)):
        if old.get(key) != new.get(key):
            yield key, old.get(key), new.get(key)


def _leaves(value: JSONValue, key: str = "") -> Iterator[tuple[str, JSONValue]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _leaves(item, f"{key}.{name}" if key else str(name))
    elif not isinstance(value, (list, tuple)):
        yield key, value
    elif value and all(isinstance(item, (int, float)) for item in value):
        yield key, " ".join(map(_shown, value))
    else:
        yield f"{key} (how many)", len(value)


def _environment(
    before: Mapping[str, JSONValue], after: Mapping[str, JSONValue]
) -> Iterator[tuple[str, JSONValue, JSONValue]]:
    old = {key: before.get(key) for key in _EXPLAIN}
    new = {key: after.get(key) for key in _EXPLAIN}
    for group in ("versions", "flags"):
        for side, values in ((old, before), (new, after)):
            held = values.get(group)
            side.update({f"{group}.{name}": v for name, v in (held.items() if isinstance(held, Mapping) else ())})
    for key in dict.fromkeys((*old, *new)):
        if old.get(key) != new.get(key):
            yield key, _plain(old.get(key)), _plain(new.get(key))


def _plain(value: JSONValue) -> JSONValue:
    """Return a value that is no collection: the names of GPUs as one text."""
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item.get("name", item)) if isinstance(item, Mapping) else str(item) for item in value)
    return str(value) if isinstance(value, Mapping) else value


def as_report(
    differences: Sequence[Difference], *, edited: Sequence[str] = (), alone: Sequence[str] = (), ran: bool = True
) -> Report:
    """Return what a renderer shows of a comparison: findings, then figures, then what may explain them.

    `edited` names the source files that are not as they were, `alone` the runs that were not compared, and why; `ran`
    says whether something was run again.
    """
    tables: list[Table] = []
    for one in differences:
        tables.append(_finding_table(one))
        if one.figures:
            tables.append(_figure_table(one))
    explaining = dict.fromkeys(row for one in differences for row in one.environment)
    if explaining:
        tables.append(_side_by_side("Differences of environment that may explain it", tuple(explaining), "what"))
    count = dict.fromkeys((REPRODUCED, CHANGED, GONE, NEW), 0)
    for one in differences:
        for compared in one.compared:
            count[compared.status] += 1
    clean = bool(differences) and all(one.reproduced for one in differences) and not alone
    same = REPRODUCED if ran else "the same"
    words = [f"{number} {same if status == REPRODUCED else status}" for status, number in count.items() if number]
    said = ", ".join(words) or "no finding before or after"
    ended = [one for one in differences if one.outcomes[0] != one.outcomes[1]]
    for one in ended:
        said += f"; {one.title} ended {one.outcomes[1]}, before {one.outcomes[0]}"
    said += "".join(f"; not compared: {why}" for why in alone)
    head = ("Reproduced" if clean else "Not reproduced") if ran else ("No difference" if clean else "Different")
    if edited:
        head = f"With your edit of {', '.join(edited[:3])}{' and more' if len(edited) > 3 else ''}"
    return Report(
        verdict=f"{head}: {said}.",
        clean=clean,
        tables=tuple(tables),
        findings=(),
    )


def _finding_table(one: Difference) -> Table:
    tone = {REPRODUCED: "muted", CHANGED: "bad", GONE: "bad", NEW: "bad"}
    rows: list[tuple[str | Cell, ...]] = []
    for compared in one.compared:
        finding = compared.finding
        text = compared.what or finding.message.split("\n", 1)[0]
        status = Cell(compared.status, tone[compared.status] if compared.counts else "muted")
        rows.append((status, finding.code, str(finding.place or ""), text))
    if not rows:
        rows.append((Cell("nothing found, before and after", "muted"), "-", "-", "-"))
    return Table(
        title=one.title, columns=("finding", "code", "place", "what it says, or what changed"), rows=tuple(rows)
    )


def _figure_table(one: Difference) -> Table:
    left_out = max(0, len(one.figures) - _FIGURES)
    table = _side_by_side(f"{one.title}: figures that differ", one.figures[:_FIGURES], "figure")
    return replace(table, caption=f"and {left_out} more in the logs") if left_out else table


def _side_by_side(title: str, rows: Sequence[tuple[str, JSONValue, JSONValue]], head: str) -> Table:
    return Table(
        title=title,
        columns=(head, "before", "after", "after / before"),
        rows=tuple((name, _shown(old), _shown(new), _ratio(old, new)) for name, old, new in rows),
    )


def _shown(value: JSONValue) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value) if value != "" else "none"


def _ratio(old: JSONValue, new: JSONValue) -> str:
    numbers = [value for value in (old, new) if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if len(numbers) < 2 or not all(map(math.isfinite, numbers)) or not old:
        return "-"
    return f"{new / old:.2f}"


def document(
    differences: Sequence[Difference], *, edited: Sequence[str] = (), alone: Sequence[str] = (), ran: bool = True
) -> dict[str, JSONValue]:
    """Return the comparison for `--json`."""
    shown = as_report(differences, edited=edited, alone=alone, ran=ran)
    return {
        "schema": SCHEMA,
        "verdict": shown.verdict,
        "edited": list(edited),
        "not_compared": list(alone),
        "reproduced": shown.clean,
        "runs": [
            {
                "title": one.title,
                "outcomes": list(one.outcomes),
                "verdicts": list(one.verdicts),
                "findings": [
                    {
                        "status": compared.status,
                        "what": compared.what,
                        "before": None if compared.before is None else compared.before.to_json(),
                        "after": None if compared.after is None else compared.after.to_json(),
                    }
                    for compared in one.compared
                ],
                "figures": [{"name": name, "before": old, "after": new} for name, old, new in one.figures],
                "environment": [{"name": name, "before": old, "after": new} for name, old, new in one.environment],
            }
            for one in differences
        ],
    }
