"""Who stands where in a sweep, and what can be said of each arm against the control. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from bfo_diag.probes.sweep import statistics as st
from bfo_diag.probes.sweep.results import Arm, Standing, Sweep


@dataclass(frozen=True)
class Entry:
    """An arm on the leaderboard. Only a complete arm has a rank; arms with the same mean share one."""

    arm: Arm
    rank: int | None
    score: st.Spread | None
    """The metric over the seeds at which the arm came to its end."""
    difference: st.Difference | None
    """Arm - control; None for the control, and for an arm that is neither complete nor partly failed."""
    verdict: str
    """better, worse, tie, not measured; control; or how far the arm came."""
    chance: float | None
    """Of a difference as large where there is none, corrected for how many complete arms are compared (Holm)."""

    @property
    def stands(self) -> bool:
        """Whether a difference outlasts the correction for how many are compared."""
        return self.chance is not None and self.chance <= 1 - st.CONFIDENCE

    @property
    def said(self) -> str:
        """The verdict; one that does not outlast the correction says that it stands by itself."""
        alone = self.verdict in ("better", "worse") and not self.stands
        return f"{self.verdict}, by itself" if alone else self.verdict


@dataclass(frozen=True)
class Leaderboard:
    """The arms, best first: the complete ones by their mean, then those that came less far, the failed last."""

    entries: tuple[Entry, ...]

    @property
    def ranked(self) -> list[Entry]:
        """The complete arms, best first."""
        return [entry for entry in self.entries if entry.rank is not None]

    @property
    def compared(self) -> list[Entry]:
        """The complete arms with an interval."""
        return [entry for entry in self.ranked if entry.verdict in ("better", "worse", "tie")]

    @property
    def better(self) -> list[Entry]:
        """Those that beat the control beyond noise, each by itself."""
        return [entry for entry in self.ranked if entry.verdict == "better"]


def leaderboard(sweep: Sweep) -> Leaderboard:
    """Return the arms in their order."""
    control = {} if sweep.control is None else sweep.control.scores
    scores = {arm.number: st.Spread.of(arm.scores.values()) for arm in sweep.arms}
    differences = {
        arm.number: st.paired(arm.scores, control, arm.seeds)
        for arm in sweep.arms
        if not arm.control and arm.standing in ("complete", "partly failed")
    }
    ranks = _ranks(sweep, scores)
    intervals = {number: found.interval for number, found in differences.items() if number in ranks}
    chances = st.holm({number: found.chance for number, found in intervals.items() if found is not None})
    entries = [
        Entry(
            arm,
            ranks.get(arm.number),
            scores[arm.number],
            differences.get(arm.number),
            _verdict(arm, differences.get(arm.number), higher_is_better=sweep.higher_is_better),
            chances.get(arm.number),
        )
        for arm in sweep.arms
    ]
    return Leaderboard(tuple(sorted(entries, key=_order)))


def _ranks(sweep: Sweep, scores: Mapping[int, st.Spread | None]) -> dict[int, int]:
    """Return the rank of each complete arm: one more than how many have a better mean."""
    sign = -1 if sweep.higher_is_better else 1
    whole = [arm.number for arm in sweep.arms if arm.standing == "complete"]
    means = {number: sign * score.mean for number in whole if (score := scores[number]) is not None}
    return {number: 1 + sum(other < mean for other in means.values()) for number, mean in means.items()}


def _verdict(arm: Arm, difference: st.Difference | None, *, higher_is_better: bool) -> str:
    if arm.standing != "complete":
        return arm.standing
    if difference is None:
        return "control"
    return st.verdict(difference, higher_is_better=higher_is_better)


def _order(entry: Entry) -> tuple[int, int, int]:
    """Return what entries are sorted by. Of pruned arms the one that was kept longest comes first."""
    arm = entry.arm
    kept = sum(trial.epochs for trial in arm.trials.values()) if arm.standing == "pruned" else 0
    return get_args(Standing).index(arm.standing), entry.rank or -kept, arm.number
