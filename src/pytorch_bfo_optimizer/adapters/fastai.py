"""`bfo_func` and `BFOCallback`: what a fastai `Learner` needs to train with a colony.

fastai calls `backward()` once and `step()` bare; here each step gets a closure that goes through fastai's own loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pytorch_bfo_optimizer.accumulation import accumulate
from pytorch_bfo_optimizer.errors import ClosureRequiredError, DistributedError, HyperparameterError, ParameterError
from pytorch_bfo_optimizer.hybrid import HybridBFO
from pytorch_bfo_optimizer.shell import ColonyOptimizer
from pytorch_bfo_optimizer.steady import Conditions

try:
    from fastai.callback.fp16 import AMPMode, MixedPrecision, NonNativeMixedPrecision
    from fastai.callback.mixup import MixHandler
    from fastai.callback.training import GradientAccumulation, GradientClip
    from fastai.learner import Callback, CancelBackwardException, Learner
    from fastai.optimizer import OptimWrapper
    from fastai.torch_core import find_bs, to_detach
except ImportError as error:
    raise ImportError(
        f"pytorch_bfo_optimizer.adapters.fastai needs fastai ({error}): pip install 'bfo-diag[fastai]'"
    ) from error

ColonyStep = Callable[[ColonyOptimizer[Any, Any]], object]
"""Makes one step of an optimizer, with a closure."""


def bfo_func(
    optimizer: type[ColonyOptimizer[Any, Any]] = HybridBFO, *, lr: float = 1.0, **options: Any
) -> partial[BFOWrapper]:
    """Return an `opt_func` that makes `HybridBFO`, `AdaptiveBFO` or `BFO` with these options; see `BFOCallback`.

    Args:
        optimizer: the class; `learn.create_opt()` makes an instance, which is `learn.opt.opt`.
        lr: factor on every move. A `Learner` takes its `lr` from here, as from any `partial` with an `lr`: its own
            default of 0.001 would make moves a thousand times too short.
        options: of the optimizer.

    Raises:
        TypeError: `optimizer` is none of these classes.
    """
    if not (isinstance(optimizer, type) and issubclass(optimizer, ColonyOptimizer)):
        raise TypeError(
            f"bfo_func takes a class, HybridBFO, AdaptiveBFO or BFO, and its options: this is {optimizer!r}. A "
            "torch.optim optimizer needs no callback: opt_func=partial(OptimWrapper, opt=...)"
        )
    return partial(BFOWrapper, opt=optimizer, lr=lr, **options)


class BFOWrapper(OptimWrapper):  # type: ignore[misc]
    """fastai's wrapper of a torch optimizer, with a `step()` for which `BFOCallback` has left something to do.

    Hyperparameters go by fastai's names: `momentum` of `HybridBFO` is `mom`, the others keep their own.
    """

    colony_step: ColonyStep | None = None
    """Makes the step that comes next; None: nobody has prepared one."""

    def step(self) -> None:
        """Make the step that was prepared.

        Raises:
            ClosureRequiredError: there is none.
        """
        colony_step, self.colony_step = self.colony_step, None
        if colony_step is None:
            raise ClosureRequiredError(
                f"fastai called step() without a closure, which {type(self.opt).__name__} needs: "
                "Learner(..., opt_func=bfo_func(...), cbs=[BFOCallback()])"
            )
        colony_step(self.opt)

    def _set_hyper(self, k: str, v: Iterable[Any]) -> None:
        """Set a hyperparameter of each group; where a schedule gives NumPy's numbers, as plain ones: they are saved.

        Raises:
            HyperparameterError: the optimizer has none of this name.
        """
        if k not in self.bwd_map:
            what = _ABSENT.get(k, f"hyperparameter {k!r}; it has {', '.join(self.bwd_map)}")
            raise HyperparameterError(f"{type(self.opt).__name__} has no {what}")
        values = [one.item() if hasattr(one, "item") and not isinstance(one, Tensor) else one for one in v]
        super()._set_hyper(k, values)


_ABSENT = {
    "mom": "momentum ('mom'), which fit_one_cycle schedules: call fit_flat_cos, or take HybridBFO, which has one",
    "wd": "weight decay ('wd'): leave it out, or add a penalty to the loss",
}
"""What fastai's usual calls set, and not every colony has."""


class Batch(NamedTuple):
    """What is kept of one pass of fastai's loop until the step."""

    xb: tuple[Any, ...]
    yb: tuple[Any, ...]
    conditions: Conditions
    """Random state and buffers before fastai's own forward pass."""


