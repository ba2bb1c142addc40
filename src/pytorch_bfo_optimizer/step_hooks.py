"""What a hook on an optimizer's step has to know of the step: whether it is one of its own, and how it was called."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import torch

_HOOKED_STEP = torch.optim.Optimizer.profile_hook_step(lambda: None).__code__
"""What torch puts around the `step` of each class, to run the hooks."""


def calls_itself(optimizer: torch.optim.Optimizer) -> bool:
    """Whether this step of the optimizer was called by its own: a subclass whose `step` calls `super().step()`.

    Torch runs the hooks for both. (That a step has begun says nothing: one that raised has no end.)
    """
    frame: FrameType | None = sys._getframe(1)
    steps = 0
    while frame is not None and steps < 2:
        steps += frame.f_code is _HOOKED_STEP and frame.f_locals["args"][0] is optimizer
        frame = frame.f_back
    return steps == 2


def has_closure(args: tuple[Any, ...], kwargs: Any) -> bool:
    """Whether a step was called with a closure; a hook's `args` begin with the optimizer."""
    return any(argument is not None for argument in (*args[1:2], kwargs.get("closure")))
