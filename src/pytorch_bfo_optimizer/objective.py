"""One seam for evaluation: a closure is called member by member, a batched objective for the colony at once.

Here are the protocol, the two evaluators behind `foraging.generation`, and two ready objectives. An objective is
a plain closure too: calling it gives the loss at the parameters as they stand, with a graph to take gradients of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pytorch_bfo_optimizer.errors import LossTypeError, ObjectiveError
from pytorch_bfo_optimizer.flat import ParameterVector

Closure = Callable[[], Any]
"""Evaluates the loss at the parameters as they stand: a float, an int, or a tensor of one element."""


@runtime_checkable
class BatchedObjective(Protocol):
    """Evaluates many positions at once."""

    def bind(self, params: Sequence[Tensor]) -> None:
        """Learn which parameters the D coordinates are, in order; called by the optimizer before each use."""

    def evaluate_population(self, pop_PD: Tensor) -> Tensor:
        """Losses (P,) of positions (P, D)."""


def as_batched(objective: object) -> BatchedObjective | None:
    """The objective, if it can evaluate a population at once."""
    return objective if isinstance(objective, BatchedObjective) else None


def as_loss(value: object, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The closure's return value as a detached 0-dim tensor.

    Raises:
        LossTypeError: anything but a real number or a real tensor of one element; None is named.
    """
    if value is None:
        raise LossTypeError("the closure returned None: it must return the loss (`return loss`)")
    if isinstance(value, Tensor):
        if value.is_complex():
            raise LossTypeError("the closure returned a complex tensor: a loss is one real number (its `.abs()`?)")
        if value.numel() != 1:
            raise LossTypeError(
                f"the closure returned a tensor of shape {tuple(value.shape)}: a loss is one number; reduce it, "
                "with `.mean()` or `.sum()`"
            )
        return value.detach().reshape(()).to(device=device, dtype=dtype)
    if isinstance(value, Real):
        return torch.tensor(float(value), dtype=dtype, device=device)
    raise LossTypeError(
        f"the closure returned {type(value).__module__}.{type(value).__qualname__}: it must return the loss, a "
        "float or a tensor of one element"
    )


class Evaluator(Protocol):
    """What the optimizers hand to `foraging.generation`; it counts what it spends."""

    evaluations: int

    def __call__(self, position_PD: Tensor, active_P: Tensor) -> Tensor:
        """Losses (P,) of the active members; +inf in the other entries."""


class MemberEvaluator:
    """Calls a closure once for each active member, with the parameters set to its position.

    `prefilled` maps members to losses already evaluated where they stand; they are used in the first slot in
    place of a call, and were counted by whoever made them.
    """

    def __init__(
        self,
        closure: Closure,
        vector: ParameterVector,
        *,
        dtype: torch.dtype,
        grad_enabled: bool,
        prefilled: Mapping[int, Tensor] | None = None,
    ) -> None:
        self.closure, self.vector, self.dtype, self.grad_enabled = closure, vector, dtype, grad_enabled
        self.prefilled = dict(prefilled or {})
        self.evaluations = 0

    def __call__(self, position_PD: Tensor, active_P: Tensor) -> Tensor:
        """One closure call for each active member that is not prefilled, in the order of the members."""
        losses = torch.full((position_PD.shape[0],), math.inf, dtype=self.dtype, device=position_PD.device)
        prefilled, self.prefilled = self.prefilled, {}
        for index in active_P.nonzero().flatten().tolist():
            if index in prefilled:
                losses[index] = prefilled[index]
                continue
            self.vector.write_(position_PD[index])
            self.evaluations += 1
            with torch.set_grad_enabled(self.grad_enabled):
                value = self.closure()
            losses[index] = as_loss(value, dtype=self.dtype, device=position_PD.device)
        return losses


class PopulationEvaluator:
    """Evaluates whole slots through a `BatchedObjective`; a row costs one evaluation, active or not."""

    def __init__(
        self,
        objective: BatchedObjective,
        vector: ParameterVector,
        *,
        dtype: torch.dtype,
        prefilled: Mapping[int, Tensor] | None = None,
    ) -> None:
        objective.bind(vector.params)
        self.objective, self.dtype = objective, dtype
        self.prefilled = dict(prefilled or {})
        self.evaluations = 0

    def __call__(self, position_PD: Tensor, active_P: Tensor) -> Tensor:
        """One call for all rows that are not prefilled."""
        prefilled, self.prefilled = self.prefilled, {}
        count = position_PD.shape[0]
        if not prefilled:
            self.evaluations += count
            return population_losses(self.objective, position_PD).to(self.dtype)
        rows = [index for index in range(count) if index not in prefilled]
        losses = torch.full((count,), math.inf, dtype=self.dtype, device=position_PD.device)
        for index, loss in prefilled.items():
            losses[index] = loss
        if rows:
            self.evaluations += len(rows)
            losses[rows] = population_losses(self.objective, position_PD[rows]).to(self.dtype)
        return losses


