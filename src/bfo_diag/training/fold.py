"""How far the training of one fold is: its best epoch so far, and when it is over. Nothing is trained here."""

from __future__ import annotations

import copy
import hashlib
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bfo_diag.training.recipe import Training


@dataclass
class Fold:
    """The state of a fold, all of it in a checkpoint. Epochs and steps count from 1; 0 is before the first."""

    index: int
    """From 0."""
    epoch: int = 0
    step: int = 0
    best_epoch: int = 0
    best_loss: float = math.inf
    best: dict[str, Any] = field(default_factory=dict)
    """The model's state after the best epoch."""
    diverged: str = ""
    """Which loss was not finite."""
    val_losses: list[float] = field(default_factory=list)
    """After each epoch."""
    loss_variance: float | None = None
    """Of the training loss over the steps of the last epoch (of a sample); None for one step, or a loss that is not
    finite."""
    seconds: float = 0.0
    """That its epochs took, of all the runs that trained it."""

    @property
    def number(self) -> int:
        """How it is called on record, from 1."""
        return self.index + 1

    def note(
        self, trained: Sequence[float], val_loss: float, model: Mapping[str, Any], *, min_delta: float = 0.0
    ) -> None:
        """Take the losses of an epoch that ended: of each of its steps, and of the validation after it.

        `model` is the state of the model, copied if this epoch is the best so far.
        """
        if val_loss < self.best_loss - min_delta:
            self.best_epoch, self.best_loss = self.epoch, val_loss
            self.best = copy.deepcopy(dict(model))
        self.val_losses.append(val_loss)
        finite = all(map(math.isfinite, trained))
        self.loss_variance = statistics.variance(trained) if finite and len(trained) > 1 else None
        bad = next((index for index, loss in enumerate(trained) if not math.isfinite(loss)), None)
        if bad is not None:
            number = self.step - len(trained) + bad + 1
            self.diverged = f"the training loss of step {number} is {trained[bad]}"
        elif not math.isfinite(val_loss):
            self.diverged = f"the validation loss of epoch {self.epoch} is {val_loss}"

    def why_over(self, training: Training) -> str:
        """Return why it is over: `diverged`, `patience` or `epochs`; an empty text while it is not."""
        if self.diverged:
            return "diverged"
        if training.patience is not None and self.epoch - self.best_epoch >= training.patience:
            return "patience"
        return "epochs" if self.epoch >= training.epochs else ""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds of it."""
        return {"fold": self.index, **{name: value for name, value in vars(self).items() if name != "index"}}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Fold:
        """Return the fold of a checkpoint."""
        names = [name for name in cls.__dataclass_fields__ if name != "index"]
        return cls(state["fold"], **{name: state[name] for name in names})

    def digest(self, weights: Mapping[str, Any]) -> str:
        """Return a SHA-256 over the validation losses and a model's state: the same for the same training alone."""
        found = hashlib.sha256(" ".join(loss.hex() for loss in self.val_losses).encode())
        for name, value in weights.items():
            if isinstance(value, Tensor):
                found.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
                flat = value.detach().cpu().contiguous().view(-1)
                found.update(flat.view(torch.uint8).numpy().tobytes())
        return found.hexdigest()
