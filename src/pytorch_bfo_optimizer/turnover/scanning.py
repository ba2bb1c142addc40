"""The strategies of a folder: each module there holds one class, under a name that all of them use."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from typing import ClassVar, Protocol, TypeVar


class _Named(Protocol):
    name: ClassVar[str]


T = TypeVar("T", bound=_Named)


def classes(package: str, path: Iterable[str], attribute: str, base: type[T]) -> dict[str, type[T]]:
    """Import every module of a package, and return the classes by the `name` that each has.

    Raises:
        TypeError: a module whose `attribute` is no class of the kind `base`, or that has none.
    """
    found: dict[str, type[T]] = {}
    for module in pkgutil.iter_modules(path):
        made = getattr(importlib.import_module(f"{package}.{module.name}"), attribute, None)
        if not (isinstance(made, type) and issubclass(made, base)):
            raise TypeError(f"{package}.{module.name} defines no {attribute}")
        found[made.name] = made
    return found
