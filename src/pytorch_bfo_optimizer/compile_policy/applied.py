"""One target of a policy: compiled and called, or left in eager; every call of it is counted.

A module is compiled in place, as `Module.compile()` does it, so that its state-dict keys stay; a function becomes a
`CompiledStep`.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import nn

from pytorch_bfo_optimizer.compile_policy.audit import Audit
from pytorch_bfo_optimizer.compile_policy.backend import WatchedBackend
from pytorch_bfo_optimizer.compile_policy.calls import Call, described, running
from pytorch_bfo_optimizer.compile_policy.events import Watch
from pytorch_bfo_optimizer.errors import CompileFailedError

P = ParamSpec("P")
R = TypeVar("R")
Function = Callable[..., Any]


class CompiledStep(Generic[P, R]):
    """A function under a `CompilePolicy`: call it like the function. `policy.report(step)` tells what it does."""

    def __init__(self, function: Callable[P, R]) -> None:
        functools.update_wrapper(self, function)
        self.__wrapped__ = function  # a callable object has no name to take over, and still is what is wrapped
        self._run = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, compiled or not."""
        return self._run(*args, **kwargs)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Bind to an instance, as a function in a class does."""
        return self if instance is None else types.MethodType(self, instance)

    def __repr__(self) -> str:
        return f"<CompiledStep of {self.__wrapped__!r}>"


Given = nn.Module | CompiledStep[..., Any]
"""What a user gets back from `apply`: his module, or a step in place of his function."""


def computing_module(module: nn.Module) -> nn.Module:
    """Return the module that computes: the one inside DistributedDataParallel, whose own forward is bookkeeping.

    To compile around DDP gives graph breaks in torch's own code; inside of it torch still splits the graphs along
    the gradient buckets.
    """
    inner = module.module if isinstance(module, nn.parallel.DistributedDataParallel) else module
    assert isinstance(inner, nn.Module)
    return inner


class Applied:
    """A target, with a switch between eager and compiled. It is off when made."""

    def __init__(self, target: nn.Module | Function, audit: Audit) -> None:
        self.module = computing_module(target) if isinstance(target, nn.Module) else None
        self.eager: Function = self.module._call_impl if self.module is not None else target
        self.given: Given = target if isinstance(target, nn.Module) else CompiledStep(target)
        self.audit = audit
        self._compiled: Function | None = None

    def compile(self, backend: WatchedBackend, *, fullgraph: bool) -> None:
        """Prepare the compiled call; torch compiles at the first one.

        Raises:
            Exception: whatever torch.compile refuses.
        """
        dynamic, raises = backend.settings.dynamic, backend.settings.raises
        compiled = torch.compile(_frame(self.eager), backend=backend, fullgraph=fullgraph, dynamic=dynamic)
        self._compiled = _counted(self.eager, compiled, self.audit, raises=raises, fullgraph=fullgraph)

    def switch(self, *, on: bool) -> None:
        """Let calls of the target run compiled, or in eager."""
        install(self.given, self._compiled if on else None)
        self.audit.on = on

    def undo(self) -> None:
        """Switch off what this has compiled; what somebody else has compiled stays."""
        if self._compiled is not None:
            self.switch(on=False)


def install(given: Given, call: Function | None) -> None:
    """Have calls of a module or step go through `call`; None: eager."""
    if isinstance(given, nn.Module):
        computing_module(given)._compiled_call_impl = call
    else:
        given._run = call or given.__wrapped__


def is_installed(given: Given, audit: Audit) -> bool:
    """Whether calls of a target still go where `install` sent them; `Module.compile()`, for one, replaces that."""
    call = computing_module(given)._compiled_call_impl if isinstance(given, nn.Module) else given._run
    return getattr(call, "audit", None) is audit


def _frame(function: Function) -> Function:
    """Return a function that dynamo looks at: it skips the frames of torch's own modules (Sequential, Linear).

    Each class of torch's gets code of its own, as classes of users have it: dynamo limits recompiles by code.
    """
    owner = getattr(function, "__self__", None)
    if isinstance(owner, nn.Module):
        theirs = str(getattr(owner.forward, "__module__", "")).partition(".")[0] == "torch"
        return _through(type(owner), function) if theirs else function
    return function if hasattr(function, "__code__") else _through(type(function), function)


def _through(kind: type, function: Function) -> Function:
    def forward(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    forward.__code__ = _code_for(kind, forward.__code__)
    return forward


@functools.cache
def _code_for(kind: type, code: Any) -> Any:
    return code.replace(co_name=f"{kind.__name__}_forward")


def _counted(eager: Function, compiled: Function, audit: Audit, *, raises: bool, fullgraph: bool) -> Function:
    """Return `compiled` with its calls counted and its failures turned into what the policy wants."""
    from torch._dynamo import config, exc

    failures = (exc.TorchDynamoException, getattr(exc, "FailOnRecompileLimitHit", exc.TorchDynamoException))
    watch = Watch()

    def call(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():  # somebody compiles around this call
            return eager(*args, **kwargs)
        outer, this = running.call, Call(audit.saw_backward if audit.proving else None)
        running.call = this
        suppressed = config.suppress_errors
        watch.begin()
        try:
            if not raises:
                config.suppress_errors = True  # for this call: dynamo then runs in eager a frame that it fails on
            return compiled(*args, **kwargs)
        except failures as error:
            if raises and not isinstance(error, exc.TorchRuntimeError):  # that is the user's mistake, met in tracing
                cause = getattr(error, "inner_exception", error)  # of a backend
                raise CompileFailedError(f"{audit.name} did not compile: {described(cause)}") from error
            if raises or not fullgraph or this.graphs:
                raise
            this.fallbacks.append(("dynamo", error, ()))
        finally:
            config.suppress_errors = suppressed
            running.call = outer
            audit.add(this, watch.end() if watch.happened() else None)
        return eager(*args, **kwargs)  # with fullgraph it is one graph or none: nothing of the step has run yet

    call.audit = audit  # type: ignore[attr-defined]
    return call


@contextmanager
def in_eager(applied: Applied) -> Iterator[None]:
    """Switch a target off while the context lasts."""
    before = applied.audit.on
    applied.switch(on=False)
    try:
        yield
    finally:
        applied.switch(on=before)
