"""Measures the gradients at the steps of an optimizer, and hands what was measured to sinks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from types import FrameType, TracebackType
from typing import Any, Protocol

import torch

from pytorch_bfo_optimizer.errors import TelemetryError
from pytorch_bfo_optimizer.telemetry.closures import FirstBackward
from pytorch_bfo_optimizer.telemetry.stats import GradientStats

_HOOKED_STEP = torch.optim.Optimizer.profile_hook_step(lambda: None).__code__
"""What torch puts around the `step` of each class, to run the hooks."""
Sink = Callable[[GradientStats], object]
"""Whatever takes a sample: `list.append`, `print`, or one of `pytorch_bfo_optimizer.adapters`."""


class Pending(Protocol):
    """What a collector returns."""

    def materialize(self) -> GradientStats:
        """Wait for it."""


class GradientWatch:
    """Measures before a step of an optimizer, and after it gives the sample to each sink in turn.

    The optimizer steps once however many backward passes were accumulated, and after `GradScaler` has divided the
    gradients (what a fused optimizer divides itself is divided here; a step that the scaler skips is none). A closure
    makes the gradients during the step: they are measured when it has first run backward, and after the step if no
    plain function did. `clip_grad_norm_` comes before: to see norms from before the clipping, call `collect` yourself
    and clip with `PendingStats.clip_`. Steps are counted from 1 and given as `GradientStats.step`; the first, and then
    every `every`-th is measured. `close`, or the end of a `with` block, takes the hooks off again.

    Raises:
        TelemetryError: `every` is no integer of at least 1.
    """

    def __init__(
        self,
        collect: Callable[..., Pending],
        optimizer: torch.optim.Optimizer,
        sinks: Iterable[Sink],
        *,
        every: int = 1,
    ) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise TelemetryError(f"every is {every!r}: it must be an integer of at least 1; 10 is every tenth step")
        self._collect, self._sinks, self._every = collect, tuple(sinks), every
        self._measured: GradientStats | None = None
        self._closures: FirstBackward | None = None
        self._inside, self._nested = False, 0
        self.steps = 0
        """Steps of the optimizer so far."""
        self._hooks = (
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        )

    def _before(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        if self._inside and _calls_itself(optimizer):
            self._nested += 1
            return None
        self._inside, self._nested = True, 0
        self.steps += 1
        self._forget()  # what a step that raised has left
        if not self._is_sampled:
            return None
        if _has_closure(args, kwargs):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            self._closures = FirstBackward(parameters, self._measure)
            return self._closures.wrapped(args, kwargs)
        # GradScaler leaves the division to an optimizer that can do it while it steps. A fused one then writes to the
        # gradients without a new version: what has to be looked at again is looked at now.
        self._measure(getattr(optimizer, "grad_scale", None))
        return None

    def _after(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if self._nested:
            self._nested -= 1
            return
        self._inside = False
        if self._is_sampled and self._measured is None:
            self._measure()
        measured = self._measured
        self._forget()
        if measured is not None:
            for sink in self._sinks:
                sink(measured)

    def _measure(self, scale: torch.Tensor | None = None) -> None:
        self._measured = self._collect(self.steps, scale=scale).materialize()

    def _forget(self) -> None:
        self._measured = None
        if self._closures is not None:
            self._closures.close()
            self._closures = None

    @property
    def _is_sampled(self) -> bool:
        return (self.steps - 1) % self._every == 0

    def close(self) -> None:
        """Take the hooks off the optimizer."""
        self._forget()
        for hook in self._hooks:
            hook.remove()

    def __enter__(self) -> GradientWatch:
        """Return self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


def _calls_itself(optimizer: torch.optim.Optimizer) -> bool:
    """Whether this step of the optimizer was called by its own: a subclass whose `step` calls `super().step()`.

    Torch runs the hooks for both. (That a step has begun says nothing: one that raised has no end.)
    """
    frame: FrameType | None = sys._getframe(1)
    steps = 0
    while frame is not None and steps < 2:
        steps += frame.f_code is _HOOKED_STEP and frame.f_locals["args"][0] is optimizer
        frame = frame.f_back
    return steps == 2


def _has_closure(args: tuple[Any, ...], kwargs: Any) -> bool:
    """Whether a step was called with a closure; a hook's `args` begin with the optimizer."""
    return any(argument is not None for argument in (*args[1:2], kwargs.get("closure")))
