"""Hooks on the modules of somebody's model, which do not go with it into copies and files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class ModuleHook:
    """Calls a function; a deep copy or a pickle of the module that it sits on has a hook that does nothing.

    So an averaged or a best model that is copied while a manager lives is a model of its own.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> None:
        """Call it."""
        self._function(*args)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        """Return one that does nothing."""
        return _nothing

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as one that does nothing."""
        return _made_nothing, ()


def given_to(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what a Linear, a dropout or a norm was called with, by position or as `input=`; None for nothing."""
    return args[0] if args else kwargs.get("input")


def is_recomputed() -> bool:
    """Whether a forward runs within a backward pass: an activation checkpoint calls it a second time."""
    if torch.compiler.is_compiling():
        return False
    # (Private; torch.utils.module_tracker asks the same.)
    current = getattr(torch._C, "_current_graph_task_id", None)
    return current is not None and current() != -1


def _nothing(*args: Any) -> None:
    """Do nothing."""


def _made_nothing() -> Callable[..., None]:
    return _nothing
