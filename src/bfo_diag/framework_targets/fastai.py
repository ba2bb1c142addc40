"""fastai: a `Learner`, with its data, loss and callbacks.

The Learner's own `fit` sets everything up, and is stopped where its first batch would begin. A step is then its own
`one_batch`, with all callbacks.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from bfo_diag.errors import TargetLoadError
from bfo_diag.framework_targets import FirstBatchReached, Framework
from bfo_diag.inputs import StepInPart
from bfo_diag.records import Case

_LEARNER = "fastai.learner.Learner"
_REPORTERS = ("progress", "tensorboard", "wandb", "neptune", "comet", "azureml")
"""Callbacks of these modules in `fastai.callback` draw, write or send; a look at a step does neither."""


def prepare(learner: Any, device: str) -> Case:
    """Return the Case of one batch of the Learner's training; its data say where it runs.

    Raises:
        TargetLoadError: its training loader is empty.
    """
    reporters = tuple(f"fastai.callback.{name}" for name in _REPORTERS)
    learner.remove_cbs([one for one in learner.cbs if type(one).__module__ in reporters])
    step = OneBatch(learner, _set_up(learner))
    optimizer = getattr(learner.opt, "opt", None)  # torch's, where there is one: fastai's own is none
    return Case(step=step, model=learner.model, optimizer=optimizer, inputs=step.inputs, name=step.part_name)


class OneBatch(StepInPart):
    """`one_batch` of a Learner, on the first batch of its loader. What one compiles with fastai is the model.

    (With slots: what a Learner holds, such as copies of weights in its callbacks, is not the step's to be named.)
    """

    __slots__ = ("_batch", "_labels", "_learner", "_to_clear", "function", "inputs", "part_name")

    def __init__(self, learner: Any, batch: tuple[Any, ...]) -> None:
        self._learner, self._batch = learner, batch
        self._to_clear = False
        self.function = learner.model
        self.part_name = f"{type(learner.model).__name__}.forward"
        self.inputs, self._labels = tuple(learner.xb), tuple(learner.yb)

    def run_part(self, function: Callable[..., Any]) -> Any:
        """Run forward and backward alone, with `function` in place of the model."""
        self._learner.model.zero_grad()
        loss = self._learner.loss_func(function(*self.inputs), *self._labels)
        loss.backward()
        return loss.detach()

    def through(self, function: Callable[..., Any]) -> Any:
        """Run the batch with `function` (its compiled form, say) in place of the model.

        The gradients are cleared before the next step, not after this one: fastai's optimizers are none of torch's, so
        who measures gradients looks for them when the step is over.
        """
        learner = self._learner
        if self._to_clear:
            learner.opt.zero_grad()
        self._to_clear = False
        learner.model, learner.opt.zero_grad = function, self._clear_later
        try:
            learner.one_batch(0, self._batch)
        finally:
            learner.model = self.function
            del learner.opt.zero_grad
        loss: Any = getattr(learner, "loss", None)  # none of a batch that a callback cancelled
        return loss.detach() if hasattr(loss, "detach") else None

    def _clear_later(self) -> None:
        self._to_clear = True


def _set_up(learner: Any) -> tuple[Any, ...]:
    """Run `fit` up to its first batch, and return that batch.

    Raises:
        TargetLoadError: there is none.
    """

    class Stop(importlib.import_module("fastai.callback.core").Callback):  # type: ignore[misc]
        order = -1000  # the first one: callbacks that change the batch (MixUp) do so at each step

        def before_batch(self) -> None:
            if self.training:
                raise FirstBatchReached

    stop = Stop()
    try:
        learner.fit(1, cbs=stop)
    except FirstBatchReached:
        return (*learner.xb, *learner.yb)
    raise TargetLoadError(
        "the Learner's training loader gives no batch",
        mend="give it one: dls.train is empty, or drops its only batch because that is smaller than bs",
    )


FRAMEWORK = Framework("fastai", (_LEARNER,), prepare)
