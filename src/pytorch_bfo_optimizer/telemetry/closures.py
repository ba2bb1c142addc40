"""Notices, during an optimizer's step, when its closure has first run a backward pass."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor


class FirstBackward:
    """Calls `then` once: when a closure returns in which backward has reached one of `parameters`.

    Then the gradients are those at the parameters that the step began from (LBFGS moves them and calls again), and
    they are still there (`HybridBFO` puts `.grad` back; a closure that it evaluates without backward shows zeros, which
    are no gradients). Only plain functions are noticed: what else can be called may have more to it than its call.
    """

    def __init__(self, parameters: Iterable[Tensor], then: Callable[[], object]) -> None:
        self._then: Callable[[], object] | None = then
        self._reached = False
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(self._note)
            for parameter in parameters
            if parameter.is_leaf and parameter.requires_grad
        ]

    def wrapped(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of `step`, the optimizer first, with each closure in a wrapper."""
        rest = (self._noticed(argument) for argument in args[1:])
        return (*args[:1], *rest), {name: self._noticed(value) for name, value in kwargs.items()}

    def close(self) -> None:
        """Take the hooks off the parameters; what is wrapped calls nothing more."""
        self._then = None
        for hook in self._hooks:
            hook.remove()

    def _note(self, parameter: Tensor) -> None:
        self._reached = True

    def _noticed(self, value: Any) -> Any:
        if not inspect.isroutine(value) and not isinstance(value, functools.partial):
            return value

        @functools.wraps(value)
        def closure(*args: Any, **kwargs: Any) -> Any:
            result = value(*args, **kwargs)
            if self._reached and self._then is not None:
                then, self._then = self._then, None
                then()
            return result

        return closure
