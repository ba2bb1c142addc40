"""What a framework trains, as a Case: a LightningModule, a Trainer, a Learner. One module here for each framework.

A module without `FRAMEWORK` is an error. An object is known by the names of its classes, so nothing is imported that
the target's own code has not imported.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from bfo_diag.records import Case

KIND = "training step"
"""The kind of a target that is a framework's object: what is examined is one step of its training, on one batch."""


@dataclass(frozen=True)
class Framework:
    """One framework: `classes` are the full names of what it trains and is known by; `prepare` makes the Case.

    `prepare(object, device)` sets the training up as the framework does, takes one batch, and returns the Case of the
    step on it; `device` counts where the object names none. It raises `TargetLoadError` where nothing says what the
    batches are.
    """

    name: str
    classes: tuple[str, ...]
    prepare: Callable[[Any, str], Case]

    def makes(self, cls: type) -> bool:
        """Whether instances of a class are what this framework trains."""
        return any(f"{base.__module__}.{base.__qualname__}" in self.classes for base in cls.__mro__)


class FirstBatchReached(BaseException):
    """Ends a framework's own `fit` when all is set up, before its first batch; no `except Exception` takes it."""


@lru_cache(maxsize=1)
def _all() -> tuple[Framework, ...]:
    """Return every framework.

    Raises:
        TypeError: a module without a `FRAMEWORK`.
    """
    found = []
    for module in pkgutil.iter_modules(__path__):
        framework = getattr(importlib.import_module(f"{__name__}.{module.name}"), "FRAMEWORK", None)
        if not isinstance(framework, Framework):
            raise TypeError(f"{__name__}.{module.name} defines no FRAMEWORK")
        found.append(framework)
    return tuple(found)


def is_trained(value: object) -> bool:
    """Whether a framework trains this object, one of those in this tuple, or the instances of this class."""
    return _of_class(value) is not None if isinstance(value, type) else _of_value(value) is not None


def case_of(value: object, device: str) -> Case | None:
    """Return the Case of one step of the training of an object, or of a tuple such as `(trainer, module)`.

    None where no framework trains it.

    Raises:
        TargetLoadError: nothing says what its batches are, or it trains in several processes.
    """
    framework = _of_value(value)
    return None if framework is None else framework.prepare(value, device)


def _of_class(cls: type) -> Framework | None:
    return next((framework for framework in _all() if framework.makes(cls)), None)


def _of_value(value: object) -> Framework | None:
    members = value if isinstance(value, tuple) else (value,)
    return next((framework for member in members if (framework := _of_class(type(member))) is not None), None)
