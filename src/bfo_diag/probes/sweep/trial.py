"""What a sweep has done in processes of their own: the check of all arms, and one arm trained with one seed.

Whatever a trial raises is its result, and never the end of the sweep.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bfo_diag.attempt import attempt
from bfo_diag.errors import DiagError
from bfo_diag.probes import Request
from bfo_diag.records import JSONValue, Observation
from bfo_diag.shown import Progress

_MEASURED = (
    "val_loss val_accuracy train_loss best_epoch epochs steps curve loss_variance seconds parameters births deaths "
    "jump_mean jump_max lineage events traceback replay digest"
).split()
_LINEAGE = ("events", "founders", "founders_alive", "survival", "diversity", "widths")
"""What of a summary of the turnover is kept of its lineage: figures; the neurons themselves are in the events."""


def nothing(arm: int, seed: int, *, status: str, why: str, replay: str) -> dict[str, JSONValue]:
    """Return the values of a trial of which nothing was measured."""
    unknown = dict.fromkeys(_MEASURED)
    return {"arm": arm, "seed": seed, "status": status, "why": why, **unknown, "replay": replay}


def check(request: Request, *, recipes: Sequence[Mapping[str, Any]], folder: str) -> Iterator[Observation | Progress]:
    """Build the model, the optimizer and what else each recipe asks for, and train nothing.

    Each of `recipes` has `tables`, and what the arm is called in `label`.

    Raises:
        DiagError: one of them can't be had; names the arm.
    """
    from bfo_diag.training import loop, reading

    for number, one in enumerate(recipes):
        yield Progress(number, len(recipes), f"checking {one['label']}")
        file = f"the arm {one['label']}"
        try:
            recipe = reading.of_tables(one["tables"], file=file, stem="arm")
            loop.Trainer(recipe, Path(folder), device=request.device, raw=None).check()
        except DiagError as error:
            where = "" if error.message.startswith(file) else f"{file}: "
            raise DiagError(where + error.message, mend=error.mend, detail=error.detail) from error
    yield Observation("checked", {"arms": len(recipes), "device": request.device.partition(":")[0]})


def trial(
    request: Request,
    *,
    arm: int,
    seed: int,
    recipe: str,
    replay: str,
    events: bool,
    pruning: Mapping[str, Any] | None,
) -> Iterator[Observation | Progress]:
    """Train a recipe file, and yield what came of it as one observation.

    With `events`, the births and deaths of its neurons are kept. `pruning` is what `pruning.Watch` takes; None where it
    is trained to its end whatever it gives.
    """
    seen = _Seen(nothing(arm, seed, status="complete", why="", replay=replay), events=events)
    hopeless = _watch(pruning)
    for said in _training(Path(recipe), request.device, seen):
        if isinstance(said, Progress):
            yield said
        elif said.kind == "timed_out":
            yield said
            return
        else:
            seen.take(said)
            if said.kind == "epoch" and hopeless(said.values):
                seen.pruned()
                break
    yield Observation("trial", seen.values())


def _training(recipe: Path, device: str, seen: _Seen) -> Iterator[Observation | Progress]:
    """Yield what the training of a recipe says, to its end or to what it raised, which `seen` is told where refused."""
    from bfo_diag.training import loop, reading

    training = loop.train(reading.read(str(recipe)), recipe.parent, device=device)
    while True:
        try:
            got = attempt(lambda: next(training, None))
        except DiagError as error:
            seen.failed(f"{error.message} ({error.mend})" if error.mend else error.message, error.detail or None)
            return
        yield from got.observations("train")
        if got.value is None:
            return
        yield got.value


def _watch(pruning: Mapping[str, Any] | None) -> Any:
    if pruning is None:
        return lambda epoch: False
    from bfo_diag.probes.sweep.pruning import Watch

    return Watch(**pruning)


class _Seen:
    """What a training said, put together as the values of its trial."""

    def __init__(self, values: dict[str, JSONValue], *, events: bool) -> None:
        self._values, self._keeps_events = values, events
        self._epochs: list[Mapping[str, JSONValue]] = []
        self._events: list[dict[str, JSONValue]] = []

    def take(self, observation: Observation) -> None:
        values = observation.values
        if observation.kind == "epoch":
            self._epochs.append(values)
        elif observation.kind == "fold_end":
            self._take_end(values)
        elif observation.kind == "turnover":
            self._events.append({key: value for key, value in values.items() if key != "fold"})
        elif observation.kind == "turnover_summary":
            self._values |= {name: values[name] for name in ("births", "deaths", "jump_mean", "jump_max")}
            self._values["lineage"] = {name: values[name] for name in _LINEAGE}
        elif observation.kind == "raised":
            self.failed(f"{values['type']}: {values['message']}", values["traceback"])

    def _take_end(self, end: Mapping[str, JSONValue]) -> None:
        for name in ("best_epoch", "epochs", "steps", "loss_variance", "parameters", "digest"):
            self._values[name] = end[name]
        self._values["seconds"] = end["fold_s"]
        if self._values["births"] is None:  # no summary came before: there was no turnover
            self._values |= {"births": 0, "deaths": 0}
        if end["diverged"]:
            self.failed(f"it diverged: {end['diverged']}", None)

    def failed(self, why: str, traceback: str | None) -> None:
        """Have it fail, with the first reason that was given."""
        if self._values["status"] != "failed":
            self._values |= {"status": "failed", "why": why, "traceback": traceback}

    def pruned(self) -> None:
        """Have it end before its time."""
        epoch = self._epochs[-1]["epoch"]
        why = f"after epoch {epoch} it was worse than the median of the arms that are complete, at this seed and epoch"
        self._values |= {"status": "pruned", "why": why}

    def values(self) -> dict[str, JSONValue]:
        """Return all that is known of it; a trial that failed has no figure that could be ranked."""
        epochs = self._epochs
        self._values["curve"] = [[epoch["epoch"], epoch["val_loss"]] for epoch in epochs] or None
        if self._keeps_events:
            self._values["events"] = self._events or None
        if epochs and self._values["epochs"] is None:
            seconds = math.fsum(epoch["epoch_s"] for epoch in epochs)
            self._values |= {"epochs": epochs[-1]["epoch"], "steps": epochs[-1]["steps"], "seconds": seconds}
        if epochs and self._values["status"] != "failed":
            best = min(epochs, key=lambda epoch: (epoch["epoch"] != self._values["best_epoch"], epoch["val_loss"]))
            self._values |= {name: best[name] for name in ("val_loss", "val_accuracy", "train_loss")}
            self._values["best_epoch"] = best["epoch"]
        return self._values
