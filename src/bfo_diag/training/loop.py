"""The training loop: folds, epochs, steps, early stopping. All goes on record, and each epoch into a checkpoint.

Nothing here knows of a command line; what a recipe may say is in `recipe`, what a step does in `step`.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from bfo_diag.attempt import attempt, call_through
from bfo_diag.errors import DiagError
from bfo_diag.records import JSONValue, Observation
from bfo_diag.shown import Progress
from bfo_diag.training import checkpoint, data, models, optimizers
from bfo_diag.training.compiling import KIND, Compiling
from bfo_diag.training.fold import Fold
from bfo_diag.training.recipe import Recipe
from bfo_diag.training.step import Step
from bfo_diag.training.watching import Watcher

T = TypeVar("T")
_TOLD_AGAIN = (KIND, "epoch", "fold_end")
"""What a run that goes on puts on record again, so that its record is whole."""
_SAID_EVERY_S = 1.0


class _TargetEndedError(Exception):
    """The model or the optimizer raised; `observations` say so."""

    def __init__(self, observations: Iterator[Observation]) -> None:
        super().__init__()
        self.observations = tuple(observations)


class Trainer:
    """Trains what a recipe says, from the beginning or from a checkpoint."""

    def __init__(self, recipe: Recipe, folder: Path, *, device: str, raw: Path | None) -> None:
        """Take the recipe, the folder that it lies in, and where checkpoints go (nowhere, if None)."""
        self.recipe, self.folder, self.device, self.raw = recipe, folder, device, raw
        self.samples = data.load(recipe.data, device)
        self.order = torch.Generator().manual_seed(recipe.seed)
        """The source of all shuffling."""
        self.splits = data.folds(len(self.samples), recipe.data, recipe.training, self.order)
        source = models.factory_source(recipe.model, folder)
        self.identity: dict[str, JSONValue] = {
            "recipe": recipe.to_json(),
            "code": checkpoint.digest(source),
            "device": device,
        }
        """What a checkpoint has to be of, for this training to go on from it."""
        batches = max(1, min(len(train) for train, _ in self.splits) // recipe.data.batch_size)
        self._compiling = Compiling(recipe.compile, steps=batches * recipe.training.epochs, folds=len(self.splits))
        self._told: list[Observation] = []
        self._epochs_s: list[float] = []

    def described(self) -> Observation:
        """Return what is learned from."""
        held_back = max(len(held) for _, held in self.splits)
        values = {"name": self.recipe.data.name, "samples": len(self.samples), "held_back": held_back}
        return Observation("data", {**values, "classes": self.samples.classes})

    def run(self, state: Mapping[str, Any] | None = None) -> Iterator[Observation | Progress]:
        """Train all folds, or those that are left after `state`, a checkpoint of this very training."""
        fold = Fold(0) if state is None else Fold.of(state)
        for told in () if state is None else state["told"]:
            yield self._tell(self._told_again(Observation.from_json(told)))
        try:
            if state is not None:
                yield from self._fold(fold, state)
                fold = Fold(fold.index + 1)
            for index in range(fold.index, len(self.splits)):
                yield from self._fold(Fold(index))
        except _TargetEndedError as ended:
            yield from ended.observations

    def _told_again(self, told: Observation) -> Observation:
        """Return what another run recorded; weights that were not brought along are not promised."""
        self._compiling.remember(told)
        weights = told.values.get("weights")
        if weights is None or (self.raw is not None and (self.raw / Path(weights).name).is_file()):
            return told
        return replace(told, values={**told.values, "weights": None})

    def _fold(self, fold: Fold, state: Mapping[str, Any] | None = None) -> Iterator[Observation | Progress]:
        """Train a fold to its end, or from where `state`, a checkpoint, was made of it."""
        step = self._made()
        if state is not None:
            _restore(state, step)
        train, held = self.splits[fold.index]
        batch = self.samples.at(train[: self.recipe.data.batch_size])
        self._tried("compile", lambda: self._compiling.apply(step, batch))
        yield from self._compile_report(fold)
        if state is not None:
            self.order.set_state(state["order"])
            checkpoint.set_random_state(state["random"], self.device)
            self._save(fold, step)  # (this run can be gone on from, too, before an epoch of its own ends)
        while not (why := fold.why_over(self.recipe.training)):
            yield from self._epoch(fold, step, train, held)
            self._save(fold, step)
        yield from self._compile_report(fold)
        yield self._tell(self._ended(fold, why))

    def _compile_report(self, fold: Fold) -> Iterator[Observation]:
        report = self._compiling.report(fold.number)
        if report is not None:
            yield self._tell(report)

    def _made(self) -> Step:
        """Return a fresh model and optimizer, which draw on torch's random numbers."""
        model = self._tried("make", lambda: models.build(self.recipe.model, self.samples, self.folder))
        model.to(self.device).train()
        step = Step(model, optimizers.build(self.recipe.optimizer, model), self.recipe.training, self.device)
        name, training = self.recipe.optimizer.name, self.recipe.training
        if training.clip_norm is not None and step.calls_closure:
            raise DiagError(
                f"training.clip_norm does not go with {name}: it takes no more than the direction of a gradient",
                mend="leave it out",
            )
        if self.recipe.telemetry.every and not step.has_gradients:
            raise DiagError(f"telemetry does not go with {name}: it takes no gradient", mend="leave it out")
        return step

    def _epoch(self, fold: Fold, step: Step, train: Tensor, held: Tensor) -> Iterator[Observation | Progress]:
        fold.epoch += 1
        began = said = time.perf_counter()
        size = self.recipe.data.batch_size
        watcher = Watcher(step, fold.number, every=self.recipe.telemetry.every)
        losses: list[Tensor] = []
        yield self._progress(fold)
        for batch in data.shuffled(train, size, self.order):
            fold.step += 1
            made = functools.partial(step, *self.samples.at(batch), watcher.at(fold.step))
            losses.append(self._tried("step", made, fold.step))
            for seen in watcher.observations():
                yield self._tell(seen)
            if time.perf_counter() - said > _SAID_EVERY_S:
                said = time.perf_counter()
                yield self._progress(fold)
        batches = (self.samples.at(batch) for batch in data.in_order(held, size))
        val_loss, accuracy = self._tried("validate", lambda: step.evaluate(batches), fold.step)
        trained = torch.stack(losses).tolist()
        fold.note(trained, val_loss, step.model.state_dict(), min_delta=self.recipe.training.min_delta)
        self._epochs_s.append(time.perf_counter() - began)
        values = {
            "fold": fold.number,
            "epoch": fold.epoch,
            "steps": fold.step,
            "train_loss": math.fsum(trained) / len(trained) if all(map(math.isfinite, trained)) else math.nan,
            "val_loss": val_loss,
            "val_accuracy": accuracy,
            "lr": float(step.optimizer.param_groups[0]["lr"]),
            "epoch_s": self._epochs_s[-1],
        }
        yield self._tell(Observation("epoch", values))

    def _ended(self, fold: Fold, why: str) -> Observation:
        """Leave the best weights beside the log, and return the end of the fold."""
        weights = None
        if fold.best and self.raw is not None:
            weights = checkpoint.weights_file(fold.index)
            checkpoint.save(self.raw / weights, fold.best)
        values = {
            "fold": fold.number,
            "epochs": fold.epoch,
            "steps": fold.step,
            "best_epoch": fold.best_epoch or None,
            "why": why,
            "diverged": fold.diverged or None,
            "weights": None if weights is None else f"raw/{weights}",
        }
        return Observation("fold_end", values)

    def _save(self, fold: Fold, step: Step) -> None:
        if self.raw is None:
            return
        state = {
            **fold.state(),
            **self.identity,
            "format": checkpoint.FORMAT,
            "torch": str(torch.__version__),
            "model": step.model.state_dict(),
            "optimizer": step.optimizer.state_dict(),
            "order": self.order.get_state(),
            "random": checkpoint.random_state(self.device),
            "told": [observation.to_json() for observation in self._told],
        }
        checkpoint.save(self.raw / checkpoint.FILE, state)

    def _tell(self, observation: Observation) -> Observation:
        """Return an observation for the log; what a run that goes on has to tell again is kept."""
        first_bad = observation.values.get("nonfinite") and not any(one.values.get("nonfinite") for one in self._told)
        if observation.kind in _TOLD_AGAIN or first_bad:
            self._told.append(observation)
        return observation

    def _tried(self, phase: str, work: Callable[[], T], step: int | None = None) -> T:
        """Call what runs code of the target's.

        Raises:
            _TargetEndedError: it raised, or its time was up.
        """
        got = attempt(lambda: call_through(work, (), {}))
        if not got.ok:
            raise _TargetEndedError(got.observations(phase, step=step))
        return got.value  # type: ignore[return-value]  # it is what `work` returned

    def _progress(self, fold: Fold) -> Progress:
        epochs, folds = self.recipe.training.epochs, len(self.splits)
        done = fold.index * epochs + fold.epoch - 1
        left = None
        if self._epochs_s:
            left = (epochs * folds - done) * math.fsum(self._epochs_s) / len(self._epochs_s)
        where = f"fold {fold.number} of {folds}, " if folds > 1 else ""
        so_far = f", best validation loss {fold.best_loss:.4g}" if fold.best_epoch else ""
        return Progress(done, epochs * folds, f"{where}epoch {fold.epoch}{so_far}", left)


def _restore(state: Mapping[str, Any], step: Step) -> None:
    """Put a fresh model and optimizer where the checkpoint was; the random numbers come last, and not here."""
    try:
        step.model.load_state_dict(state["model"])
        step.optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError, KeyError, AttributeError, TypeError) as error:
        said = str(error).splitlines()[0]
        raise DiagError(f"the checkpoint is of another model or optimizer: {said}", mend="begin anew") from error
