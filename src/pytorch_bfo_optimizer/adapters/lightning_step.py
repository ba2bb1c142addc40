"""One step of an optimizer in Lightning's manual optimization: what it evaluates, and what Lightning gets to see of it.

Nothing of Lightning is imported here: everything is reached through the module, which `BFOTraining` is mixed into.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pytorch_bfo_optimizer.accumulation import accumulate
from pytorch_bfo_optimizer.distributed import distribute
from pytorch_bfo_optimizer.errors import HyperparameterError, LossTypeError
from pytorch_bfo_optimizer.shell import ColonyOptimizer
from pytorch_bfo_optimizer.steady import SteadyClosure

if TYPE_CHECKING:
    from pytorch_bfo_optimizer.adapters.lightning import BFOTraining

Batch = tuple[tuple[Any, ...], dict[str, Any]]
"""What Lightning passes to a `training_step`."""


class Step:
    """One step of the optimizer, made of the batches that have come for it.

    Args:
        module: whose parameters are trained.
        written: its `training_step`, which returns the loss.
        batches: at least one.
        index: of the last of them in the epoch.

    Raises:
        HyperparameterError: see `BFOTraining`.
    """

    def __init__(
        self, module: BFOTraining, written: Callable[..., Any], batches: tuple[Batch, ...], index: int
    ) -> None:
        self.module, self.written, self.index = module, written, index
        self.trainer: Any = module.trainer
        self.optimizer = _optimizer_of(module)
        weights = [module.batch_weight((*args, *kwargs.values())[0]) for args, kwargs in batches]
        self.losses = accumulate([partial(self._loss, *each) for each in zip(batches, weights, strict=True)], weights)
        self.several = len(batches) > 1
        self.steady = SteadyClosure(self._evaluate, module)
        metrics: list[Any] = [part for part in module.modules() if hasattr(part, "metric_state")]
        self.metrics = [(metric, deepcopy(metric.metric_state)) for metric in metrics]
        """Those of torchmetrics, whose state is no buffer, and what it was."""
        self.logged: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        """What the last evaluation has logged: the arguments of `log`."""
        self.weight: float | None = None
        """Of the batch whose `training_step` runs; None while none does."""
        self.output: Any = None
        """What the last `training_step` returned."""

    def make(self) -> Any:
        """Step; what `training_step` returned, for the last batch, at the parameters that the step ends with."""
        module, grad_mode = self.module, _wants_grad_mode(self.optimizer)
        wrapped: Any = module.optimizers()
        hook = self.optimizer.register_step_pre_hook(self._give_closure)
        try:
            # Lightning calls this under autocast, which is for the forward pass alone
            with torch.autocast(module.device.type, enabled=False), torch.set_grad_enabled(grad_mode):
                module.optimizer_step(module.current_epoch, self.index, wrapped, self.steady)
                if self.steady.evaluations > 1:
                    with torch.no_grad():
                        self.steady()
        except BaseException:
            self.steady.put_back()
            raise
        finally:
            hook.remove()
        logged, self.logged = self.logged, []
        for args, kwargs in logged:
            module.log(*args, **kwargs)
        return self.output

    def keep_log(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Keep the arguments of `log`, where the `training_step` calls it; whether it does."""
        if self.weight is None:
            return False
        name, value, *others = args
        if self.several and isinstance(self.weight, int):
            kwargs = {"batch_size": self.weight, **kwargs}  # Lightning would take that of the last batch for all
        self.logged.append(((name, value.detach().clone() if isinstance(value, Tensor) else value, *others), kwargs))
        return True

    def _give_closure(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A step hook: of the evaluations the first is Lightning's, which calls `on_before_optimizer_step` after it."""
        closures: Iterator[Callable[[], Any]] = iter([kwargs["closure"]])

        def closure() -> Any:
            evaluate = next(closures, None)
            self._zero_grad(first=evaluate is not None)
            loss = evaluate() if evaluate is not None else self.steady()
            if any(param.grad is not None for group in optimizer.param_groups for param in group["params"]):
                clip = self.module.gradient_clip_val, self.module.gradient_clip_algorithm
                self.module.configure_gradient_clipping(optimizer, *clip)
            return loss

        return args, {**kwargs, "closure": closure}

    def _zero_grad(self, *, first: bool) -> None:
        if not first:
            self.optimizer.zero_grad()
            return
        for callback in self.trainer.callbacks:
            callback.on_before_zero_grad(self.trainer, self.module, self.optimizer)
        self.module.on_before_zero_grad(self.optimizer)
        self.module.optimizer_zero_grad(self.module.current_epoch, self.index, self.optimizer)

    # --- one evaluation ---

    def _evaluate(self) -> Tensor:
        """The mean loss of the batches, and its gradient where that is wanted."""
        self.logged, self.output = [], None
        for metric, kept in self.metrics:
            for name, value in deepcopy(kept).items():
                setattr(metric, name, value)
        return self.losses.evaluate(self._backward)

    def _loss(self, batch: Batch, weight: float) -> Tensor:
        """The loss that `training_step` returns for a batch."""
        args, kwargs = batch
        self.weight = weight
        try:
            with self.trainer.precision_plugin.train_step_context():
                self.output = self.written(self.module, *args, **kwargs)
        finally:
            self.weight = None
        loss = self.output.get("loss") if isinstance(self.output, Mapping) else self.output
        if not isinstance(loss, Tensor):
            raise LossTypeError(
                f"{type(self.module).__name__}.training_step returned {_described(self.output)}: return the loss, or a "
                'dict with it under "loss"; the backward pass and the step are made for you'
            )
        return loss

    def _backward(self, loss: Tensor) -> None:
        """As `manual_backward`, without the all-reduce that DDP adds: `distribute` takes the mean."""
        plugin = self.trainer.precision_plugin
        loss = plugin.pre_backward(loss, self.module)
        plugin.backward(loss, self.module, None)
        plugin.post_backward(loss, self.module)


def step_schedulers(module: BFOTraining, index: int, *, last: bool) -> None:
    """Step the schedulers that are due after batch `index` of the epoch, of which it may be the last."""
    for config in module.trainer.lr_scheduler_configs:
        if isinstance(config.scheduler, ReduceLROnPlateau):
            if module.global_step == 1:
                warnings.warn(
                    "BFOTraining does not step ReduceLROnPlateau, which wants a metric: where you have it, call "
                    "self.lr_schedulers().step(metric)",
                    stacklevel=2,
                )
            continue
        counted = index if config.interval == "step" else module.current_epoch
        if (last or config.interval == "step") and (counted + 1) % config.frequency == 0:
            module.lr_scheduler_step(config.scheduler, None)


def samples_of(batch: Any) -> int:
    """The length of the first tensor in a batch of nested lists, tuples and mappings; 1 where there is none."""
    return next((len(tensor) for tensor in _tensors(batch) if tensor.dim()), 1)


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, (list, tuple, Mapping)):
        for part in batch.values() if isinstance(batch, Mapping) else batch:
            yield from _tensors(part)