def population_losses(objective: BatchedObjective, pop_PD: Tensor) -> Tensor:
    """`objective.evaluate_population(pop_PD)` without a graph, its answer checked: real, shape (P,)."""
    with torch.no_grad():
        losses = objective.evaluate_population(pop_PD)
    if not isinstance(losses, Tensor) or losses.is_complex() or losses.shape != pop_PD.shape[:1]:
        found = f"shape {tuple(losses.shape)}, {losses.dtype}" if isinstance(losses, Tensor) else type(losses).__name__
        raise LossTypeError(
            f"evaluate_population must return a real tensor of shape ({pop_PD.shape[0]},), one loss a position; got "
            f"{found}"
        )
    return losses


class FunctionObjective:
    """An objective from a function of positions, `fn(x_PD) -> loss_P`: test functions, simulators.

    As a closure it evaluates the bound parameters, differentiably; as a batched objective, any positions.
    """

    def __init__(self, fn: Callable[[Tensor], Tensor], params: Sequence[Tensor] | None = None) -> None:
        self.fn = fn
        self.vector: ParameterVector | None = None
        if params is not None:
            self.bind(params)

    def bind(self, params: Sequence[Tensor]) -> None:
        """Take the coordinates from these parameters, in this order."""
        if self.vector is None or not self.vector.matches(params):
            self.vector = ParameterVector(params)

    def evaluate_population(self, pop_PD: Tensor) -> Tensor:
        """`fn(pop_PD)`: losses (P,)."""
        return self.fn(pop_PD)

    def __call__(self) -> Tensor:
        """The loss at the bound parameters (0-dim, differentiable)."""
        if self.vector is None:
            raise ObjectiveError("FunctionObjective has no parameters yet: pass params=, or step an optimizer with it")
        return self.fn(self.vector.differentiable_read().unsqueeze(0)).squeeze(0)


class ModelObjective:
    """The loss of a model on a batch, `loss_fn(model(*inputs), target)`, for one position or for all at once.

    All at once: `torch.func.functional_call` under `torch.vmap` over the bound parameters; those of the model
    that are not bound keep their values. Buffers are never touched: every evaluation works on copies (so the
    running statistics of BatchNorm do not move). Dropout draws from torch's global generator, a different mask
    for each member unless `randomness` says "same" or "error" (as in `torch.vmap`).

    Args:
        model: any module that `vmap` can trace.
        loss_fn: `loss_fn(output, target)` -> one number.
        batch: (inputs, target); inputs may be a tuple of arguments. Assign `objective.batch` for the next one.
        chunk_size: members at a time, to bound memory; None for all.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[[Any, Any], Tensor],
        batch: tuple[Any, Any],
        *,
        chunk_size: int | None = None,
        randomness: Literal["different", "same", "error"] = "different",
    ) -> None:
        self.model, self.loss_fn, self.batch = model, loss_fn, batch
        self.chunk_size, self.randomness = chunk_size, randomness
        self.vector: ParameterVector | None = None
        self.names: list[str] = []

    def bind(self, params: Sequence[Tensor]) -> None:
        """Find each parameter's name in the model.

        Raises:
            ObjectiveError: a parameter that is not the model's.
        """
        if self.vector is not None and self.vector.matches(params):
            return
        names = {id(param): name for name, param in self.model.named_parameters()}
        unknown = [index for index, param in enumerate(params) if id(param) not in names]
        if unknown:
            raise ObjectiveError(
                f"parameter {unknown[0]} of the optimizer (shape {tuple(params[unknown[0]].shape)}) is not a "
                f"parameter of {type(self.model).__name__}: give the optimizer this model's parameters"
            )
        self.vector = ParameterVector(params)
        self.names = [names[id(param)] for param in params]

    def _loss(self, replaced: dict[str, Tensor]) -> Tensor:
        inputs, target = self.batch
        output = functional_call(self.model, replaced, inputs if isinstance(inputs, tuple) else (inputs,))
        return self.loss_fn(output, target)

    def evaluate_population(self, pop_PD: Tensor) -> Tensor:
        """Losses (P,) of positions (P, D) of the bound parameters."""
        if self.vector is None:
            self.bind(list(self.model.parameters()))
        assert self.vector is not None
        pieces = self.vector.split(pop_PD)
        stacked = {
            name: piece.to(param.dtype)
            for name, piece, param in zip(self.names, pieces, self.vector.params, strict=True)
        }
        for name, buffer in self.model.named_buffers():
            stacked[name] = buffer.detach().expand(pop_PD.shape[0], *buffer.shape).clone()
        losses = torch.vmap(self._loss, chunk_size=self.chunk_size, randomness=self.randomness)(stacked)
        assert isinstance(losses, Tensor)
        return losses

    def __call__(self) -> Tensor:
        """The loss at the model's own parameters (0-dim, differentiable), its buffers left as they are."""
        return self._loss({name: buffer.detach().clone() for name, buffer in self.model.named_buffers()})
