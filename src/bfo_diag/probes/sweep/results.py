"""What the record of a sweep says, put together: arms, the trials of each at its seeds. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from bfo_diag.probes.sweep.statistics import Spread
from bfo_diag.records import JSONValue, Run

Line = tuple[int, Mapping[str, JSONValue]]
"""The number of a line of the log, from 1, and the values on it."""
Standing = Literal["complete", "pruned", "unfinished", "partly failed", "failed"]
"""How far an arm came, in the order in which a leaderboard shows them."""


@dataclass(frozen=True)
class Trial:
    """One arm with one seed, at its end."""

    line: int
    values: Mapping[str, JSONValue]

    @property
    def seed(self) -> int:
        """The seed that it was trained with."""
        return int(self.values["seed"])

    @property
    def status(self) -> str:
        """How it ended: complete, failed or pruned."""
        return str(self.values["status"])

    @property
    def epochs(self) -> int:
        """How many epochs it trained."""
        return int(self.values.get("epochs") or 0)

    @property
    def curve(self) -> list[tuple[int, float]]:
        """The validation loss after each epoch, where it is finite."""
        points = self.values.get("curve") or ()
        return [(int(epoch), loss) for epoch, loss in points if loss is not None and math.isfinite(loss)]

    def figure(self, name: str) -> float | None:
        """Return a figure, None where it was not measured or is not finite."""
        return number(self.values.get(name))


@dataclass(frozen=True)
class Arm:
    """One configuration with its trials by seed; `line` is None where a killed worker told of its trials alone."""

    number: int
    line: int | None
    values: Mapping[str, JSONValue]
    trials: Mapping[int, Trial]
    metric: str
    seeds: tuple[int, ...]
    """Those it is to be tried with."""

    @property
    def control(self) -> bool:
        """Whether all others are compared with it."""
        return bool(self.values.get("control", self.number == 0))

    @property
    def cells(self) -> int:
        """How many cells of the design it stands for, its weight in the effects; 0 for a control that is none."""
        return int(self.values.get("cells", 1))

    @property
    def levels(self) -> Mapping[str, JSONValue]:
        """The value of each factor, empty where it is not on record."""
        return self.values.get("levels") or {}

    @property
    def label(self) -> str:
        """What it is called."""
        return str(self.values.get("label") or f"arm {self.number}")

    @property
    def lines(self) -> tuple[int, ...]:
        """The log lines of its trials."""
        return tuple(trial.line for trial in self.trials.values())

    @cached_property
    def scores(self) -> dict[int, float]:
        """The metric at each seed at which it came to its end with a finite one."""
        done = {seed: trial.figure(self.metric) for seed, trial in self.trials.items() if trial.status == "complete"}
        return {seed: score for seed, score in done.items() if score is not None}

    @cached_property
    def failures(self) -> dict[int, tuple[Trial, str]]:
        """The trials that failed, by seed, and why. One whose metric is not finite has no figure, so that it failed."""
        found = {}
        for seed, trial in self.trials.items():
            if trial.status == "failed":
                found[seed] = (trial, str(trial.values.get("why") or "no reason is on record"))
            elif trial.status == "complete" and seed not in self.scores:
                found[seed] = (trial, f"{self.metric} is not finite")
        return found

    @property
    def why(self) -> str:
        """What is said of why it failed, each reason once."""
        reasons = dict.fromkeys(why for _, why in self.failures.values())
        return "; ".join(reasons) or str(self.values.get("why") or "no reason is on record")

    @property
    def pruned_at(self) -> Trial | None:
        """The trial that was pruned, if one was."""
        return next((trial for trial in self.trials.values() if trial.status == "pruned"), None)

    @cached_property
    def standing(self) -> Standing:
        """How far it came. One failed seed is enough to have no place among the complete."""
        if self.failures or self.values.get("state") == "failed":
            return "partly failed" if self.scores else "failed"
        if len(self.scores) == len(self.seeds):
            return "complete"
        return "pruned" if self.pruned_at is not None or self.values.get("state") == "pruned" else "unfinished"

    def over_seeds(self, name: str) -> Spread | None:
        """Return a figure over the seeds at which the arm came to its end."""
        return Spread.of(self.trials[seed].figure(name) for seed in self.scores)

    @cached_property
    def curve(self) -> list[tuple[int, float]]:
        """The mean validation loss over the seeds, at the epochs that all of them reached."""
        curves = [dict(trial.curve) for seed, trial in self.trials.items() if seed not in self.failures]
        if not curves:
            return []
        shared = [epoch for epoch in sorted(curves[0]) if all(epoch in curve for curve in curves)]
        return [(epoch, math.fsum(curve[epoch] for curve in curves) / len(curves)) for epoch in shared]


@dataclass(frozen=True)
class Sweep:
    """A study as it is on record."""

    spec: Mapping[str, JSONValue]
    spec_line: int | None
    arms: tuple[Arm, ...]
    """In the order of their numbers; the control, where it is on record, is number 0."""
    whole: bool
    """Whether the dump of the study is there; without it, a killed worker's own trials are all there is."""

    @property
    def metric(self) -> str:
        """What the arms are compared by."""
        return str(self.spec.get("metric", "val_loss"))

    @property
    def higher_is_better(self) -> bool:
        """Whether the metric is to rise."""
        return self.spec.get("direction") == "maximize"

    @property
    def control(self) -> Arm | None:
        """The arm that the others are compared with."""
        return next((arm for arm in self.arms if arm.control), None)

    @property
    def factors(self) -> list[Mapping[str, JSONValue]]:
        """What was varied."""
        return list(self.spec.get("factors") or ())

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of every arm."""
        return self.arms[0].seeds if self.arms else tuple(self.spec.get("seeds") or ())

    @property
    def waiting(self) -> int:
        """Arms that are not at their end, those included that are planned and not on record."""
        begun = sum(arm.standing == "unfinished" for arm in self.arms)
        return begun + max(0, int(self.spec.get("planned") or 0) - len(self.arms))


def sweep(run: Run) -> Sweep:
    """Return what is on record: the dump after the last `study` line, where it is whole, else all that was told."""
    spec_line, spec = next(((number, o.values) for number, o in run.of_kind("spec")), (None, {}))
    arms, trials, whole = _dumped(run)
    metric = str(spec.get("metric", "val_loss"))
    seeds = tuple(spec.get("seeds") or sorted({seed for _, seed in trials}))
    found = []
    for number in sorted({*arms, *(arm for arm, _ in trials)}):
        line, values = arms.get(number, (None, {}))
        own = {seed: trials[number, seed] for seed in seeds if (number, seed) in trials}
        found.append(Arm(number, line, values, own, metric, seeds))
    return Sweep(spec, spec_line, tuple(found), whole)


def number(value: JSONValue) -> float | None:
    """Return a value as a number, None where it is none, or not finite."""
    return (
        float(value) if isinstance(value, (int, float)) and type(value) is not bool and math.isfinite(value) else None
    )


def _dumped(run: Run) -> tuple[dict[int, Line], dict[tuple[int, int], Trial], bool]:
    """Return the lines of arms and of trials, each as it was told last, and whether they are the whole study's."""
    told = list(run.of_kind("study"))
    if told:
        start, study = told[-1][0], told[-1][1].values
        arms, trials = _told(run, after=start)
        if (len(arms), len(trials)) == (study["arms"], study["trials"]):
            return arms, trials, True
    return *_told(run, after=0), False


def _told(run: Run, *, after: int) -> tuple[dict[int, Line], dict[tuple[int, int], Trial]]:
    lines = [(number, o) for number, o in run.of_kind("arm", "trial") if number > after]
    arms = {o.values["arm"]: (number, o.values) for number, o in lines if o.kind == "arm"}
    trials = {(o.values["arm"], o.values["seed"]): Trial(number, o.values) for number, o in lines if o.kind == "trial"}
    return arms, trials
