"""`BFOTraining`: a LightningModule whose steps are those of a colony; `BFOCallback`: how the colony does, in the logs.

Here is what Lightning sees. How one step is made of a `training_step` is in `lightning_step`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch

from pytorch_bfo_optimizer.adapters.lightning_step import Batch, Step, samples_of, step_schedulers
from pytorch_bfo_optimizer.distributed import Distribution
from pytorch_bfo_optimizer.errors import HyperparameterError
from pytorch_bfo_optimizer.shell import ColonyOptimizer
from pytorch_bfo_optimizer.state import StepRecord, require_count

PACKAGES = ("lightning.pytorch", "pytorch_lightning")
"""Lightning's two names: one code, and classes that do not mix."""

SPLITTING = {"FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"}
"""Strategies of Lightning that leave each process a part of the parameters."""


def _callback_type() -> type:
    """`Callback` of the Lightning that is in use: what is imported already (both, if so), else what is installed."""
    imported = [name for name in PACKAGES if sys.modules.get(name) is not None]
    try:
        try:
            packages = [importlib.import_module(name) for name in imported or PACKAGES[:1]]
        except ImportError:
            packages = [importlib.import_module(PACKAGES[1])]
    except ImportError as error:
        raise ImportError(f"BFOTraining needs Lightning ({error}): pip install 'bfo-diag[lightning]'") from error
    return type("Callback", tuple(package.Callback for package in packages), {})


if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    Callback, LightningModule = _callback_type(), object  # the mixin fits modules of either


class BFOTraining(LightningModule):
    """A mixin, put first: the module trains with `HybridBFO`, `AdaptiveBFO` or `BFO`, and is otherwise as it was.

    ::

        class Net(BFOTraining, L.LightningModule):
            def training_step(self, batch, batch_idx): ...  # returns the loss, as ever
            def configure_optimizers(self):
                return HybridBFO(self.parameters())

    Lightning calls the `training_step` once for each batch; the optimizer evaluates it as often as it needs to, under
    autocast where the precision asks for that, and with the same random numbers and buffers for each candidate. A
    step that made several evaluations makes one more forward pass, at the parameters that it ends with: what that one
    does to buffers and metrics, and gives to `self.log`, is what remains of the step. So everything is logged once.

    To Lightning this is manual optimization, in which it leaves several things to the module. They are done here: a
    step counts in `global_step`; `optimizer_step`, `on_before_optimizer_step`, `on_before_zero_grad` and
    `optimizer_zero_grad` are called once a step, `configure_gradient_clipping` and the hooks around `backward` for
    each gradient that is taken; schedulers are stepped by their interval and frequency, except `ReduceLROnPlateau`,
    whose metric is yours to give. In a job of several processes each has its own batches, and losses and gradients
    are averaged (`distribute(optimizer, data="own")`). In a single process optimizers of torch work too.

    What Lightning does not take from the Trainer in manual optimization is set on the module, by the same names:

    Attributes:
        accumulate_grad_batches: batches that make one step, fewer at the end of an epoch; the loss is their mean,
            weighted by `batch_weight`.
        gradient_clip_val: the norm or value that each gradient is clipped to; None: none is. Of several processes
            each clips its own, before the mean is taken.
        gradient_clip_algorithm: "norm" (which None means, too) or "value".

    From `Trainer.fit`:
        HyperparameterError: a strategy that splits the parameters, `precision="16-mixed"`, several optimizers, or an
            optimizer of torch in several processes.
        LossTypeError: `training_step` returned no loss.
    """

    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = None
    gradient_clip_algorithm: str | None = None
    _bfo_waiting: tuple[Batch, ...] = ()
    """Batches that have come for the next step."""
    _bfo_step: Step | None = None
    """The step that is being made."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Wrap the two methods that are written as for automatic optimization.

        Raises:
            TypeError: the mixin does not come first, or `training_step` takes the iterator over the batches.
        """
        super().__init_subclass__(**kwargs)
        if inspect.getattr_static(cls, "automatic_optimization") is not vars(BFOTraining)["automatic_optimization"]:
            raise TypeError(
                f"{cls.__name__}.automatic_optimization is not BFOTraining's: put the mixin first, "
                f"`class {cls.__name__}(BFOTraining, LightningModule)`, and leave automatic_optimization alone"
            )
        for name, wrap in (("training_step", _stepping), ("configure_optimizers", _checking)):
            written = getattr(cls, name, None)
            if written is not None and not hasattr(written, "wrapped_by_bfo") and not _of_lightning(written):
                setattr(cls, name, wrap(written))

    @property
    def automatic_optimization(self) -> bool:
        """False: the steps are made here."""
        return False

    @automatic_optimization.setter
    def automatic_optimization(self, automatic: bool) -> None:
        if automatic:
            raise HyperparameterError(
                f"automatic_optimization is False for {type(self).__name__}, whose steps BFOTraining makes: to let "
                "Lightning make them, leave the mixin away"
            )

    def batch_weight(self, batch: Any) -> float:
        """What the loss of a batch counts in the mean of several: its samples, as the first tensor in it shows.

        Override it where the loss is a mean over something else, such as tokens.
        """
        return samples_of(batch)

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Log, as Lightning does; from the `training_step` once a step, see the class."""
        if self._bfo_step is None or not self._bfo_step.keep_log((name, value, *args), kwargs):
            super().log(name, value, *args, **kwargs)

    def teardown(self, stage: str) -> None:
        """Part from the other processes."""
        for optimizer in self.trainer.optimizers:
            handle = getattr(optimizer, "_shard", None)
            if isinstance(handle, Distribution):
                handle.remove()
        super().teardown(stage)


def _stepping(written: Callable[..., Any]) -> Callable[..., Any]:
    """The `training_step` that Lightning calls, of one that returns the loss."""
    signature = inspect.signature(written)
    if "dataloader_iter" in signature.parameters:
        raise TypeError(
            "training_step(self, dataloader_iter) fetches its batches itself, and each candidate would get others: "
            "write training_step(self, batch, batch_idx)"
        )

    @functools.wraps(written)
    def training_step(self: BFOTraining, *args: Any, **kwargs: Any) -> Any:
        trainer = self._trainer
        if self._bfo_step is not None or trainer is None or not trainer.training:
            return written(self, *args, **kwargs)  # an evaluation that goes on in a parent class, or a call by hand
        require_count("accumulate_grad_batches", self.accumulate_grad_batches, least=1, mend="1 is a step for each")
        index = trainer.fit_loop.batch_idx
        last = trainer.is_last_batch or index + 1 == trainer.num_training_batches
        self._bfo_waiting = (*(self._bfo_waiting if index else ()), (args, kwargs))
        if (index + 1) % self.accumulate_grad_batches and not last:
            return None
        batches, self._bfo_waiting = self._bfo_waiting, ()
        self._bfo_step = Step(self, written, batches, index)
        try:
            output = self._bfo_step.make()
        finally:
            self._bfo_step = None
        step_schedulers(self, index, last=last)
        return output

    # Lightning asks whether there is a batch_idx, and may compile what a module has: a forward, but not our steps
    training_step.__signature__ = signature  # type: ignore[attr-defined]
    training_step.wrapped_by_bfo = written  # type: ignore[attr-defined]
    return cast(Callable[..., Any], torch.compiler.disable(training_step))


def _checking(written: Callable[..., Any]) -> Callable[..., Any]:
    """The `configure_optimizers` that Lightning calls: it refuses what can't be trained before there is a colony."""

    @functools.wraps(written)
    def configure_optimizers(self: BFOTraining) -> Any:
        strategies = {kind.__name__ for kind in type(self.trainer.strategy).__mro__}
        if strategies & SPLITTING:
            raise HyperparameterError(
                f"{type(self.trainer.strategy).__name__} splits the parameters, and a colony needs all of them in each "
                'process: use Trainer(strategy="ddp")'
            )
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            raise HyperparameterError(
                f"precision={self.trainer.precision!r} scales the loss, and a GradScaler steps without a closure: use "
                '"bf16-mixed", which needs none, or "32-true"'
            )
        self._bfo_waiting = ()
        return written(self)

    configure_optimizers.wrapped_by_bfo = written  # type: ignore[attr-defined]
    return configure_optimizers


