"""The data that a recipe names, its folds and its batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bfo_diag.errors import DiagError
from bfo_diag.training.recipe import Data, Training

CONTEXT = 32
"""Characters of a sample of text where the recipe says nothing."""
VALIDATION = 0.2


@dataclass(frozen=True)
class Samples:
    """Inputs and targets, all of them, on the device of the training.

    Digits: (N, 64) float32 in [0, 1] and (N,) int64. Text: (N, T) int64 codes, and the same one character later.
    """

    inputs: Tensor
    targets: Tensor
    classes: int

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.inputs)

    def at(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return a batch, by indices on any device."""
        indices = indices.to(self.inputs.device)
        return self.inputs[indices], self.targets[indices]

    def batches(self, indices: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all of the samples at the indices, in their order."""
        return map(self.at, indices.split(size))


def load(data: Data, device: str) -> Samples:
    """Return what the recipe names.

    Raises:
        DiagError: scikit-learn, which brings the digits, is not installed.
    """
    made = _digits() if data.name == "digits" else _text(CONTEXT if data.context is None else data.context)
    count = len(made) if data.samples is None else data.samples
    return Samples(made.inputs[:count].to(device), made.targets[:count].to(device), made.classes)


def _digits() -> Samples:
    from bfo_diag.cases.digits_mlp import digits

    images, labels = digits()
    return Samples(images, labels, 10)


def _text(context: int) -> Samples:
    """Return pieces of Python's own documentation, one after the other, each of `context` characters."""
    from bfo_diag.cases.char_transformer import characters

    codes, alphabet = characters()
    count = (len(codes) - 1) // context
    inputs, targets = (codes[start : start + count * context].view(count, context) for start in (0, 1))
    return Samples(inputs, targets, alphabet)


def folds(count: int, data: Data, training: Training, generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    """Return for each fold the indices that are trained on and those held back.

    Of K folds each holds back another K-th of the samples; one fold holds back the recipe's share.

    Raises:
        DiagError: too few samples for that.
    """
    order = torch.randperm(count, generator=generator)
    if training.folds > 1:
        parts = list(torch.tensor_split(order, training.folds))
    else:
        held = round(count * (VALIDATION if data.validation is None else data.validation))
        parts = list(order.split([held, count - held]))[:1]
    if not all(0 < len(part) < count for part in parts):
        raise DiagError(
            f"{count} samples are too few for training.folds = {training.folds} and data.validation",
            mend="each fold has to train on some and to hold some back",
        )
    everything = torch.ones(count, dtype=torch.bool)
    return [(order[everything.index_fill(0, part, False)[order]], part) for part in parts]


def shuffled(indices: Tensor, size: int, generator: torch.Generator) -> list[Tensor]:
    """Return the batches of an epoch in a new order; what is left over of the last one waits for another epoch.

    So every batch has one shape, which is what a compiled step wants.
    """
    size = min(size, len(indices))
    order = torch.randperm(len(indices), generator=generator)
    return [indices[batch] for batch in order.split(size) if len(batch) == size]
