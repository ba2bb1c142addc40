"""One closure for several micro-batches: their weighted mean loss, and its gradient one micro-batch at a time.

How often an optimizer calls it, and which backward passes run, is decided elsewhere (`objective`, `smart_closure`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from pytorch_bfo_optimizer.errors import LossTypeError, ObjectiveError
from pytorch_bfo_optimizer.interception import BackwardCall, intercept_backward, losses_alone_wanted
from pytorch_bfo_optimizer.objective import as_loss


def accumulate(closures: Iterable[Callable[[], Any]], weights: Iterable[float | Tensor] | None = None) -> Accumulation:
    """Make one closure of several that each return the mean loss of a micro-batch.

    ::

        loss      = sum_i weight_i loss_i / sum_i weight_i
        gradient  = the same of the gradients, by backward(weight_i loss_i / sum_i weight_i), one after the other

    Backward frees the graph of a micro-batch before the next one is evaluated, so that the memory is that of the
    largest. It runs where a loss has a graph, but not for the candidates of our optimizers (nor for a training inside
    the closure of a `BFO`: call backward yourself there). The result fits every optimizer whose `step` takes a closure:
    ours, SGD, Adam, LBFGS. Like any closure, it adds to `.grad` and does not clear it: those of torch want
    `optimizer.zero_grad()` before the step, LBFGS in a closure around this one; ours need neither.

    Args:
        closures: at least one; each returns the *mean* loss of its micro-batch, and does not call `backward()`.
        weights: what the means are means of: the samples, or the tokens, of each micro-batch. None: all are of one
            size. A micro-batch of weight 0 (no token in it) is not evaluated.

    Returns: a closure whose loss is a tensor (0-dim, without a graph), in float32 where the losses are narrower.

    Raises:
        ObjectiveError: no closures, or weights that are no weights of them. Later, from the closure: one of the
            closures calls `backward()`.
        LossTypeError: from the closure: one of the closures returned something that is no loss; says which.
    """
    if callable(closures):
        raise ObjectiveError("closures is one closure: pass a list with one closure for each micro-batch")
    each = list(closures)
    if not each:
        raise ObjectiveError("there are no closures: pass a list with one closure for each micro-batch, at least one")
    for index, closure in enumerate(each):
        if not callable(closure):
            raise ObjectiveError(
                f"closure {index} is {type(closure).__name__} and cannot be called: pass functions that return the "
                "loss (`lambda: loss_of(batch)`), not losses"
            )
    return Accumulation(each, [1 / len(each)] * len(each) if weights is None else _shares(list(weights), len(each)))


class Accumulation:
    """What `accumulate` returns: a closure.

    Args:
        closures: each returns the mean loss of a micro-batch.
        shares: of each in the loss; they sum to 1.
    """

    def __init__(self, closures: list[Callable[[], Any]], shares: list[float]) -> None:
        self.closures, self.shares = closures, shares

    def __call__(self) -> Tensor:
        """The weighted mean loss (0-dim, no graph); its gradient is added to `.grad`."""
        return self.evaluate(Tensor.backward)

    def evaluate(self, backward: Callable[[Tensor], Any]) -> Tensor:
        """The same; `backward` is given each micro-batch's part of the loss (0-dim), where its gradient is wanted."""
        if losses_alone_wanted():
            backward = _nothing
        parts = [self._part(index, backward) for index, share in enumerate(self.shares) if share]
        return torch.stack([part.to(parts[0].device) for part in parts]).sum()

    def _part(self, index: int, backward: Callable[[Tensor], Any]) -> Tensor:
        """One micro-batch's part of the loss (0-dim); no graph outlives this call."""

        def refuse(call: BackwardCall) -> None:
            raise ObjectiveError(
                f"{self._name(index)} calls backward() itself, on a loss without its weight: let it return the mean "
                "loss of its micro-batch (`return loss`, not divided by their number), and backward is run here; for "
                "a derivative inside the loss use torch.autograd.grad"
            )

        with intercept_backward(refuse):
            loss = self.closures[index]()
        dtype, device = torch.float64, torch.device("cpu")
        if isinstance(loss, Tensor):
            dtype, device = torch.promote_types(loss.dtype, torch.float32), loss.device
        try:
            value = as_loss(loss, dtype=dtype, device=device)
        except LossTypeError as error:
            raise LossTypeError(f"of {self._name(index)}: {error}") from None
        if isinstance(loss, Tensor) and loss.requires_grad:
            backward(loss.reshape(()) * self.shares[index])
        return value * self.shares[index]

    def _name(self, index: int) -> str:
        """Which closure it is, in words."""
        return "the closure" if len(self.closures) == 1 else f"closure {index} of {len(self.closures)}"


def _nothing(part: Tensor) -> None:
    """No gradient is wanted."""


def _shares(weights: list[Any], count: int) -> list[float]:
    """weight_i / sum(weights).

    Raises:
        ObjectiveError: not `count` numbers, a negative or infinite one, or a sum of 0.
    """
    if len(weights) != count:
        raise ObjectiveError(
            f"there are {len(weights)} weights for {count} closures: give each its number of samples (or tokens)"
        )
    numbers = [_number(index, weight) for index, weight in enumerate(weights)]
    total = sum(numbers)
    if not 0 < total < math.inf:
        raise ObjectiveError(f"the weights sum to {total:g}: at least one micro-batch must hold something")
    return [number / total for number in numbers]


def _number(index: int, weight: Any) -> float:
    """One weight as a float; a count may come as a tensor of one element."""
    one = isinstance(weight, Real) or (isinstance(weight, Tensor) and weight.numel() == 1)
    try:
        number = float(weight) if one and not isinstance(weight, bool) else math.nan
    except OverflowError:
        number = math.inf
    if not 0 <= number < math.inf:
        raise ObjectiveError(
            f"weight {index} is {weight!r}: it must be a finite number of at least 0, the samples (or tokens) of its "
            "micro-batch"
        )
    return number
