"""The training loop: folds, epochs, steps, early stopping. All goes on record, and each epoch into a checkpoint.

Nothing here knows of a command line; what a recipe may say is in `recipe`, what a fold consists of in `session`.
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
from bfo_diag.errors import DiagError, TargetLoadError
from bfo_diag.records import JSONValue, Observation
from bfo_diag.shown import Progress
from bfo_diag.training import checkpoint, data, models, session, shifting, turnover
from bfo_diag.training.compiling import KIND, Compiling
from bfo_diag.training.fold import Fold
from bfo_diag.training.recipe import Recipe
from bfo_diag.training.session import Session
from bfo_diag.training.step import Step
from bfo_diag.training.watching import Watcher

T = TypeVar("T")
_TOLD_AGAIN = (KIND, "epoch", "fold_end", *turnover.KINDS, *shifting.KINDS)
"""What a run that goes on puts on record again, so that its record is whole."""
_SAID_EVERY_S = 1.0


class _TargetEndedError(Exception):
    """The model or the optimizer raised; `observations` say so."""

    def __init__(self, observations: Iterator[Observation]) -> None:
        super().__init__()
        self.observations = tuple(observations)


def train(recipe: Recipe, folder: Path, *, device: str, raw: Path | None = None) -> Iterator[Observation | Progress]:
    """Seed torch's random numbers, and train a recipe from its beginning: the same whatever was trained before.

    `folder` is the one that the recipe's factory lies in; checkpoints and weights go to `raw`, which is made, or
    nowhere.
    """
    if raw is not None:
        raw.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    trainer = Trainer(recipe, folder, device=device, raw=raw)
    yield trainer.described()
    yield from trainer.run()


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

    def check(self) -> None:
        """Build what the first fold begins with, and train nothing; torch's random numbers are as before.

        Raises:
            DiagError: a model, optimizer, turnover or compile that can't be had as the recipe says.
        """
        on_gpu = [self.device] if self.device.startswith("cuda") else []
        with torch.random.fork_rng(devices=on_gpu):
            try:
                self._begun(Fold(0))
            except _TargetEndedError as ended:
                raise _refusal(ended.observations[0]) from ended
        self._compiling.check()

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
        at = self._begun(fold)
        if state is not None:
            at.restore(state)
        train, _ = self.splits[fold.index]
        batch = self.samples.at(train[: self.recipe.data.batch_size])
        with at.paused():
            self._tried("compile", lambda: self._compiling.apply(at.step, batch))
        yield from self._compile_report(fold)
        if state is not None:
            self.order.set_state(state["order"])
            checkpoint.set_random_state(state["random"], self.device)
            self._save(at)  # (this run can be gone on from, too, before an epoch of its own ends)
        while not (why := fold.why_over(self.recipe.training)):
            yield from self._epoch(at)
            self._save(at)
        yield from self._compile_report(fold)
        for told in at.summaries():
            yield self._tell(told)
        yield self._tell(self._ended(at, why))

    def _compile_report(self, fold: Fold) -> Iterator[Observation]:
        report = self._compiling.report(fold.number)
        if report is not None:
            yield self._tell(report)

    def _begun(self, fold: Fold) -> Session:
        """Return a fold before its first step."""
        step, policy = self._made(), self._compiling.begin()
        return session.begin(
            self.recipe,
            fold,
            step,
            samples=self.samples,
            split=self.splits[fold.index],
            order=self.order,
            policy=policy,
        )

    def _made(self) -> Step:
        """Return a fresh model and optimizer, which draw on torch's random numbers."""
        model = self._tried("make", lambda: models.build(self.recipe.model, self.samples, self.folder))
        return session.step_of(self.recipe, model, self.device)

    def _epoch(self, at: Session) -> Iterator[Observation | Progress]:
        fold, step, (train, held) = at.fold, at.step, self.splits[at.fold.index]
        fold.epoch += 1
        began = said = time.perf_counter()
        watcher = Watcher(step, fold.number, every=self.recipe.telemetry.every)
        losses: list[Tensor] = []
        yield self._progress(fold)
        samples = self._tried("validate", at.begin_epoch)
        for batch in data.shuffled(train, self.recipe.data.batch_size, self.order):
            fold.step += 1
            made = functools.partial(at.train, *samples.at(batch), watcher.at(fold.step))
            losses.append(self._tried("step", made, fold.step))
            for seen in (*watcher.observations(), *at.events()):
                yield self._tell(seen)
            if time.perf_counter() - said > _SAID_EVERY_S:
                said = time.perf_counter()
                yield self._progress(fold)
        on_held = functools.partial(step.evaluate, self.samples.batches(held, self.recipe.data.batch_size))
        val_loss, accuracy = self._tried("validate", on_held, fold.step)
        trained = torch.stack(losses).tolist()
        fold.note(trained, val_loss, step.model.state_dict(), min_delta=self.recipe.training.min_delta)
        self._epochs_s.append(time.perf_counter() - began)
        fold.seconds += self._epochs_s[-1]
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
        measured = functools.partial(at.after_epoch, (val_loss, accuracy), self._made)
        for seen in self._tried("step", measured, fold.step):
            yield self._tell(seen)

    def _ended(self, at: Session, why: str) -> Observation:
        """Leave the best weights beside the log, and return the end of the fold."""
        fold, model = at.fold, at.step.model
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
            "loss_variance": fold.loss_variance,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "fold_s": fold.seconds,
            "digest": fold.digest(model.state_dict()),
        }
        return Observation("fold_end", values)

    def _save(self, at: Session) -> None:
        if self.raw is None:
            return
        state = {
            **at.state(),
            **self.identity,
            "format": checkpoint.FORMAT,
            "torch": str(torch.__version__),
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


def _refusal(observation: Observation) -> DiagError:
    """Return the error for a model or an optimizer of the recipe's that raised when it was made."""
    values = observation.values
    return TargetLoadError(
        f"model.factory: {values.get('type', 'the time was up')}: {values.get('message', 'it did not return')}",
        mend="see that it can be called without arguments",
        detail=str(values.get("traceback", "")),
    )
