"""Seeing the calls of `backward` that a closure makes, in this thread only, and deciding whether they run.

`Tensor.backward` and `torch.autograd.backward` are intercepted, and nothing else. `torch.autograd.grad` is not:
it returns its result, which may be a part of the loss (a derivative with respect to an input), and it leaves
`.grad` alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class BackwardCall:
    """One call of backward, not yet run."""

    roots: tuple[Any, ...]
    """What it starts from: tensors (or graph edges, which always have a graph)."""
    weights: tuple[Tensor | None, ...]
    """`gradient=` / `grad_tensors=`, one for each root."""
    run: Callable[[], None]
    """Runs it as it was called."""

    @property
    def has_graph(self) -> bool:
        """Whether torch could run it: some root requires grad."""
        return any(not isinstance(root, Tensor) or root.requires_grad for root in self.roots)

    def value(self) -> Tensor | None:
        """The number whose gradient this call asks for: the weighted sum of the roots, without a graph."""
        total: Tensor | None = None
        with torch.no_grad():
            for root, weight in zip(self.roots, self.weights, strict=True):
                if isinstance(root, Tensor):
                    term = root.detach() if weight is None else root.detach() * weight
                    term = term if term.dim() == 0 else term.sum()
                    total = term if total is None else total + term
        return total


Handler = Callable[[BackwardCall], None]
"""Called in place of backward; it may call `call.run()`."""

# The engine call under `torch.autograd.backward` is where all backward calls meet. A TorchFunctionMode would do as well
# (not in 2.6, which does not offer it `torch.autograd.backward`), but is called at every operation of a closure, which
# costs a small network an eighth of its step; it stands in where a version keeps the engine call elsewhere.
_SEAM = "_engine_run_backward" in torch.autograd.backward.__code__.co_names and hasattr(
    torch.autograd, "_engine_run_backward"
)


@contextmanager
def intercept_backward(handler: Handler) -> Iterator[None]:
    """Send every backward call of this thread to `handler` while the context lasts."""
    with _engine_seam(handler) if _SEAM else _BackwardMode(handler):
        yield


class _BackwardMode(TorchFunctionMode):
    def __init__(self, handler: Handler) -> None:
        super().__init__()
        self.handler = handler

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.backward:
            weight = args[1] if len(args) > 1 else kwargs.get("gradient")
            self.handler(BackwardCall((args[0],), (weight,), lambda: func(*args, **kwargs)))
            return None
        if func is torch.autograd.backward:
            roots = _as_tuple(args[0] if args else kwargs["tensors"])
            weights = _as_tuple(args[1] if len(args) > 1 else kwargs.get("grad_tensors")) or (None,) * len(roots)
            self.handler(BackwardCall(roots, weights, lambda: func(*args, **kwargs)))
            return None
        return func(*args, **kwargs)


def _as_tuple(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, Sequence) else (value,)


_local = threading.local()
_seam_lock = threading.Lock()
_seam_users = 0
_engine: Any = None


@contextmanager
def _engine_seam(handler: Handler) -> Iterator[None]:
    """The same for older versions: replace the engine call while anyone needs it; other threads pass through."""
    global _seam_users, _engine
    module: Any = torch.autograd
    with _seam_lock:
        _seam_users += 1
        if _seam_users == 1:
            _engine = module._engine_run_backward
            module._engine_run_backward = _dispatch_engine
    previous = getattr(_local, "handler", None)
    _local.handler = handler
    try:
        yield
    finally:
        _local.handler = previous
        with _seam_lock:
            _seam_users -= 1
            if _seam_users == 0:
                module._engine_run_backward = _engine


def _dispatch_engine(roots: Any, weights: Any, *args: Any, **kwargs: Any) -> Any:
    handler, engine = getattr(_local, "handler", None), _engine
    if handler is None or not kwargs.get("accumulate_grad", False):
        return engine(roots, weights, *args, **kwargs)

    def run() -> None:
        _local.handler = None
        try:
            engine(roots, weights, *args, **kwargs)
        finally:
            _local.handler = handler

    handler(BackwardCall(tuple(roots), tuple(weights), run))
    return ()


@contextmanager
def losses_alone() -> Iterator[None]:
    """Tell closures of this library that run backward by themselves that nobody here wants a gradient."""
    before, _local.losses_alone = getattr(_local, "losses_alone", False), True
    try:
        yield
    finally:
        _local.losses_alone = before


def losses_alone_wanted() -> bool:
    """Whether a closure that runs in this thread is asked for its loss alone, and nobody intercepts backward."""
    return getattr(_local, "losses_alone", False) and getattr(_local, "handler", None) is None
