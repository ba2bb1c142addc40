"""From the record of a sweep to findings: what failed, what is missing, which arms are one and the same."""

from __future__ import annotations

from collections.abc import Iterator

from bfo_diag.findings import catalogue
from bfo_diag.probes.sweep.factors import canonical
from bfo_diag.probes.sweep.leaderboard import leaderboard
from bfo_diag.probes.sweep.results import Arm, Sweep, sweep
from bfo_diag.records import Finding, Outcome, Run


def judge(run: Run) -> Iterator[Finding]:
    """Yield what failed first, then what stands in the way of a conclusion."""
    found = sweep(run)
    if not found.arms:
        return
    for arm in found.arms:
        if arm.standing in ("failed", "partly failed"):
            yield _failed(arm)
    for group in identical(found):
        yield _identical(group)
    yield from _incomplete(run, found)
    yield from _all_tie(found)


def _failed(arm: Arm) -> Finding:
    """Return the finding of an arm; without a control there is nothing to compare, which is another matter."""
    seeds = ", ".join(map(str, arm.failures)) or "unknown"
    message = f"{arm.label}: failed at seed {seeds} ({len(arm.failures)} of {len(arm.seeds)} seeds): {arm.why}"
    entry = catalogue()["SWEEP-CONTROL-FAILED" if arm.control and not arm.scores else "SWEEP-TRIAL-FAILED"]
    replay = next((t.values["replay"] for t, _ in arm.failures.values() if t.values.get("replay")), None)
    lines = [trial.line for trial, _ in arm.failures.values()]
    evidence = tuple(lines) if lines or arm.line is None else (arm.line,)
    return entry.finding(message, fix=f"{replay}: {entry.fix}" if replay else entry.fix, evidence=evidence)


def identical(found: Sweep) -> list[list[Arm]]:
    """Return the groups of complete arms whose losses and weights are the same at every seed."""
    groups: dict[tuple[str, ...], list[Arm]] = {}
    for arm in found.arms:
        digests = tuple(str(trial.values.get("digest") or "") for _, trial in sorted(arm.trials.items()))
        if arm.standing == "complete" and all(digests):
            groups.setdefault(digests, []).append(arm)
    return [group for group in groups.values() if len(group) > 1]


def without_effect(group: list[Arm]) -> list[str]:
    """Return the factors in which identical arms differ."""
    names = dict.fromkeys(name for arm in group for name in arm.levels)
    return [name for name in names if len({canonical(arm.levels.get(name)) for arm in group}) > 1]


def _identical(group: list[Arm]) -> Finding:
    factors = without_effect(group)
    idle = f"{', '.join(factors)} had no effect there" if factors else "they are one configuration"
    message = f"{'; '.join(arm.label for arm in group)}: the same at every seed; {idle}"
    return catalogue()["SWEEP-ARMS-IDENTICAL"].finding(message, evidence=tuple(n for arm in group for n in arm.lines))


def _incomplete(run: Run, found: Sweep) -> Iterator[Finding]:
    """Yield that something is missing: arms that wait, or the study's own record of a sweep that was cut short."""
    cut_short = not found.whole and run.outcome is not Outcome.COMPLETE
    if not found.waiting and not cut_short:
        return
    entry = catalogue()["SWEEP-INCOMPLETE"]
    total = found.waiting + sum(arm.standing != "unfinished" for arm in found.arms)
    message = f"{found.waiting} of {total} arms are not at their end"
    if cut_short:
        message = "this run ended before it wrote down the whole study: what it did itself is all there is"
    name = found.spec.get("study") or found.spec.get("name") or "NAME"
    evidence = () if found.spec_line is None else (found.spec_line,)
    yield entry.finding(message, fix=f"{entry.fix} {name}", evidence=evidence)


def _all_tie(found: Sweep) -> Iterator[Finding]:
    compared = leaderboard(found).compared
    if compared and all(entry.verdict == "tie" for entry in compared):
        least = min(len(entry.difference.by_seed) for entry in compared if entry.difference is not None)
        arms = "the one arm that was compared ties" if len(compared) == 1 else f"all {len(compared)} arms compared tie"
        message = f"{arms} with the control, over {least} seeds"
        lines = tuple(number for entry in compared for number in entry.arm.lines)
        yield catalogue()["SWEEP-ALL-TIE"].finding(message, evidence=lines)
