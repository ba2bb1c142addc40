"""`scaled`: a closure whose gradient passes through a `torch.amp.GradScaler`, for optimizers that call closures.

Autocast needs nothing from here: it belongs inside the closure.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from pytorch_bfo_optimizer.accumulation import Accumulation, accumulate
from pytorch_bfo_optimizer.errors import GradientModeUnsupportedError, ObjectiveError
from pytorch_bfo_optimizer.interception import losses_alone_wanted
from pytorch_bfo_optimizer.shell import ColonyOptimizer


def scaled(
    closure: Callable[[], Any], scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer
) -> Callable[[], Tensor]:
    """Let the gradient of `closure` be taken of the scaled loss, and be unscaled before the optimizer reads it.

    ::

        scaler = torch.amp.GradScaler("cuda")
        loss = optimizer.step(scaled(closure, scaler, optimizer))      # in place of scaler.step and scaler.update

    Only losses in float16 need a scaler: bfloat16 has the exponents of float32. `GradScaler.step` refuses closures,
    and would look at gradients that `HybridBFO` has not asked for yet; here the scaler meets each gradient when it is
    taken: unscaled, looked at, `scaler.update()`. One that is not finite is taken again with the scale that the update
    left, while that is above 1; such a try calls `closure` once more, which the optimizer does not count. Where no
    scale gives a finite gradient, or the loss itself is not finite, the scale is put back, and the optimizer finds the
    gradient as it is, which `HybridBFO` answers with a step of the colony.

    `BFO` and `AdaptiveBFO` ask for losses alone; their closure is evaluated as it is, and the scaler left alone.

    Args:
        closure: returns the loss, under `torch.autocast`, and does not call `backward()`; or what `accumulate` made.
        scaler: this optimizer's own: an update forgets what the gradients of another one have shown.
        optimizer: the one that will call it.

    Returns: a closure whose loss is that of `closure`, unscaled and without a graph. It clears `.grad` before it takes
    a gradient; what is then in `.grad` is unscaled, so that clipping can follow it in a closure around it.

    Raises:
        GradientModeUnsupportedError: an optimizer of another package.
        ObjectiveError: something that cannot be called. Later, from the closure: `closure` calls `backward()`.
    """
    if not isinstance(optimizer, ColonyOptimizer):
        raise GradientModeUnsupportedError(
            f"scaled() is for BFO, AdaptiveBFO and HybridBFO, and this is {type(optimizer).__name__}: use "
            "scaler.scale(loss).backward(), scaler.step(optimizer), scaler.update()"
        )
    if not callable(closure):
        raise ObjectiveError(
            f"closure is {type(closure).__name__} and cannot be called: pass a function that returns the loss"
        )
    evaluated = closure if isinstance(closure, Accumulation) else accumulate([closure])
    return _Scaled(evaluated, scaler, optimizer)


class _Scaled:
    """What `scaled` returns."""

    def __init__(
        self, closure: Accumulation, scaler: torch.amp.GradScaler, optimizer: ColonyOptimizer[Any, Any]
    ) -> None:
        self.closure, self.scaler, self.optimizer = closure, scaler, optimizer

    def __call__(self) -> Tensor:
        """The loss (0-dim, no graph); its gradient, unscaled, is in `.grad`, where backward was let run."""
        if losses_alone_wanted():
            return self.closure()
        first = self.scaler.get_scale()
        while True:
            loss, ran = self._backward()
            if not ran or not any(param.grad is not None for param in self.optimizer.vector.params):
                return loss
            before = self.scaler.get_scale()
            # any object with param_groups will do, and one of its own lets a step take several gradients
            self.scaler.unscale_(SimpleNamespace(param_groups=self.optimizer.param_groups))  # type: ignore[arg-type]
            self.scaler.update()
            after = self.scaler.get_scale()
            if after >= before:
                return loss
            if after < 1 or not bool(torch.isfinite(loss)):
                self.scaler.update(first)
                return loss

    def _backward(self) -> tuple[Tensor, bool]:
        """The loss, and whether its scaled gradient is in `.grad` now: a caller may have intercepted backward."""
        ran: list[bool] = []

        def backward(part: Tensor) -> None:
            scaled_part = self.scaler.scale(part)
            scaled_part.register_hook(lambda _: ran.append(True))
            scaled_part.backward()

        self.optimizer.zero_grad(set_to_none=True)
        return self.closure.evaluate(backward), bool(ran)
