"""The forward of a module as an FX graph, in each way in which it can be traced; the module is left as it was."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

from pytorch_bfo_optimizer.compile_policy.random_state import random_state_kept

_UNTRACEABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a forward raises that decides by values, shapes or types, and got placeholders; FX's own is a ValueError."""
_FEED_FORWARD = {nn.TransformerEncoderLayer: "_ff_block", nn.TransformerDecoderLayer: "_ff_block"}
"""Modules of torch whose forward decides by shapes, and the method in which they call their two Linear layers."""


class UntraceableError(Exception):
    """A module's forward can't be traced in any way; says why."""


def graphs(module: nn.Module) -> list[fx.Graph]:
    """Return the different forwards of a module: as it trains and as it evaluates, with optional arguments and without.

    A placeholder is never None, so `if mask is not None` takes one branch alone; the other one is traced with the
    defaults. Modules under `torch.compile` are traced as they are without it. Attributes that a forward sets, and the
    random number generators, are as they were afterwards.

    Raises:
        UntraceableError: it can't be traced in any of these ways.
    """
    if _has_other_forward(module):
        raise UntraceableError("its forward was replaced by another, which FX does not see: put it into the class")
    method = _FEED_FORWARD.get(type(module), "forward")
    found: list[fx.Graph] = []
    failures: list[str] = []
    for training in (True, False):
        for defaults in _ways_to_call(getattr(type(module), method)):
            with _kept_as_it_is(module):
                for part in module.modules():
                    part.training = training
                try:
                    found.append(_Tracer(method).trace(module, concrete_args=defaults))
                except _UNTRACEABLE as error:
                    failures.append(f"{type(error).__name__}: {error}".splitlines()[0])
    if not found:
        raise UntraceableError(failures[0])
    return found


def uncompiled(module: nn.Module) -> nn.Module:
    """Return what `torch.compile` has wrapped, or the module itself."""
    while type(module).__name__ == "OptimizedModule" and "_orig_mod" in module._modules:
        inner = module._modules["_orig_mod"]
        assert inner is not None
        module = inner
    return module


def is_compiled(module: nn.Module) -> bool:
    """Whether a module or a part of it runs under `torch.compile`, as far as the modules know."""
    return any(
        part._compiled_call_impl is not None
        or uncompiled(part) is not part
        or hasattr(vars(part).get("forward"), "_torchdynamo_orig_callable")
        for part in module.modules()
    )


def _has_other_forward(module: nn.Module) -> bool:
    """Whether somebody put a forward on a module that is not its class's, compiled or wrapped."""
    own: Any = vars(module).get("forward")
    if own is None or uncompiled(module) is not module:
        return False
    own = inspect.unwrap(getattr(own, "_torchdynamo_orig_callable", own))
    return getattr(own, "__func__", own) is not type(module).forward


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True  # in-place writes to a buffer are then recorded, and not made

    def __init__(self, method: str) -> None:
        super().__init__()
        self.traced_func_name = method

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Stop at every kind of Linear, so that one of the user's own is named as what it is."""
        return isinstance(m, nn.Linear) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Look through both ways of compiling a module, a wrapper and `module.compile()`; run no hooks."""
        m = uncompiled(m)
        return super().call_module(m, m.forward, args, kwargs)


def _ways_to_call(forward: Callable[..., Any]) -> Iterator[dict[str, Any] | None]:
    """Yield None, all arguments given, and the defaults of those that have one."""
    yield None
    try:
        parameters = inspect.signature(forward).parameters.values()
    except (TypeError, ValueError):  # no Python function
        return
    defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    if defaults:
        yield defaults


@contextmanager
def _kept_as_it_is(module: nn.Module) -> Iterator[None]:
    """Put the attributes of a module and of its parts back, and the generators, when the context ends."""
    parts = list(module.modules())
    attributes = [(vars(part), dict(vars(part))) for part in parts]
    registered = [(own, dict(own)) for part in parts for own in (part._parameters, part._buffers, part._modules)]
    try:
        with random_state_kept(), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of FX, about arguments that it can't check at run time
            yield
    finally:
        for live, before in (*attributes, *registered):
            if list(live) != list(before) or any(live[key] is not value for key, value in before.items()):
                live.clear()
                live.update(before)
