"""Measures the gradients at the steps of an optimizer, and hands what was measured to sinks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Protocol

import torch

from pytorch_bfo_optimizer.errors import TelemetryError
from pytorch_bfo_optimizer.step_hooks import calls_itself, has_closure
from pytorch_bfo_optimizer.telemetry.closures import FirstBackward
from pytorch_bfo_optimizer.telemetry.stats import GradientStats

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
        if self._inside and calls_itself(optimizer):
            self._nested += 1
            return None
        self._inside, self._nested = True, 0
        self.steps += 1
        self._forget()  # what a step that raised has left
        if not self._is_sampled:
            return None
        if has_closure(args, kwargs):
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