class BFOCallback(Callback):  # type: ignore[misc]
    """Gives each `step()` of a `Learner` a closure of its batch.

    ::

        learn = Learner(dls, model, loss_func=loss, opt_func=bfo_func(HybridBFO), cbs=[BFOCallback()])
        learn.fit(5)

    The loss of a candidate is what fastai's loop makes of it: the model, the callbacks' `after_pred`, the loss
    function, the callbacks' `after_loss`; `MixedPrecision`'s autocast is around it. All candidates meet the random
    numbers and buffers of the forward pass that fastai makes itself before the step. What that pass gave is what the
    recorder shows, as with any optimizer (the loss *before* the step), and what moves running statistics: once a batch.
    It is one forward pass more than a loop of plain torch needs.

    `GradientAccumulation` collects batches; their loss is the mean over all their items. `GradientClip` clips the
    gradient that `HybridBFO` takes; the others take none, and no graph is recorded for them.

    From `fit`:
        TypeError: the optimizer was not made by `bfo_func`.
        HyperparameterError: `to_fp16()`, which needs a scaler (`to_bf16()` does not); `MixUp` or `CutMix` together with
            `GradientAccumulation`.
        ParameterError: some of its parameters are frozen.
        DistributedError: there are other ranks, and it is not distributed.
    """

    order, run_valid = 90, False  # after all others: the random state is then that of the forward pass
    _batches: tuple[Batch, ...] = ()
    _conditions: Conditions | None = None

    def before_fit(self) -> None:
        """Forget what is left of a fit that was interrupted."""
        self._batches = ()

    def before_train(self) -> None:
        """Refuse what would train wrongly without a word. (Not before: predictions, too, begin with `before_fit`.)"""
        _refuse_unfit(self.learn)

    def before_batch(self) -> None:
        """Note what the forward pass will meet."""
        self._conditions = Conditions([self.learn.model])

    def before_backward(self) -> None:
        """Keep the batch for the step, which runs backward where it wants to."""
        learn, conditions = self.learn, self._conditions
        assert conditions is not None
        self._batches = (*self._batches, Batch(learn.xb, learn.yb, conditions))
        # nobody will ask for this graph, and it would stay in memory throughout the step
        for name in ("pred", "loss", "loss_grad"):
            setattr(learn, name, to_detach(getattr(learn, name), cpu=False, gather=False))
        raise CancelBackwardException

    def before_step(self) -> None:
        """Prepare the step."""
        self.learn.opt.colony_step = self._step

    def after_step(self) -> None:
        """Forget the batches, also those of a step that another callback has cancelled."""
        self.learn.opt.colony_step, self._batches, self._conditions = None, (), None

    def _step(self, optimizer: ColonyOptimizer[Any, Any]) -> None:
        """One step on the batches; learner, random state and buffers are afterwards as fastai's own pass left them."""
        learn, batches = self.learn, self._batches
        shown = {name: getattr(learn, name) for name in ("xb", "yb", "pred", "loss", "loss_grad")}
        after = Conditions([learn.model])
        mean = accumulate([partial(self._loss, batch) for batch in batches], [find_bs(batch.yb) for batch in batches])
        clips = _callbacks(learn, GradientClip)

        def closure() -> Tensor:
            loss = mean()
            for clip in clips:
                clip.before_step()
            return loss

        try:
            with torch.set_grad_enabled(isinstance(optimizer, HybridBFO)):
                optimizer.step(closure)
        finally:
            after.put_back()
            for name, value in shown.items():
                setattr(learn, name, value)

    def _loss(self, batch: Batch) -> Tensor:
        """What fastai's loop makes of a batch, with the parameters as they are."""
        learn = self.learn
        learn.xb, learn.yb = batch.xb, batch.yb
        batch.conditions.put_back()
        with _precision(learn):
            learn.pred = learn.model(*learn.xb)
            learn("after_pred")
            learn.loss_grad = learn.loss_func(learn.pred, *learn.yb)
        learn.loss = learn.loss_grad.clone()
        for callback in learn.cbs.sorted("order"):
            # these two do here what is the loop's: leave autocast, and take the mean over batches
            if not isinstance(callback, (MixedPrecision, GradientAccumulation)):
                callback("after_loss")
        loss: Tensor = learn.loss_grad
        return loss


def _precision(learn: Learner) -> Any:
    """The autocast of `MixedPrecision`, or none."""
    return next((callback.autocast for callback in _callbacks(learn, MixedPrecision)), nullcontext())


def _callbacks(learn: Learner, kind: type[Callback]) -> list[Any]:
    return [callback for callback in learn.cbs if isinstance(callback, kind)]


def _refuse_unfit(learn: Learner) -> None:
    """Raise where a colony can't train as the learner is set up.

    Raises:
        TypeError, HyperparameterError, ParameterError, DistributedError: see `BFOCallback`.
    """
    if not isinstance(learn.opt, BFOWrapper):
        found = type(getattr(learn.opt, "opt", learn.opt)).__name__
        raise TypeError(
            f"BFOCallback steps an optimizer that bfo_func made, and this is {found}: Learner(..., "
            "opt_func=bfo_func(HybridBFO)), or leave the callback out"
        )
    optimizer = learn.opt.opt
    _refuse_callbacks(learn)
    frozen = sum(not param.requires_grad for param in optimizer.vector.params)
    if frozen:
        raise ParameterError(
            f"{frozen} of {len(optimizer.vector.params)} parameters are frozen, and {type(optimizer).__name__} moves "
            "all that it was given (so no freeze() and no fine_tune()): set requires_grad_(False) before the Learner "
            "makes its optimizer, whose default splitter, trainable_params, leaves them out"
        )
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    ranks = torch.distributed.get_world_size() if together else 1
    if ranks > 1 and optimizer._shard is None:
        raise DistributedError(
            f"this is one of {ranks} ranks, and their weights would drift apart: learn.create_opt(), then "
            'distribute(learn.opt.opt, data="own"), before fit'
        )


def _refuse_callbacks(learn: Learner) -> None:
    """Raise where another callback counts on the gradient of a plain backward pass, or on one batch a step.

    Raises:
        HyperparameterError: which, and what to do.
    """
    halves = [callback for callback in _callbacks(learn, MixedPrecision) if callback.amp_mode == AMPMode.FP16]
    if halves or _callbacks(learn, NonNativeMixedPrecision):
        raise HyperparameterError(
            "to_fp16() scales the loss, and its GradScaler takes no closure: use to_bf16(), which needs no scaler"
        )
    mixers = _callbacks(learn, MixHandler)
    if mixers and _callbacks(learn, GradientAccumulation):
        raise HyperparameterError(
            f"{type(mixers[0]).__name__} knows the labels of the last batch alone, and GradientAccumulation has "
            "several evaluated in a step: leave out one of the two"
        )