def _of_lightning(method: Callable[..., Any]) -> bool:
    """Whether it is what every LightningModule has, and nobody's own."""
    return method.__module__.startswith(PACKAGES)


class BFOCallback(Callback):
    """Logs how the colony does, after each step: `PREFIX/best_loss`, `PREFIX/diversity` and `PREFIX/evaluations`.

    These are the best loss known, the mean distance of the members from their centroid, and the evaluations so far.
    Nothing of it is in a checkpoint. It works with or without `BFOTraining`.

    Args:
        prefix: of the names.
        prog_bar: whether the progress bar shows them too.
    """

    def __init__(self, prefix: str = "bfo", *, prog_bar: bool = False) -> None:
        super().__init__()
        self._prefix, self._prog_bar = prefix, prog_bar
        self._record: StepRecord | None = None
        """Of a step that is not logged yet."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hook on to the optimizers.

        Raises:
            TypeError: none of them is a colony.
        """
        colonies = [optimizer for optimizer in trainer.optimizers if isinstance(optimizer, ColonyOptimizer)]
        if not colonies:
            found = ", ".join(type(optimizer).__name__ for optimizer in trainer.optimizers)
            raise TypeError(f"BFOCallback logs a colony, and configure_optimizers returned {found}: leave it away")
        for optimizer in colonies:
            if self._note not in optimizer.on_step:
                optimizer.on_step.append(self._note)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Log the last step, if there was one."""
        record, self._record = self._record, None
        if record is not None:
            figures = {
                "best_loss": record.best_loss,
                "diversity": record.diversity,
                "evaluations": float(record.evaluations_total),
            }
            named = {f"{self._prefix}/{name}": value for name, value in figures.items()}
            pl_module.log_dict(named, prog_bar=self._prog_bar, on_step=True, on_epoch=False)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the optimizers as they were."""
        self.on_train_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the optimizers as they were."""
        for optimizer in trainer.optimizers:
            if isinstance(optimizer, ColonyOptimizer) and self._note in optimizer.on_step:
                optimizer.on_step.remove(self._note)

    def _note(self, record: StepRecord) -> None:
        self._record = record
