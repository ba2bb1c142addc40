"""`SmartClosure`: one closure that may call `.backward()`, for optimizers that evaluate it many times.

Called, it gives the loss: backward is not run, `.grad` is as before. Asked for the `gradient()`, it lets backward
run for real and puts everything back. What to do with a gradient is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pytorch_bfo_optimizer.errors import LossTypeError, NoGradientError
from pytorch_bfo_optimizer.interception import BackwardCall, intercept_backward


class ClosureGradient(NamedTuple):
    """A loss and its gradient."""

    loss: Any
    """What the closure returned; where that was None, the sum of what it called backward on."""
    grads: list[Tensor]
    """One tensor for each parameter, shaped like it; zeros where the graph does not reach it."""
    reached: list[bool]
    """Whether the graph reached the parameter."""


@contextmanager
def grads_set_aside(params: Sequence[Tensor]) -> Iterator[None]:
    """Give the context parameters without `.grad`; afterwards each has its own tensor back, its values untouched."""
    found = [param.grad for param in params]
    for param in params:
        param.grad = None
    try:
        yield
    finally:
        for param, grad in zip(params, found, strict=True):
            param.grad = grad


@contextmanager
def all_require_grad(params: Sequence[Tensor]) -> Iterator[None]:
    """Let every parameter require grad, with grad mode on; afterwards flags and mode are as they were."""
    found = [param.requires_grad for param in params]
    try:
        with torch.inference_mode(False), torch.enable_grad():
            _set_flags(params, [True] * len(found))
            yield
    finally:
        _set_flags(params, found)


def _set_flags(params: Sequence[Tensor], required: Sequence[bool]) -> None:
    for param, flag in zip(params, required, strict=True):
        if param.requires_grad != flag:
            param.requires_grad_(flag)


class SmartClosure:
    """Wraps a closure so that it can be evaluated without backward, and differentiated when that is wanted.

    As a callable it stands for the closure with an optimizer that asks for losses alone:
    `optimizer.step(SmartClosure(closure, params))`. An optimizer that reads `.grad` (SGD, LBFGS) finds nothing new
    there and does not move: give it the closure itself, or `MODES["smart"].step(optimizer, closure)`, which takes one
    real gradient first.
    While it evaluates, a call of backward does nothing but note its loss; the closure sees zero gradients after
    it, so that clipping or logging inside the closure goes on. It does not record fewer graphs than the closure
    itself would: grad mode is the caller's.

    In `gradient()` every given parameter requires grad for the moment: what was given to the optimizer is to be
    trained. The interception holds for the current thread alone. The `.grad` of tensors outside `params` is put
    back after the backward calls that reach them; what the closure itself does to those (`model.zero_grad()`) is
    not undone.

    Args:
        closure: returns the loss, a float of it, or None if it calls backward on it.
        params: the tensors whose gradient is wanted.
    """

    def __init__(self, closure: Callable[[], Any], params: Iterable[Tensor]) -> None:
        self.closure = closure
        self.params = list(params)
        self._zeros: list[Tensor] | None = None

    def __call__(self) -> Any:
        """Evaluate: the loss as the closure returned it (a tensor without its graph), or as backward was called on."""
        noted: list[Tensor] = []

        def note(call: BackwardCall) -> None:
            _note_value(call, noted)
            self._show_zeros()

        with grads_set_aside(self.params), intercept_backward(note):
            value = self.closure()
        return _loss_of(value, noted)

    def gradient(self) -> ClosureGradient:
        """Run the closure once, backward included.

        Raises:
            NoGradientError: there is no gradient to be had; its `why` says what cut it.
            Exception: whatever the closure or its backward raises, unchanged.
        """
        noted: list[Tensor] = []
        ran: list[BackwardCall] = []
        refused_with_grad_mode: list[bool] = []
        others: dict[Tensor, Tensor | None] = {}

        def run(call: BackwardCall) -> None:
            _note_value(call, noted)
            if not call.has_graph:  # torch would raise here: reported below, with the loss that was paid for
                refused_with_grad_mode.append(torch.is_grad_enabled())
                self._show_zeros()
                return
            self._set_others_aside(call, others)
            ran.append(call)
            call.run()

        with all_require_grad(self.params), grads_set_aside(self.params):
            try:
                with intercept_backward(run):
                    value = self.closure()
                grads = self._collect(value, backward_ran=bool(ran), backward_called=bool(noted))
            finally:
                for tensor, grad in others.items():
                    tensor.grad = grad
        loss = _loss_of(value, noted)
        if loss is None:
            raise LossTypeError(
                "the closure returned None and never called backward(): it must return the loss (`return loss`)"
            )
        if not any(grad is not None for grad in grads):
            raise self._no_gradient(value, loss, ran=bool(ran), refused=refused_with_grad_mode)
        full = [
            torch.zeros_like(param) if grad is None else grad.detach()
            for param, grad in zip(self.params, grads, strict=True)
        ]
        return ClosureGradient(loss, full, [grad is not None for grad in grads])

    def _collect(self, value: Any, *, backward_ran: bool, backward_called: bool) -> list[Tensor | None]:
        """What the closure left in `.grad`, or, if it never called backward, the gradient of what it returned."""
        grads = [param.grad for param in self.params]
        if not backward_ran and self._zeros is not None:
            grads = [None if grad is zero else grad for grad, zero in zip(grads, self._zeros, strict=True)]
        untouched = not backward_called and all(grad is None for grad in grads)
        if untouched and isinstance(value, Tensor) and value.requires_grad and value.numel() == 1:
            return list(torch.autograd.grad(value.reshape(()), self.params, allow_unused=True))
        return grads

    def _no_gradient(self, value: Any, loss: Any, *, ran: bool, refused: list[bool]) -> NoGradientError:
        """The reason in words, from what was seen."""
        if ran or (not refused and isinstance(value, Tensor) and value.requires_grad):
            return NoGradientError(
                f"the loss has a graph, but it reaches none of the {len(self.params)} parameters given to the "
                "optimizer: the closure works on other tensors, or on copies made outside it",
                reason="unreached",
                loss=loss,
            )
        if refused and not all(refused):
            return NoGradientError(
                "backward() was called with gradients disabled (torch.no_grad() in the closure), on a loss that "
                "does not require grad: compute the loss outside no_grad",
                reason="grad-disabled",
                loss=loss,
            )
        if refused or isinstance(value, Tensor):
            return NoGradientError(
                "the loss does not require grad although every parameter did: the graph is cut inside the closure "
                "(detach(), .data, .item(), .numpy(), torch.tensor(...), torch.no_grad(), or an operation on "
                "integers)",
                reason="no-graph",
                loss=loss,
            )
        return NoGradientError(
            f"the closure returned a plain number ({type(value).__name__}) and never called backward(): a number "
            "carries no graph; return the loss tensor, or call loss.backward() in the closure",
            reason="float-loss",
            loss=loss,
        )

    def _show_zeros(self) -> None:
        """Let the closure find zero gradients, as after a backward that found nothing."""
        if self._zeros is None:
            self._zeros = [torch.zeros_like(param, requires_grad=False) for param in self.params]
        for param, zero in zip(self.params, self._zeros, strict=True):
            if param.grad is None:
                param.grad = zero.zero_()

    def _set_others_aside(self, call: BackwardCall, others: dict[Tensor, Tensor | None]) -> None:
        """Before backward runs: take the `.grad` off the leaves it will reach beyond the given parameters."""
        mine = {id(param) for param in self.params}
        for leaf in _leaves(call.roots):
            if id(leaf) not in mine and leaf not in others:
                others[leaf] = leaf.grad
                leaf.grad = None


def _note_value(call: BackwardCall, noted: list[Tensor]) -> None:
    value = call.value()
    noted.append(torch.zeros(()) if value is None else value)


def _loss_of(value: Any, noted: list[Tensor]) -> Any:
    """The closure's own answer; where it gave none, the sum of what it called backward on."""
    if value is None and noted:
        with torch.no_grad():
            return torch.stack([term.reshape(()) for term in noted]).sum()
    return value.detach() if isinstance(value, Tensor) else value


def _leaves(roots: tuple[Any, ...]) -> Iterator[Tensor]:
    """The leaf tensors in which a backward from `roots` would accumulate."""
    nodes = [root.grad_fn if isinstance(root, Tensor) else root.node for root in roots]
    seen = set(nodes)
    while nodes:
        node: Any = nodes.pop()
        if node is None:
            continue
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, Tensor):
            yield leaf
        for following, _ in node.next_functions:
            if following not in seen:
                seen.add(following)
                nodes.append(following)