def _optimizer_of(module: BFOTraining) -> torch.optim.Optimizer:
    """The one optimizer, without Lightning's wrapper; in several processes, one colony of them all."""
    optimizer = module.optimizers(use_pl_optimizer=False)
    if isinstance(optimizer, list):
        raise HyperparameterError(
            f"configure_optimizers returned {len(optimizer)} optimizers, and BFOTraining makes the steps of one: leave "
            "the mixin away, and step them yourself"
        )
    if module.trainer.world_size > 1:
        if not isinstance(optimizer, ColonyOptimizer):
            raise HyperparameterError(
                f"BFOTraining keeps the processes of a job together for HybridBFO, AdaptiveBFO and BFO, not for "
                f"{type(optimizer).__name__}: leave the mixin away for it"
            )
        if optimizer._shard is None:
            distribute(optimizer, data="own")
    return optimizer


def _wants_grad_mode(optimizer: torch.optim.Optimizer) -> bool:
    """Whether closures must meet grad mode as they are called: a colony sees to it where it wants a gradient."""
    return not isinstance(optimizer, ColonyOptimizer) or getattr(optimizer, "gradient_config", "none") is None


def _described(output: Any) -> str:
    if isinstance(output, Mapping):
        return f"a dict without a tensor under 'loss' (it has {', '.join(map(repr, output)) or 'nothing'})"
    return "None" if output is None else type(output).__name__
