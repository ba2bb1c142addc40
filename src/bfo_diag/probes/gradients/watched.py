"""A closure that is watched at each call, and is to its optimizer what it was before."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FunctionType, MethodType
from typing import Any

import torch


def is_closure(value: object) -> bool:
    """Whether an argument of `optimizer.step` is one: a function, a partial, an object that can be called."""
    return callable(value) and not isinstance(value, (type, torch.nn.Module, torch.optim.Optimizer))


def watched(closure: Any, watch: Callable[[], AbstractContextManager[None]]) -> Any:
    """Return `closure`, each call of it inside a context that `watch` makes."""
    if not isinstance(closure, (FunctionType, MethodType)):
        return WatchedObject(closure, watch)

    @functools.wraps(closure)
    def call(*args: Any, **kwargs: Any) -> Any:
        with watch():
            return closure(*args, **kwargs)

    return call


class WatchedObject:
    """Stands for an object that can be called: called it is watched, in all else it is that object.

    An optimizer may ask for its class (`DualClosure`) or its attributes (`evaluate_population`).
    """

    def __init__(self, closure: Any, watch: Callable[[], AbstractContextManager[None]]) -> None:
        self.__dict__.update(_closure=closure, _watch=watch)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the object, watched."""
        with self.__dict__["_watch"]():
            return self.__dict__["_closure"](*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Return the object's attribute."""
        return getattr(self.__dict__["_closure"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set the object's attribute."""
        setattr(self.__dict__["_closure"], name, value)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """Be an instance of the object's class, for whoever asks."""
        return type(self.__dict__["_closure"])
