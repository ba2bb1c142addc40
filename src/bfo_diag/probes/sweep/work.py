"""Works on a study until all its arms are done: claims one, trains each of its seeds, and puts down what came of it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any

from bfo_diag.attempt import TimeLimitReached
from bfo_diag.probes import PartResult, Request
from bfo_diag.probes.sweep import arms, files, storage, suggestions
from bfo_diag.probes.sweep.leases import Worker, beating
from bfo_diag.probes.sweep.place import Place
from bfo_diag.probes.sweep.spec import Spec
from bfo_diag.probes.sweep.study import State, Study, TakenOverError
from bfo_diag.probes.sweep.trial import nothing
from bfo_diag.records import JSONValue, Observation
from bfo_diag.shown import Progress, Table

_POLL_S = 1.0
_SHOWN = 8
"""Arms in the table below the progress line."""


class _StoppedError(Exception):
    """The time is up: the arm goes back."""


class Work:
    """What one worker does on a study."""

    def __init__(self, request: Request, spec: Spec, place: Place, worker: Worker, study: Study) -> None:
        """Take the request whose parts train, what is tried, where the study is, who works, and the study."""
        self._request, self._spec, self._place, self._worker, self._study = request, spec, place, worker, study
        about = study.about
        self._device = "auto" if about is None else about.device
        self._steps = arms.arm_recipe(spec, arms.planned(spec)[0], spec.seeds[0]).training.epochs
        """Of intermediate values that each seed has: with a pruner, all arms have as many epochs."""
        self._began, self._done_before = time.monotonic(), 0

    def run(self) -> Iterator[Observation | Progress]:
        """Do whatever there is to do, and wait for what others do, so that what they leave behind is done as well.

        Raises:
            TimeLimitReached: the person pressed Ctrl-C; the arm that ran is given back.
        """
        self._done_before = _done(self._study.arms())
        while True:
            self._study.heal(steps=self._steps)
            arm = self._study.claim(self._worker)
            if arm is not None:
                try:
                    yield from self._arm(arm)
                except TakenOverError:
                    continue  # (another worker has it: this one was silent for too long)
                except _StoppedError:
                    return
                continue
            found = self._study.arms()
            others = [one for one in found if one.state == "running"]
            if not others and not any(one.state == "waiting" for one in found):
                return
            yield self._progress(found, f"waiting for {len(others)} arms of other workers")
            time.sleep(_POLL_S)

    def _arm(self, claimed: State) -> Iterator[Observation | Progress]:
        """Train an arm with each seed that is not done; if it can't be ended here, it is given back."""
        try:
            with beating(lambda: self._study.beat(claimed)):
                yield from self._seeds(claimed)
        except (TimeLimitReached, _StoppedError):
            # (Anew: what was interrupted may have been the reading of the study.)
            self._place.there().give_back(claimed, "interrupted", steps=self._steps)
            raise

    def _seeds(self, claimed: State) -> Iterator[Observation | Progress]:
        arm = self._made(claimed)
        results = dict(claimed.results)
        for index, seed in enumerate(self._spec.seeds):
            if seed in results:
                continue
            doing = f"{arm.label}, seed {seed}".replace(": ", " ")
            yield self._progress(self._study.arms(), doing)
            values, told = self._trial(arm, claimed, index)
            if told is not None:
                yield told
            self._study.keep(claimed, seed, values)
            results[seed] = values
            if values["status"] == "pruned":
                break
        self._end(claimed, results)

    def _made(self, claimed: State) -> arms.Arm:
        """Return the arm, with its levels chosen if they were not."""
        if claimed.levels is not None:
            return arms.of_levels(self._spec, claimed.arm, claimed.levels)
        before = (one.trial for one in self._study.arms() if one.state == "complete")
        levels, drawn = suggestions.suggested(self._spec, claimed.arm, before)
        self._study.choose(claimed, levels, drawn)
        return arms.of_levels(self._spec, claimed.arm, levels)

    def _trial(self, arm: arms.Arm, claimed: State, index: int) -> tuple[Mapping[str, JSONValue], Observation | None]:
        """Train an arm with one seed in a process of its own; return its values, and what is not on record of it yet.

        Raises:
            _StoppedError: the time is up.
        """
        spec, seed = self._spec, self._spec.seeds[index]
        file = files.recipe(spec, arm, seed, self._place.recipes)
        replay = files.replay(file, self._device)
        options = {
            "arm": arm.number,
            "seed": seed,
            "recipe": str(file),
            "replay": replay,
            "events": index == 0,  # (of the other seeds, figures will do)
            "pruning": None if spec.pruner == "none" else self._pruning(claimed, index),
        }
        made = self._request.part("trial", options, must_end=False)
        if made.stopped:
            raise _StoppedError
        for values in made.of_kind("trial"):
            return {key: value for key, value in values.items() if key != "part"}, None
        values = nothing(arm.number, seed, status="failed", why=_death(made), replay=replay)
        return values, Observation("trial", values)

    def _pruning(self, claimed: State, index: int) -> dict[str, Any]:
        return {
            "url": storage.shown(self._place.url) if self._place.url else None,
            "folder": str(self._place.folder),
            "study": self._study.name,
            "number": claimed.number,
            "before": index * self._steps,
            "metric": self._spec.metric,
            "startup": None if claimed.arm == arms.CONTROL else self._spec.pruner_startup,
        }

    def _end(self, claimed: State, results: Mapping[int, Mapping[str, JSONValue]]) -> None:
        """End an arm by what its seeds gave: failed if one failed, and its mean if all are complete."""
        for status in ("failed", "pruned"):
            ended = {seed: values for seed, values in results.items() if values["status"] == status}
            if ended:
                why = "; ".join(f"seed {seed}: {values['why']}" for seed, values in ended.items())
                self._study.finish(claimed, status, why=why)
                return
        scores = [values[self._spec.metric] for values in results.values()]
        if all(isinstance(score, (int, float)) and math.isfinite(score) for score in scores):
            self._study.finish(claimed, "complete", value=fmean(scores))
        else:
            self._study.finish(claimed, "failed", why=f"{self._spec.metric} is not finite")

    def _progress(self, found: list[State], doing: str) -> Progress:
        total, done = len(found) * len(self._spec.seeds), _done(found)
        new = done - self._done_before
        left = (total - done) * (time.monotonic() - self._began) / new if new else None
        return Progress(done, total, doing, left, self._table(found))

    def _table(self, found: list[State]) -> Table | None:
        """Return the best arms so far."""
        metric = self._spec.metric
        scores = [(float(one.trial.value or 0.0), one) for one in found if one.state == "complete"]
        scores.sort(key=lambda pair: pair[0], reverse=self._spec.direction == "maximize")
        rows = tuple(
            (f"{score:.4g}", arms.label(self._spec.factors, one.levels or {}) + " (control)" * (one.arm == 0))
            for score, one in scores[:_SHOWN]
        )
        return Table("The best arms so far", (f"mean {metric}", "arm"), rows) if rows else None


def _done(found: list[State]) -> int:
    return sum(len(one.results) for one in found)


def _death(made: PartResult) -> str:
    how = next(iter(made.of_kind("part_died")), {})
    return f"its process died: {how.get('signal') or 'exit status ' + str(how.get('exit_status'))}"
