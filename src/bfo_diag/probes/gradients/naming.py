"""Names for the leaves of a trace: from the case, else from the variables that the target's code can see."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from bfo_diag.probes.gradients.trace import Trace
from bfo_diag.records import Case
from bfo_diag.variables import variables_of

_DEEPEST = 3


def name_case(trace: Trace, case: Case) -> None:
    """Name the leaves of a case's model, parameters and optimizer, and of what its step can see, as they are now."""
    trace.leaves.begin_naming()
    _name_models(trace, case.model)
    for name, tensor in case.parameters.items():
        if isinstance(tensor, torch.Tensor):
            trace.leaves.name(tensor, name)
    trace.leaves.add_optimizer(case.optimizer)
    _name_visible(trace, case.step)


def _name_visible(trace: Trace, function: Callable[..., Any]) -> None:
    """Name the leaves held by variables that `function` uses: its closure, its globals, the object it is bound to."""
    variables = dict(variables_of(function))
    modules = {name: value for name, value in variables.items() if isinstance(value, torch.nn.Module)}
    distinct = {id(module) for module in modules.values()}
    for name, module in modules.items():
        prefix = "" if len(distinct) == 1 else f"{name}."
        _name_module(trace, module, prefix)
    for name, value in variables.items():
        _name_value(trace, name, value, 0)


def _name_models(trace: Trace, model: Any) -> None:
    if isinstance(model, torch.nn.Module):
        _name_module(trace, model, "")
    elif isinstance(model, Mapping):
        for name, module in model.items():
            _name_module(trace, module, f"{name}.")


def _name_module(trace: Trace, module: torch.nn.Module, prefix: str) -> None:
    for name, parameter in module.named_parameters():
        trace.leaves.name(parameter, prefix + name)


def _name_value(trace: Trace, name: str, value: Any, depth: int) -> None:
    if isinstance(value, torch.optim.Optimizer):
        trace.leaves.add_optimizer(value)
    elif isinstance(value, torch.nn.Module):
        _name_module(trace, value, f"{name}.")
    elif isinstance(value, torch.Tensor):
        if value.is_leaf and (_may_train(value) or trace.leaves.find(value) is not None):
            trace.leaves.name(value, name)
        else:
            trace.lineage.know(value)
    elif depth < _DEEPEST and isinstance(value, (list, tuple)) and len(value) <= 1000:
        for index, item in enumerate(value):
            _name_value(trace, f"{name}[{index}]", item, depth + 1)
    elif depth < _DEEPEST and isinstance(value, dict) and len(value) <= 1000:
        for key, item in value.items():
            _name_value(trace, f"{name}[{key!r}]", item, depth + 1)
    elif depth < _DEEPEST and _is_plain_object(value):
        for key, item in vars(value).items():
            _name_value(trace, f"{name}.{key}", item, depth + 1)


def _may_train(tensor: torch.Tensor) -> bool:
    return tensor.requires_grad or isinstance(tensor, torch.nn.Parameter)


def _is_plain_object(value: Any) -> bool:
    return hasattr(value, "__dict__") and not (
        inspect.ismodule(value) or inspect.isclass(value) or inspect.isroutine(value)
    )
