"""One fold in training: model, optimizer, and what changes its neurons or its data; put together, kept, restored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bfo_diag.errors import DiagError
from bfo_diag.records import Observation
from bfo_diag.training import optimizers
from bfo_diag.training.data import Samples
from bfo_diag.training.fold import Fold
from bfo_diag.training.recipe import Recipe
from bfo_diag.training.shifting import Shifting
from bfo_diag.training.step import Step, Watch
from bfo_diag.training.turnover import MEASURED, Turnover, refused
from pytorch_bfo_optimizer.compile_policy import CompilePolicy


@dataclass(frozen=True)
class Session:
    """What a fold is trained with, and how far it is."""

    fold: Fold
    step: Step
    samples: Samples
    turnover: Turnover | None = None
    shifting: Shifting | None = None

    def begin_epoch(self) -> Samples:
        """Return what the epoch learns from."""
        return self.samples if self.shifting is None else self.shifting.begin_epoch(self.fold, self.step)

    def train(self, inputs: Tensor, targets: Tensor, watch: Watch | None) -> Tensor:
        """Make one step, and return the loss before it.

        Raises:
            DiagError: neurons can't turn over as the recipe says.
        """
        with nullcontext() if self.turnover is None else refused():
            loss = self.step(inputs, targets, watch)
        if self.shifting is not None:
            self.shifting.after_step(self.fold, self.step)
        return loss

    def after_epoch(self, validated: tuple[float, float], fresh: Callable[[], Step]) -> list[Observation]:
        """Return what else there is to measure than the loss and accuracy of the validation; see `Shifting`."""
        if self.shifting is None:
            return []
        return [self.shifting.after_epoch(self.fold, self.step, validated, fresh)]

    def events(self) -> Iterator[Observation]:
        """Yield which neurons died and were born since the last call."""
        return iter(()) if self.turnover is None else self.turnover.observations()

    def summaries(self) -> Iterator[Observation]:
        """Yield what came of the shift and of the turnover, at the end of the fold."""
        for watched in (self.shifting, self.turnover):
            if watched is not None:
                yield watched.summary()

    def paused(self) -> AbstractContextManager[None]:
        """Let steps be made that do not count: a compile policy proves itself by one."""
        return nullcontext() if self.turnover is None else self.turnover.paused()

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds of it."""
        return {
            **self.fold.state(),
            "model": self.step.model.state_dict(),
            "optimizer": self.step.optimizer.state_dict(),
            "turnover": None if self.turnover is None else self.turnover.state(),
            "shift": None if self.shifting is None else self.shifting.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put a fresh session where the checkpoint was; the random numbers come last, and not here.

        Raises:
            DiagError: it was made of another model, optimizer or turnover.
        """
        try:
            if self.turnover is not None:
                self.turnover.load(state["turnover"])  # (first: the weights fit the widths of then)
            if self.shifting is not None:
                self.shifting.load(state["shift"])
            self.step.model.load_state_dict(state["model"])
            self.step.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError, AttributeError, TypeError) as error:
            said = str(error).splitlines()[0]
            raise DiagError(f"the checkpoint is of another model or optimizer: {said}", mend="begin anew") from error


def step_of(recipe: Recipe, model: nn.Module, device: str) -> Step:
    """Return the step of a fresh model, with a fresh optimizer.

    Raises:
        DiagError: an optimizer that can't be made, or does not go with the rest of the recipe.
    """
    model.to(device).train()
    step = Step(model, optimizers.build(recipe.optimizer, model), recipe.training, device)
    name = recipe.optimizer.name
    if recipe.training.clip_norm is not None and step.calls_closure:
        raise DiagError(
            f"training.clip_norm does not go with {name}: it takes no more than the direction of a gradient",
            mend="leave it out",
        )
    if recipe.telemetry.every and not step.has_gradients:
        raise DiagError(f"telemetry does not go with {name}: it takes no gradient", mend="leave it out")
    return step


def begin(
    recipe: Recipe,
    fold: Fold,
    step: Step,
    *,
    samples: Samples,
    split: tuple[Tensor, Tensor],
    order: torch.Generator,
    policy: CompilePolicy | None,
) -> Session:
    """Return a fold before its first step; `split` is what is trained on and what is held back, `order` shuffles.

    Raises:
        DiagError: neurons that can't turn over as the recipe says.
    """
    turnover, shifting = None, None
    if recipe.turnover.preset != "none":
        measured = split[1][:MEASURED]
        turnover = Turnover(
            recipe.turnover,
            step,
            fold=fold.number,
            seed=recipe.seed,
            policy=policy,
            measure=lambda: step.evaluate(samples.batches(measured, recipe.data.batch_size))[0],
        )
    if recipe.shift.kind is not None:
        shifting = Shifting(recipe, samples, split, order)
    return Session(fold, step, samples, turnover, shifting)
