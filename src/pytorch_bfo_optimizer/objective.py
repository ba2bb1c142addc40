"""One seam for evaluation: a closure is called member by member, a batched objective for the colony at once.

Here are the protocol, the two evaluators behind `foraging.generation`, and two ready objectives. An objective is
a plain closure too: calling it gives the loss at the parameters as they stand, with a graph to take gradients of.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, Literal, Protocol, cast, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pytorch_bfo_optimizer.errors import LossTypeError, ObjectiveError
from pytorch_bfo_optimizer.flat import ParameterVector
from pytorch_bfo_optimizer.interception import losses_alone

logger = logging.getLogger("pytorch_bfo_optimizer")

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
    # isinstance() of a protocol costs as much as ten operations on small tensors, and this is asked at every step
    found = hasattr(objective, "evaluate_population") and hasattr(objective, "bind")
    return cast(BatchedObjective, objective) if found else None


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
    """What the optimizers hand to their generation; it counts what it spends."""

    evaluations: int

    def __call__(self, position_PD: Tensor, active_P: Tensor) -> Tensor:
        """Losses (P,) of the active members; the other entries mean nothing."""


class PiecewiseEvaluator:
    """Evaluates a slot in units: members that are evaluated together, and always the same ones together.

    Units do not depend on who evaluates them, so they can be spread over processes without changing a bit.
    `prefilled` maps members to losses already evaluated where they stand; they take the place of an evaluation in
    the first slot, and were counted by whoever made them.
    """

    unit_size: int | None
    """Most members in a unit; None: all of them."""

    def __init__(self, *, dtype: torch.dtype, prefilled: Mapping[int, Tensor] | None) -> None:
        self.dtype = dtype
        self.prefilled = dict(prefilled or {})
        self.evaluations = 0

    def units(self, active_P: Tensor) -> list[Sequence[int]]:
        """The members to evaluate in this slot, unit by unit; none that is prefilled."""
        raise NotImplementedError

    def losses_of(self, position_PD: Tensor, unit: Sequence[int]) -> Tensor:
        """Evaluate one unit, and count it: losses (len(unit),) in `dtype`."""
        raise NotImplementedError

    def __call__(self, position_PD: Tensor, active_P: Tensor) -> Tensor:
        """Losses (P,): those evaluated or prefilled; +inf in the other entries."""
        losses = torch.full((position_PD.shape[0],), math.inf, dtype=self.dtype, device=position_PD.device)
        units = self.units(active_P)
        prefilled, self.prefilled = self.prefilled, {}
        for index, loss in prefilled.items():
            losses[index] = loss
        for unit in units:
            losses[unit] = self.losses_of(position_PD, unit)
        return losses


class MemberEvaluator(PiecewiseEvaluator):
    """Calls a closure once for each active member, with the parameters set to its position."""

    unit_size = 1

    def __init__(
        self,
        closure: Closure,
        vector: ParameterVector,
        *,
        dtype: torch.dtype,
        grad_enabled: bool,
        prefilled: Mapping[int, Tensor] | None = None,
    ) -> None:
        super().__init__(dtype=dtype, prefilled=prefilled)
        self.closure, self.vector, self.grad_enabled = closure, vector, grad_enabled

    def units(self, active_P: Tensor) -> list[Sequence[int]]:
        """Each active member alone, in order."""
        return [[index] for index in active_P.nonzero().flatten().tolist() if index not in self.prefilled]

    def losses_of(self, position_PD: Tensor, unit: Sequence[int]) -> Tensor:
        """One call of the closure."""
        self.vector.write_(position_PD[unit[0]])
        self.evaluations += 1
        with torch.set_grad_enabled(self.grad_enabled), losses_alone():
            value = self.closure()
        return as_loss(value, dtype=self.dtype, device=position_PD.device)


_fitting: WeakKeyDictionary[ParameterVector, int] = WeakKeyDictionary()
"""Rows that fit into memory at a time, of each optimizer that had to find out; it has one vector all its life."""


class PopulationEvaluator(PiecewiseEvaluator):
    """Evaluates whole slots through a `BatchedObjective`; a row costs one evaluation, active or not.

    Args:
        chunk_size: rows of one call of the objective; None: all rows at once. "auto": all, until an allocation
            fails; then half as many, and half again, as often as it takes. What fits is kept for the life of the
            optimizer. Which rows share a call can change the last bits of a loss, and nothing else.
    """

    def __init__(
        self,
        objective: BatchedObjective,
        vector: ParameterVector,
        *,
        dtype: torch.dtype,
        prefilled: Mapping[int, Tensor] | None = None,
        chunk_size: int | Literal["auto"] | None = None,
    ) -> None:
        super().__init__(dtype=dtype, prefilled=prefilled)
        objective.bind(vector.params)
        self.objective, self.vector = objective, vector
        self.halves = chunk_size == "auto"
        self.unit_size = None if chunk_size == "auto" else chunk_size
        self.fitting = _fitting.get(vector) if self.halves else None

    def units(self, active_P: Tensor) -> list[Sequence[int]]:
        """All rows that are not prefilled, `unit_size` at a time."""
        rows: Sequence[int] = range(active_P.shape[0])
        if self.prefilled:
            rows = [index for index in rows if index not in self.prefilled]
        size = self.unit_size or len(rows) or 1
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def losses_of(self, position_PD: Tensor, unit: Sequence[int]) -> Tensor:
        """One call for these rows; with "auto" as many as it takes."""
        self.evaluations += len(unit)
        rows_PD = position_PD[unit.start : unit.stop] if isinstance(unit, range) else position_PD[unit]
        return self._losses(rows_PD)

    def __call__(self, position_PD: Tensor, active_P: Tensor) -> Tensor:
        """Losses (P,); see `PiecewiseEvaluator`."""
        count = position_PD.shape[0]
        if self.prefilled or (self.unit_size is not None and self.unit_size < count):
            return super().__call__(position_PD, active_P)
        self.evaluations += count  # the usual case, in one call and without a copy
        return self._losses(position_PD)

    def _losses(self, rows_PD: Tensor) -> Tensor:
        """Losses of these rows in `dtype`, by one call, or with "auto" by as many as it takes."""
        if self.fitting is None:
            try:
                return population_losses(self.objective, rows_PD).to(self.dtype)
            except RuntimeError as error:
                if not self.halves or rows_PD.shape[0] == 1 or not out_of_memory(error):
                    raise
            # out of the except block, which keeps the tensors of the failed call alive
            self.fitting = (rows_PD.shape[0] + 1) // 2
        return self._losses_in_chunks(rows_PD, self.fitting)

    def _losses_in_chunks(self, rows_PD: Tensor, size: int) -> Tensor:
        """The same by `size` rows a call, or fewer: what fits is kept, and told where it is new."""
        losses: list[Tensor] = []
        while rows_PD.shape[0]:
            failed = False
            try:
                losses.append(population_losses(self.objective, rows_PD[:size]).to(self.dtype))
            except RuntimeError as error:
                if size == 1 or not out_of_memory(error):
                    raise
                failed = True
            if failed:
                size = (min(size, rows_PD.shape[0]) + 1) // 2
            else:
                rows_PD = rows_PD[size:]
        if _fitting.get(self.vector) != size:
            logger.warning(
                "the population does not fit into memory: from here on %d of its members are evaluated at a time; "
                "chunk_size=%d says so from the start",
                size,
                size,
            )
        self.fitting = _fitting[self.vector] = size
        return torch.cat(losses)


def out_of_memory(error: RuntimeError) -> bool:
    """Whether torch itself could not allocate a tensor, on whatever device; never an error of the objective's own."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return type(error) is RuntimeError and any(mark in str(error) for mark in _ALLOCATION_FAILED)


_ALLOCATION_FAILED = ("DefaultCPUAllocator: ", "MPS backend out of memory")
"""How torch's allocators begin where they have no class of error: the CPU's, and Apple's."""


def population_losses(objective: BatchedObjective, pop_PD: Tensor) -> Tensor:
    """`objective.evaluate_population(pop_PD)` without a graph, its answer checked: real, shape (P,)."""
    if torch.is_grad_enabled():
        with torch.no_grad():
            losses = objective.evaluate_population(pop_PD)
    else:
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
