"""What acts on each neuron alone, by name: the operations that may stand between a producer and its consumers."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

Operation = Callable[..., Tensor]

_MODULES = frozenset(
    getattr(nn, name)
    for name in (
        "CELU ELU GELU Hardshrink Hardsigmoid Hardswish Hardtanh LeakyReLU LogSigmoid Mish PReLU ReLU ReLU6 SELU SiLU "
        "Sigmoid Softplus Softshrink Softsign Tanh Tanhshrink Threshold"
    ).split()
)
_ALIKE = (
    "abs add celu clamp clamp_max clamp_min clip cos div erf exp expm1 log1p mul neg pow relu selu sigmoid sin sqrt "
    "square sub tanh true_divide"
).split()
"""Those that torch has as a function, and mostly as a method of tensors too."""
_FUNCTIONS = {getattr(torch, name) for name in _ALIKE} | {
    getattr(functional, name)
    for name in (
        "celu elu gelu hardshrink hardsigmoid hardswish hardtanh leaky_relu logsigmoid mish relu relu6 selu sigmoid "
        "silu softplus softshrink softsign tanh tanhshrink threshold"
    ).split()
}
_METHODS = frozenset(name for name in (*_ALIKE, "clone", "contiguous") if hasattr(Tensor, name))
_WRITING = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    operator.ipow: operator.pow,
}
_OPERATORS = {operator.add, operator.sub, operator.mul, operator.truediv, operator.pow, operator.neg}
_DROPOUTS = (nn.Dropout, nn.AlphaDropout)
_DROPOUT_FUNCTIONS = {functional.dropout, functional.alpha_dropout, torch.dropout}


def evaluation(node: fx.Node, module: nn.Module | None) -> Operation | None:
    """Return what a node computes in evaluation, writing to none of its inputs; None if it is not known as elementwise.

    `module` is the one that a `call_module` node calls.
    """
    if is_passed_through(node, module):
        return _first
    if module is not None:
        known = type(module) in _MODULES and not (isinstance(module, nn.PReLU) and module.num_parameters != 1)
        return _applied(module) if known else None
    if node.op == "call_method" and str(node.target).removesuffix("_") in _METHODS:
        return getattr(Tensor, str(node.target).removesuffix("_"))  # type: ignore[no-any-return]
    if node.op == "call_function" and node.target in _FUNCTIONS:
        return _without_writing(node.target)
    if node.op == "call_function" and node.target in _OPERATORS | set(_WRITING):
        return _WRITING.get(node.target, node.target)
    return None


def is_passed_through(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a node gives in evaluation what it gets: a dropout or an Identity."""
    if module is not None:
        return type(module) in (*_DROPOUTS, nn.Identity)
    return node.op == "call_function" and node.target in _DROPOUT_FUNCTIONS


def is_dropout(module: nn.Module) -> bool:
    """Whether a module is a dropout."""
    return type(module) in _DROPOUTS


def writes_to_input(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a node changes the tensor that it gets, for all who read it."""
    if module is not None:
        return bool(getattr(module, "inplace", False))
    if node.op == "call_method":
        return str(node.target).endswith("_")
    flags = node.args[3:] if node.target in _DROPOUT_FUNCTIONS else node.args[1:]  # the third says whether it trains
    inplace = bool(node.kwargs.get("inplace", False)) or any(flag is True for flag in flags)
    return inplace or node.target in _WRITING


def _first(value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return value


def _applied(module: nn.Module) -> Operation:
    """Return the forward of a module, without the hooks on it, on a copy where it writes to its input."""

    def apply(value: Tensor) -> Tensor:
        result: Tensor = module.forward(value.clone() if getattr(module, "inplace", False) else value)
        return result

    return apply


def _without_writing(function: Any) -> Operation:
    def apply(value: Any, *args: Any, **kwargs: Any) -> Tensor:
        result: Tensor = function(value.clone() if isinstance(value, Tensor) else value, *args, **kwargs)
        return result

    return apply
