"""Transformers: a `Trainer`, with its model, data and arguments.

The Trainer's own `train` sets everything up, and is stopped where its first epoch would begin. A step is then one
update: its `training_step` for each micro-batch, clipping, optimizer and scheduler.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from bfo_diag.errors import TargetLoadError
from bfo_diag.framework_targets import FirstBatchReached, Framework
from bfo_diag.inputs import StepInPart
from bfo_diag.records import Case

_TRAINER = "transformers.trainer.Trainer"
_REPORTERS = "transformers.integrations"
"""Callbacks of these modules send or write what a training reports; a look at a step does neither."""


def prepare(trainer: Any, device: str) -> Case:
    """Return the Case of one update of the Trainer, on its first batches; its arguments say where it runs.

    Raises:
        TargetLoadError: it has no data, or trains on more than one device.
    """
    processes = max(trainer.args.n_gpu, trainer.args.world_size)
    if processes > 1:
        raise TargetLoadError(
            f"the Trainer trains on {processes} devices, and one process on one device is examined",
            mend="run it with CUDA_VISIBLE_DEVICES=0, and not under torchrun or accelerate launch",
        )
    own: Any = next(cls for cls in type(trainer).__mro__ if f"{cls.__module__}.{cls.__qualname__}" == _TRAINER)
    if trainer.train_dataset is None and type(trainer).get_train_dataloader is own.get_train_dataloader:
        raise TargetLoadError("the Trainer has no train_dataset", mend="give it one: Trainer(..., train_dataset=...)")
    _set_up(trainer)
    step = Update(trainer)
    optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)  # Accelerate has wrapped it
    return Case(step=step, model=trainer.model, optimizer=optimizer, inputs=step.inputs, name=step.part_name)


class Update(StepInPart):
    """One update of a Trainer, on the batches that its loader gave first. What it compiles is the model's forward.

    (With slots: what a Trainer holds, such as copies of weights in its callbacks, is not the step's to be named.)
    """

    __slots__ = ("_batches", "_items", "_trainer", "function", "inputs", "part_name")

    def __init__(self, trainer: Any) -> None:
        count = trainer.args.gradient_accumulation_steps
        batches = iter(trainer.get_train_dataloader())
        self._batches, self._items = trainer.get_batch_samples(batches, count, trainer.args.device)
        if not self._batches:
            raise TargetLoadError("the Trainer's train_dataset gives no batch", mend="give it data: it is empty")
        self._trainer = trainer
        self.function = trainer.model_wrapped
        self.part_name = f"{type(trainer.model).__name__}.forward"
        self.inputs = _in_order(trainer.model, trainer._prepare_inputs(self._batches[0]))

    def run_part(self, function: Callable[..., Any]) -> Any:
        """Run forward and backward of each micro-batch, with `function` in place of the model."""
        trainer, last = self._trainer, len(self._batches) - 1
        trainer.current_gradient_accumulation_steps = len(self._batches)
        trainer.model_wrapped.zero_grad()
        losses = []
        for index, inputs in enumerate(self._batches):
            trainer.accelerator.gradient_state._set_sync_gradients(index == last)
            losses.append(trainer.training_step(function, inputs, self._items))
        return sum(losses)

    def through(self, function: Callable[..., Any]) -> Any:
        """Run the update with `function` (its compiled form, say) in place of the model."""
        trainer = self._trainer
        self._tell("on_step_begin")
        loss = self.run_part(function)
        if trainer.args.max_grad_norm > 0:
            trainer._clip_grad_norm(trainer.model_wrapped)
        self._tell("on_pre_optimizer_step")
        trainer.optimizer.step()
        self._tell("on_optimizer_step")
        if not isinstance(trainer.lr_scheduler, _wants_a_metric()):
            trainer.lr_scheduler.step()
        trainer.model_wrapped.zero_grad()
        trainer.state.global_step += 1
        self._tell("on_step_end")
        # (An adapter in the place of `training_step` has no loss yet: the optimizer's closure makes it.)
        return None if "training_step" in vars(trainer) else loss

    def _tell(self, event: str) -> None:
        trainer = self._trainer
        trainer.control = getattr(trainer.callback_handler, event)(trainer.args, trainer.state, trainer.control)


def _wants_a_metric() -> tuple[type, ...]:
    """Return the schedulers that step on what an evaluation says."""
    import torch

    greedy = getattr(importlib.import_module("transformers.optimization"), "GreedyLR", None)
    return tuple(cls for cls in (torch.optim.lr_scheduler.ReduceLROnPlateau, greedy) if cls is not None)


def _in_order(model: Any, batch: dict[str, Any]) -> tuple[Any, ...]:
    """Return what forward takes of a batch, which goes to it by its names, in the order of forward's arguments."""
    signature = inspect.signature(type(model).forward)
    bound = signature.bind_partial(model, **{name: batch[name] for name in batch if name in signature.parameters})
    bound.apply_defaults()
    return bound.args[1:]


def _set_up(trainer: Any) -> None:
    """Run `train` up to its first epoch; what reports is left out.

    Private to Transformers (5.x): `_prepare_inputs`, `_clip_grad_norm`, and in Accelerate `_set_sync_gradients`.
    """
    handler = trainer.callback_handler
    handler.callbacks[:] = [one for one in handler.callbacks if not type(one).__module__.startswith(_REPORTERS)]

    class Stop(importlib.import_module("transformers.trainer_callback").TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            raise FirstBatchReached

    stop = Stop()  # the last one: what others do first is done
    handler.callbacks.append(stop)
    try:
        trainer.train()
    except FirstBatchReached:
        pass
    finally:
        handler.callbacks.remove(stop)


FRAMEWORK = Framework("Transformers", (_TRAINER,), prepare)
