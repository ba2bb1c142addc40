"""The variables that a step's code can reach: what its closure, its globals and the object it is bound to hold."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any

_DEEPEST = 3
"""How many helper functions of its own module are followed, one inside the other."""


def _seen_by(function: FunctionType) -> dict[str, Any]:
    """Return the closure variables and globals that a function, or one inside it, names."""
    found: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        with contextlib.suppress(ValueError):  # an empty cell: not assigned yet
            found[name] = cell.cell_contents
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        codes.extend(constant for constant in code.co_consts if isinstance(constant, CodeType))
        for name in code.co_names:
            if name in function.__globals__ and name not in found:
                found[name] = function.__globals__[name]
    return found


def variables_of(function: Callable[..., Any], depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield the variables that a function, method, partial or callable object can reach, its own code's first."""
    if isinstance(function, functools.partial):
        yield from variables_of(function.func, depth)
        for index, value in enumerate(function.args):
            yield f"args[{index}]", value
        yield from function.keywords.items()
        return
    if inspect.ismethod(function):
        yield "self", function.__self__
        function = function.__func__
    function = inspect.unwrap(function)
    if not inspect.isfunction(function):
        if depth < _DEEPEST and callable(function):
            yield "self", function
            yield from variables_of(type(function).__call__, depth + 1)
        return
    helpers = []
    for name, value in _seen_by(function).items():
        if inspect.isfunction(value) and depth < _DEEPEST and value.__module__ == function.__module__:
            helpers.append(value)
        else:
            yield name, value
    for helper in helpers:
        if helper is not function:
            yield from variables_of(helper, depth + 1)
