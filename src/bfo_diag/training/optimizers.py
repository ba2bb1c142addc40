"""The optimizers that a recipe may name, made with its arguments."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

import pytorch_bfo_optimizer as bfo
from bfo_diag.errors import DiagError
from bfo_diag.training.reading import near
from bfo_diag.training.recipe import Optimizer
from pytorch_bfo_optimizer.shell import ColonyOptimizer

_NOT_HERE = {
    "LBFGS": "it calls its closure as often as it likes, and takes the same batch for granted",
    "SparseAdam": "it takes sparse gradients, and these models have none",
}
_NOT_IN_A_FILE = ("self", "params", "generator", "device", "gradient_config")


def known() -> dict[str, type[torch.optim.Optimizer]]:
    """Return the classes by name."""
    found: dict[str, type[torch.optim.Optimizer]] = {
        "BFO": bfo.BFO,
        "AdaptiveBFO": bfo.AdaptiveBFO,
        "HybridBFO": bfo.HybridBFO,
    }
    for name, cls in vars(torch.optim).items():
        if inspect.isclass(cls) and issubclass(cls, torch.optim.Optimizer) and cls is not torch.optim.Optimizer:
            found[name] = cls
    return {name: cls for name, cls in found.items() if name not in _NOT_HERE}


def build(optimizer: Optimizer, model: nn.Module) -> torch.optim.Optimizer:
    """Return a fresh optimizer of the model's parameters.

    Raises:
        DiagError: no optimizer of that name, or it does not take these arguments.
    """
    name, arguments = optimizer.name, dict(optimizer.arguments)
    if name in _NOT_HERE:
        raise DiagError(f"optimizer.name = {name!r} is none for this loop: {_NOT_HERE[name]}", mend="take another")
    classes = known()
    if name not in classes:
        raise DiagError(f"there is no optimizer {name!r}", mend=near(name, tuple(sorted(classes))))
    taken = _arguments_taken(classes[name])
    for key in arguments:
        if key not in taken:
            raise DiagError(f"optimizer.{key}: {name} takes no such argument", mend=near(key, taken))
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    make: Any = classes[name]
    try:
        made: torch.optim.Optimizer = make(model.parameters(), **given)
    except (TypeError, ValueError, RuntimeError) as error:
        said = ", ".join(f"{key} = {value!r}" for key, value in arguments.items()) or "its defaults"
        raise DiagError(f"optimizer {name} with {said}: {error}", mend="change it in the recipe") from error
    return made


def _arguments_taken(cls: type[torch.optim.Optimizer]) -> tuple[str, ...]:
    """Return the names of the arguments that a recipe may give."""
    if issubclass(cls, ColonyOptimizer):
        names = cls.hyperparameters_type.names()
    else:
        names = tuple(inspect.signature(cls).parameters)
    return tuple(name for name in names if name not in _NOT_IN_A_FILE)
