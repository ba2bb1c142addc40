"""Lightning: a LightningModule, alone or with a Trainer, a LightningDataModule or a dataloader.

The Trainer's own `fit` sets everything up, and is stopped where its first batch would begin. A step is then one batch
of its own training loop: hooks, precision, backward or manual optimization, optimizer, schedulers.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from types import MethodType
from typing import Any

from bfo_diag.attempt import call_through
from bfo_diag.errors import TargetLoadError
from bfo_diag.framework_targets import FirstBatchReached, Framework
from bfo_diag.inputs import StepInPart
from bfo_diag.records import Case

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")
_MODULE = "core.module.LightningModule"
_TRAINER = "trainer.trainer.Trainer"
_DATA = "core.datamodule.LightningDataModule"
_LEFT_OUT = ("Checkpoint", "ProgressBar")
"""Classes of callbacks that write files or draw; a look at a step does neither."""


def prepare(value: Any, device: str) -> Case:
    """Return the Case of one batch of the module's training.

    Raises:
        TargetLoadError: there is no module, nothing to take a batch from, or more than one device.
    """
    given = _sorted(value if isinstance(value, tuple) else (value,))
    trainer = given.get("trainer")
    module = given.get("module", getattr(trainer, "lightning_module", None))
    if module is None:
        raise TargetLoadError(
            "the Trainer has no module: fit() gives it one",
            mend="name a function without arguments that returns (trainer, module), or the LightningModule itself",
        )
    data = _data_of(given, module, trainer)
    trainer = _own_trainer(module, device) if trainer is None else _quiet(trainer, module)
    step = TrainingStep(trainer, module, _set_up(trainer, module, data))
    first = next(iter(trainer.optimizers), None)
    return Case(step=step, model=module, optimizer=first, inputs=step.inputs, name=step.part_name)


class TrainingStep(StepInPart):
    """One batch of a Trainer's training loop. Lightning compiles `training_step`, and so does `through`.

    Where `BFOTraining` makes the optimizer's steps in it, that is the one that the user wrote: the loss of a batch.

    (With slots: what a Trainer holds, such as copies of weights in its callbacks, is not the step's to be named.)
    """

    __slots__ = ("_batch", "_makes_steps", "_module", "_returned", "_trainer", "function", "inputs", "part_name")

    def __init__(self, trainer: Any, module: Any, batch: Any) -> None:
        self._trainer, self._module, self._batch = trainer, module, batch
        written = getattr(type(module).training_step, "wrapped_by_bfo", None)
        self._makes_steps = written is not None
        self.function = MethodType(written, module) if written is not None else module.training_step
        self.part_name = f"{type(module).__name__}.training_step"
        on_device = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch), dataloader_idx=0)
        wanted = importlib.import_module(f"{_package(module)}.utilities.signature_utils").is_param_in_hook_signature
        self.inputs = (on_device, 0) if wanted(self.function, "batch_idx", min_args=2) else (on_device,)
        self._returned: Any = None

    def __call__(self) -> Any:
        """Run the batch, and return its loss."""
        return self._advance(self._module.training_step)

    def run_part(self, function: Callable[..., Any]) -> Any:
        """Run `function` and backward alone; with manual optimization it is all of the batch."""
        if not self._module.automatic_optimization and not self._makes_steps:
            return self.through(function)
        self._module.zero_grad()
        self._module.trainer = self._trainer
        with self._trainer.precision_plugin.train_step_context():
            returned = call_through(function, self.inputs, {})
        loss = _loss_of(returned)
        if loss is None:
            return None
        loss.backward()
        return loss.detach()

    def through(self, function: Callable[..., Any]) -> Any:
        """Run the batch with `function` (its compiled form, say) in place of `training_step`."""
        return self.run_part(function) if self._makes_steps else self._advance(function)

    def _advance(self, function: Callable[..., Any]) -> Any:
        @functools.wraps(self._module.training_step)
        def training_step(*args: Any, **kwargs: Any) -> Any:
            self._returned = call_through(function, args, kwargs)
            return self._returned

        before = vars(self._module).get("training_step")
        self._module.trainer = self._trainer  # another Trainer may have trained it since
        self._module.training_step = training_step
        try:
            self._trainer.fit_loop.epoch_loop.advance(_OneBatch(self._batch))
        finally:
            if before is None:
                del self._module.training_step
            else:
                self._module.training_step = before
        returned, self._returned = self._returned, None
        loss = _loss_of(returned)
        return None if loss is None else loss.detach()  # the loop has gone back through its graph


class _OneBatch:
    """Gives the training loop the same batch whenever it asks for one."""

    done = False

    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def __next__(self) -> tuple[Any, int, int]:
        return self._batch, 0, 0


def _loss_of(returned: Any) -> Any:
    """Return the loss in what `training_step` returned, None where there is none."""
    loss = returned.get("loss") if isinstance(returned, dict) else returned
    return loss if hasattr(loss, "backward") else None


def _names(kind: str) -> tuple[str, ...]:
    return tuple(f"{package}.{kind}" for package in _PACKAGES)


def _base(value: object, kind: str) -> type | None:
    """Return the class of Lightning's, of that kind, which an object is derived from."""
    names = _names(kind)
    return next((cls for cls in type(value).__mro__ if f"{cls.__module__}.{cls.__qualname__}" in names), None)


def _package(value: object) -> str:
    """Return the package that an object's Lightning was imported under: there are two of them."""
    base = next(base for kind in (_MODULE, _TRAINER) if (base := _base(value, kind)) is not None)
    return next(package for package in _PACKAGES if base.__module__.startswith(package))


def _sorted(values: tuple[Any, ...]) -> dict[str, Any]:
    """Return trainer, module, datamodule and loader of what was given, in whatever order."""
    found: dict[str, Any] = {}
    for value in values:
        kinds = {"module": _MODULE, "trainer": _TRAINER, "datamodule": _DATA}
        name = next((name for name, kind in kinds.items() if _base(value, kind) is not None), "loader")
        if name in found:
            raise TargetLoadError(
                f"of what was returned, two are a {name}: {type(found[name]).__name__} and {type(value).__name__}",
                mend="return a LightningModule, with at most one Trainer and one LightningDataModule or dataloader",
            )
        found[name] = value
    return found


def _data_of(given: dict[str, Any], module: Any, trainer: Any) -> dict[str, Any]:
    """Return the arguments of `fit` that say where batches come from.

    Raises:
        TargetLoadError: nobody says it.
    """
    if "datamodule" in given:
        return {"datamodule": given["datamodule"]}
    if "loader" in given:
        return {"train_dataloaders": given["loader"]}
    if getattr(trainer, "datamodule", None) is not None:
        return {"datamodule": trainer.datamodule}
    if getattr(trainer, "train_dataloader", None) is not None:
        return {"train_dataloaders": trainer.train_dataloader}
    base: Any = _base(module, _MODULE)
    if type(module).train_dataloader is not base.train_dataloader or "train_dataloader" in vars(module):
        return {}
    name = type(module).__name__
    raise TargetLoadError(
        f"{name} has no train_dataloader(), and nothing else says what its batches are",
        mend=f"define {name}.train_dataloader, or name a function without arguments that returns (module, loader), "
        "(module, datamodule) or (trainer, module); --input 'float32[32,64]' examines forward alone",
    )


def _own_trainer(module: Any, device: str) -> Any:
    """Return a Trainer that trains on one device, and writes nothing."""
    package = _package(module)
    kind, _, index = device.partition(":")
    return importlib.import_module(package).Trainer(
        accelerator=kind,
        devices=[int(index)] if index else 1,
        max_epochs=1000,  # Lightning's own number where nobody says one; schedulers ask for the steps of all epochs
        logger=_no_logger(package),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
    )


def _no_logger(package: str) -> Any:
    """Return the logger of Lightning's `fast_dev_run`: code that calls its `experiment` runs, and nothing is kept."""
    return importlib.import_module(f"{package}.loggers.logger").DummyLogger()


def _quiet(trainer: Any, module: Any) -> Any:
    """Return the Trainer with what writes files left out.

    Raises:
        TargetLoadError: it trains on more than one device.
    """
    if trainer.world_size > 1:
        raise TargetLoadError(
            f"the Trainer trains in {trainer.world_size} processes, and one process is examined",
            mend="return it with Trainer(devices=1) for this, or the LightningModule alone",
        )
    trainer.loggers = [_no_logger(_package(module)) for _ in trainer.loggers]
    trainer.callbacks = [
        callback
        for callback in trainer.callbacks
        if not any(cls.__name__ in _LEFT_OUT for cls in type(callback).__mro__)
    ]
    trainer.num_sanity_val_steps = 0
    return trainer


def _set_up(trainer: Any, module: Any, data: dict[str, Any]) -> Any:
    """Run `fit` up to its first batch, and return that batch as it came from the loader.

    Private to Lightning (2.5, 2.6): the loops are `trainer.fit_loop` and its `epoch_loop`, `_data_fetcher` gives the
    batches, `_current_fx_name` says to `self.log` whose values they are.

    Raises:
        TargetLoadError: the loader is empty.
    """
    fit, batches = trainer.fit_loop, []

    def up_to_the_first_batch() -> None:
        fit.setup_data()
        if trainer.limit_train_batches == 0 or fit.max_batches == 0:
            return
        fit.reset()
        fit.on_run_start()
        fit.on_advance_start()
        fit.epoch_loop.reset()
        batches.append(next(fit._data_fetcher)[0])
        raise FirstBatchReached

    fit.run = up_to_the_first_batch
    try:
        trainer.fit(module, **data)
    except FirstBatchReached:
        pass
    finally:
        del fit.run
    if not batches:
        raise TargetLoadError(
            f"the training of {type(module).__name__} has no batch: its loader is empty, or limit_train_batches is 0",
            mend="give it a loader with a batch in it",
        )
    # (What ends `fit` takes the module off its device, and says that nothing runs.)
    trainer.strategy.model_to_device()
    trainer.training = True
    module._current_fx_name = "training_step"
    return batches[0]


FRAMEWORK = Framework("Lightning", (*_names(_MODULE), *_names(_TRAINER)), prepare)
