"""The step of somebody's optimizer class, on a small piece of real work."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
from torch import Tensor

from bfo_diag.cases import digits_mlp
from bfo_diag.errors import TargetLoadError
from bfo_diag.records import Case

_SMALL_BUDGET = {"population_size": 8, "chem_steps": 2, "swim_length": 2, "repro_steps": 1, "elim_steps": 1}
"""What an optimizer is made with where its constructor takes it, so that a cell stays at a few dozen evaluations."""


def constructor_arguments(optimizer_class: Any) -> dict[str, Any]:
    """Return the small-budget arguments that the class takes and its partial does not set already.

    Raises:
        TargetLoadError: it wants more than its parameters.
    """
    taken = _arguments_taken(optimizer_class)
    signature = inspect.signature(optimizer_class)
    given = set(optimizer_class.keywords) if isinstance(optimizer_class, functools.partial) else set()
    parameters = list(signature.parameters.values())
    if not parameters:
        raise TargetLoadError(
            f"the optimizer {optimizer_class!r} takes no parameters to optimize",
            mend="its __init__ must take them first, as every torch.optim.Optimizer's does",
        )
    wanted = [
        p.name
        for p in parameters[1:]
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name not in _SMALL_BUDGET
    ]
    if wanted:
        raise TargetLoadError(
            f"the optimizer wants more than its parameters ({', '.join(wanted)})",
            mend="name a functools.partial of it instead, such as "
            f"`Mine = functools.partial({getattr(optimizer_class, '__name__', 'Optimizer')}, {wanted[0]}=...)`",
        )
    return {key: value for key, value in _SMALL_BUDGET.items() if key in taken and key not in given}


def _arguments_taken(optimizer_class: Any) -> set[str]:
    """Return the names of the constructor's arguments, through each `**kwargs` to the class above."""
    cls: Any = optimizer_class.func if isinstance(optimizer_class, functools.partial) else optimizer_class
    taken: set[str] = set()
    for base in inspect.getmro(cls):
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        taken.update(p.name for p in parameters)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return taken


def optimizer_case(optimizer_class: Any, *, device: str = "cpu", seed: int = 0) -> Case:
    """Return the optimizer's `step` on the digits MLP as a case: with a closure, or bare for those of `torch.optim`.

    Raises:
        TargetLoadError: the class wants more than its parameters.
    """
    work = digits_mlp.workload(device=device, seed=seed)
    parameters = list(work.parameters.values())
    optimizer = optimizer_class(parameters, **constructor_arguments(optimizer_class))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = work.loss()
        loss.backward()
        return loss

    cls = optimizer_class.func if isinstance(optimizer_class, functools.partial) else optimizer_class
    bare = cls.__module__.startswith("torch.optim.") and cls is not torch.optim.LBFGS
    if bare:
        closure()  # a bare step takes the gradients that it finds
    # (Looked up at the call: torch.compile replaces the steps of some classes, LBFGS's too, by ones it leaves alone.)
    step = optimizer.step if bare else lambda: optimizer.step(closure)
    return Case(step=step, model=work.model, optimizer=optimizer, name=cls.__name__)
