"""`BFOTrainer`, and `prepare` for a Trainer that you have: each step of the optimizer gets the closure that it lacks.

What a loss is stays the Trainer's own: the closure calls its `training_step` for each micro-batch.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pytorch_bfo_optimizer.distributed import distribute
from pytorch_bfo_optimizer.errors import HyperparameterError
from pytorch_bfo_optimizer.hybrid import HybridBFO
from pytorch_bfo_optimizer.shell import ColonyOptimizer
from pytorch_bfo_optimizer.smart_closure import SmartClosure
from pytorch_bfo_optimizer.steady import SteadyClosure

try:
    from transformers import Trainer, TrainerCallback
except ImportError as error:
    raise ImportError(f"BFOTrainer needs Transformers ({error}): pip install 'bfo-diag[transformers]'") from error


MicroBatch = tuple[nn.Module, Any, Any]
"""The arguments of `Trainer.training_step`: model, inputs, and what the whole batch counts."""


class BFOTrainer(Trainer):
    """A `transformers.Trainer` whose optimizer is `HybridBFO`, `AdaptiveBFO` or `BFO`; its arguments are the Trainer's.

    ::

        optimizer = HybridBFO(model.parameters())
        BFOTrainer(model, args, train_dataset=data, optimizers=(optimizer, None)).train()

    What `prepare` says of a Trainer holds for this one.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        prepare(self)


def prepare(trainer: Trainer) -> Trainer:
    """Let a Trainer, of whatever class derived from Transformers', train with a colony; returns it.

    A Trainer calls its `training_step` for each micro-batch, and then a bare `optimizer.step()`. From here on the
    micro-batches are kept until that call, which gets a closure: the `training_step` (yours, if you have overridden
    it) of each of them. So the loss is the Trainer's, its mean too (over tokens, where the model takes
    `num_items_in_batch`), and autocast, callbacks, scheduler and checkpoints are as ever. Random numbers and buffers
    are the same for each candidate of a step (`SteadyClosure`). `loss` in the log is what the optimizer's `step`
    returned.

    `max_grad_norm` clips each gradient that `HybridBFO` takes; `grad_norm` in the log is that of a step's last one,
    before it was clipped, and is left out where a step took none. In a job of several processes each evaluates every
    candidate on its own data (`distribute(optimizer, data="own")`), and clips its own gradient before the mean is
    taken.

    From `train()`:
        TypeError: the optimizer is none of ours.
        HyperparameterError: `fp16` with a scaler, DeepSpeed or FSDP, or a param group that wants `weight_decay`.
    """
    if not isinstance(trainer, Trainer):
        raise TypeError(f"prepare takes a transformers.Trainer, made with its arguments, and this is {trainer!r}")
    if not any(isinstance(callback, ClosureSteps) for callback in trainer.callback_handler.callbacks):
        trainer.add_callback(ClosureSteps(trainer))
    return trainer


class ClosureSteps(TrainerCallback):
    """Stands between a Trainer and its optimizer: keeps the micro-batches, and gives each step a closure of them.

    It takes the place of `training_step`, and of one method of Transformers 5 that is not public:
    `_maybe_log_save_evaluate`, which is told what came of a step. What the Trainer itself measures and clips before a
    step are no gradients: they come in the step.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._kept: list[MicroBatch] = []
        self._steady: SteadyClosure | None = None
        self._loss = 0.0
        self._norm: Tensor | None = None
        """Of the last gradient of a step, before it was clipped; None where there was none."""
        self._handles: list[Any] = []
        self._training_step, trainer.training_step = trainer.training_step, self.keep
        self._report, trainer._maybe_log_save_evaluate = trainer._maybe_log_save_evaluate, self.report

    # --- called by the Trainer ---

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Hook on to the optimizer that the Trainer has made or was given.

        Raises:
            TypeError, HyperparameterError: see `prepare`.
        """
        self._release()
        trainer = self._trainer
        optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)  # Accelerate has wrapped it
        _refuse_unfit(trainer, optimizer)
        self._handles = [
            optimizer.register_step_pre_hook(self.give_closure),
            optimizer.register_step_post_hook(self.settle),
        ]
        if trainer.accelerator.num_processes > 1 and optimizer._shard is None:
            self._handles.append(distribute(optimizer, data="own"))

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Leave the optimizer as it was."""
        self._release()

    def keep(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Keep the arguments of `training_step` for the step. Their loss is not known yet: 0."""
        self._kept.append((model, inputs, num_items_in_batch))
        return torch.zeros((), device=self._trainer.args.device)

    def report(self, tr_loss: Tensor, _: object, *args: Any, **kwargs: Any) -> None:
        """Add the loss of the step to what the Trainer has not logged yet, and tell it the norm of the gradient."""
        tr_loss += self._loss
        self._loss = 0.0
        self._report(tr_loss, self._norm, *args, **kwargs)

    # --- called by the optimizer ---

    def give_closure(
        self, optimizer: ColonyOptimizer[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """A step hook: the arguments of a `step` that has come without a closure."""
        self._steady = None  # of a step that an exception has ended
        if not self._kept or any(argument is not None for argument in (*args[1:], *kwargs.values())):
            return None
        kept, self._kept = self._kept, []
        self._norm = None
        closure = partial(self._evaluate, kept, clip=isinstance(optimizer, HybridBFO))
        if not isinstance(optimizer, HybridBFO):
            closure = partial(_loss_alone, SmartClosure(closure, optimizer.vector.params))
        self._steady = SteadyClosure(closure, kept[0][0])
        return (optimizer, partial(_evaluated, self._steady)), {}

    def settle(self, optimizer: ColonyOptimizer[Any, Any], *_: Any) -> None:
        """A step hook: buffers move once, and the loss is noted."""
        if self._steady is not None:
            self._steady.settle()
            self._steady = None
            self._loss += optimizer.best_fitness or 0.0

    def _evaluate(self, kept: list[MicroBatch], *, clip: bool) -> Any:
        """The loss of all micro-batches, and its gradient where backward runs."""
        model = kept[0][0]
        model.zero_grad()
        loss = sum(self._training_step(*micro_batch) for micro_batch in kept)
        if clip:
            largest = self._trainer.args.max_grad_norm
            norm = self._trainer.accelerator.clip_grad_norm_(model.parameters(), largest if largest > 0 else math.inf)
            if norm != 0:  # else only the loss was wanted, and backward did not run
                self._norm = norm
        return loss

    def _release(self) -> None:
        self._kept, self._steady, self._loss, self._norm = [], None, 0.0, None
        handles, self._handles = self._handles, []
        for handle in handles:
            handle.remove()


def _evaluated(steady: SteadyClosure) -> Any:
    """One evaluation; what it raises leaves random state and buffers as they were before the step."""
    try:
        return steady()
    except BaseException:
        steady.put_back()
        raise


def _loss_alone(closure: SmartClosure) -> Any:
    with torch.no_grad():
        return closure()


def _refuse_unfit(trainer: Any, optimizer: object) -> None:
    """Raise where a colony can't train as the Trainer is set up.

    Raises:
        TypeError, HyperparameterError: see `prepare`.
    """
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        raise HyperparameterError(
            "DeepSpeed and FSDP split the parameters, and a colony needs all of them on each process: start the same "
            "script without them (torchrun alone is DDP)"
        )
    if not isinstance(optimizer, ColonyOptimizer):
        raise TypeError(
            f"BFOTrainer drives HybridBFO, AdaptiveBFO and BFO, and this Trainer's optimizer is "
            f"{type(optimizer).__name__}: pass optimizers=(HybridBFO(model.parameters()), None), or use "
            "transformers.Trainer for it"
        )
    if trainer.accelerator.scaler is not None:
        raise HyperparameterError(
            "fp16=True scales the loss, and its GradScaler takes no closure: use bf16=True, which needs no scaler"
        )
    for index, group in enumerate(optimizer.param_groups):
        if group.get("weight_decay"):
            raise HyperparameterError(
                f"param group {index} asks for weight_decay={group['weight_decay']}, which {type(optimizer).__name__} "
                "does not have: set TrainingArguments(weight_decay=0.0), or add the penalty to the loss "
                "(compute_loss_func)"
            )
