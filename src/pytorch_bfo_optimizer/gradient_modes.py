"""How an optimizer's step is called when the closure may call `.backward()`: five modes, one protocol.

=========  ==============================================================================================
dual       `step(closure, grad_closure)`: the first is evaluated without gradients, the second gives one
smart      `step(closure)`: backward is not run while positions are evaluated, and runs when it is wanted
config     `step(closure)` under a `GradientConfig`, which decides when a gradient is taken
minimal    `step(closure)` of anyone's optimizer: backward on a loss without a graph is skipped
as-is      `step(closure)` and nothing else: the control
=========  ==============================================================================================

Except for as-is, which undoes nothing that the closure does, every mode leaves `requires_grad`, `.grad`, grad
mode and hooks as it found them, also when the closure raises.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from torch import Tensor

from pytorch_bfo_optimizer.errors import GradientModeUnsupportedError, HyperparameterError, NoGradientError
from pytorch_bfo_optimizer.interception import BackwardCall, intercept_backward
from pytorch_bfo_optimizer.objective import as_batched
from pytorch_bfo_optimizer.shell import ColonyOptimizer
from pytorch_bfo_optimizer.smart_closure import SmartClosure, grads_set_aside
from pytorch_bfo_optimizer.state import require_count

When = Literal["auto", "always", "never", "hybrid"]


@dataclass(frozen=True)
class GradientConfig:
    """When a gradient is taken.

    - `auto`: one real attempt at the first step and at every `check_every`-th; as long as it succeeds, each step
      uses a gradient, and once it fails none is tried until the next check. The decision and its reason are in
      `optimizer.gradient_decision` and in the log `pytorch_bfo_optimizer`.
    - `always`: a gradient at each step; `NoGradientError` where there is none.
    - `never`: gradient-free.
    - `hybrid`: a gradient at every `check_every`-th step; between them its momentum goes on guiding the colony,
      or nothing does with `use_momentum=False`.
    """

    mode: When = "auto"
    fallback_on_error: bool = False
    """With `always` and `hybrid`: go on gradient-free, with a warning in the log, in place of `NoGradientError`.
    The closure's own exceptions are never swallowed."""
    check_every: int = 10
    """Steps between two checks (`auto`) or two gradients (`hybrid`)."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            HyperparameterError: naming the field, its value and the mend.
        """
        if self.mode not in get_args(When):
            raise HyperparameterError(f"GradientConfig.mode is {self.mode!r}: use one of {', '.join(get_args(When))}")
        if not isinstance(self.fallback_on_error, bool):
            raise HyperparameterError(
                f"GradientConfig.fallback_on_error is {self.fallback_on_error!r}: pass True or False"
            )
        require_count("GradientConfig.check_every", self.check_every, least=1, mend="10 is usual")


@dataclass(frozen=True)
class GradientDecision:
    """Whether the last step used a gradient, and why."""

    use_gradient: bool
    why: str
    step: int
    """The generation at which this was decided, from 0."""


class DualClosure:
    """Two closures in one: called it is the first; `HybridBFO` takes the gradient from the second."""

    def __init__(self, closure: Callable[[], Any], grad_closure: Callable[[], Any]) -> None:
        self.closure, self.grad_closure = closure, grad_closure

    def __call__(self) -> Any:
        """The loss by the first closure."""
        return self.closure()


class GradientMode(Protocol):
    """One way to call `optimizer.step`."""

    name: str

    def step(self, optimizer: Any, closure: Callable[[], Any], grad_closure: Callable[[], Any] | None = None) -> Any:
        """One step; returns what the optimizer's step returns. Only `dual` uses `grad_closure`.

        Raises:
            GradientModeUnsupportedError: this mode cannot drive this optimizer.
            NoGradientError: a gradient was wanted and there is none.
        """


class DualMode:
    """`optimizer.step(closure, grad_closure)`."""

    name = "dual"

    def step(self, optimizer: Any, closure: Callable[[], Any], grad_closure: Callable[[], Any] | None = None) -> Any:
        """See the protocol; `grad_closure` is required."""
        if grad_closure is None:
            raise GradientModeUnsupportedError("dual needs two closures: step(optimizer, closure, grad_closure)")
        if _takes_gradient_config(optimizer):
            with _config(optimizer, GradientConfig(mode="always")):
                return optimizer.step(closure, grad_closure)
        name = type(optimizer).__name__
        if isinstance(optimizer, ColonyOptimizer):
            raise GradientModeUnsupportedError(
                f"{name} is gradient-free and has no use for a second closure: use HybridBFO"
            )
        keyword = _second_closure_of(optimizer)
        if keyword is None:
            raise GradientModeUnsupportedError(
                f"{name}.step{inspect.signature(optimizer.step)} takes no second closure: use smart or minimal, "
                "which take one"
            )
        with grads_set_aside(_params_of(optimizer)):
            return optimizer.step(closure, **{keyword: grad_closure})


class SmartMode:
    """`optimizer.step(closure)` with backward run only where a gradient is wanted.

    `HybridBFO` takes its gradient once a step; `BFO` and `AdaptiveBFO` take none. Someone else's optimizer finds
    one real gradient in `.grad` during its step, taken before it (none if there is none to be had), and calls a
    closure that never runs backward; so an optimizer that needs a new gradient at each call (LBFGS) gets a stale one.
    """

    name = "smart"

    def step(self, optimizer: Any, closure: Callable[[], Any], grad_closure: Callable[[], Any] | None = None) -> Any:
        """See the protocol."""
        if _takes_gradient_config(optimizer):
            with _config(optimizer, GradientConfig(mode="always")):
                return optimizer.step(closure)
        if as_batched(closure) is not None:
            return optimizer.step(closure)
        params = _params_of(optimizer)
        smart = SmartClosure(closure, params)
        if isinstance(optimizer, ColonyOptimizer):
            return optimizer.step(smart)
        grads: list[Tensor | None]
        try:
            grads = list(smart.gradient().grads)
        except NoGradientError:
            grads = [None] * len(params)
        with grads_set_aside(params):
            for param, grad in zip(params, grads, strict=True):
                param.grad = grad
            return optimizer.step(smart)


class ConfigMode:
    """`optimizer.step(closure)` under a `GradientConfig`; a gradient-free optimizer of ours knows only "never"."""

    name = "config"

    def __init__(self, config: GradientConfig | None = None) -> None:
        self.config = config if config is not None else GradientConfig()

    def step(self, optimizer: Any, closure: Callable[[], Any], grad_closure: Callable[[], Any] | None = None) -> Any:
        """See the protocol."""
        if _takes_gradient_config(optimizer):
            with _config(optimizer, self.config):
                return optimizer.step(closure)
        name = type(optimizer).__name__
        if not isinstance(optimizer, ColonyOptimizer):
            raise GradientModeUnsupportedError(
                f"{name} has no gradient_config: use smart or minimal, which need no support from it"
            )
        if self.config.mode in ("always", "hybrid"):
            raise GradientModeUnsupportedError(
                f"{name} is gradient-free, and the config says {self.config.mode!r}: use HybridBFO"
            )
        return SMART.step(optimizer, closure)


class MinimalMode:
    """`optimizer.step(closure)` under `minimal_patch`."""

    name = "minimal"

    def step(self, optimizer: Any, closure: Callable[[], Any], grad_closure: Callable[[], Any] | None = None) -> Any:
        """See the protocol."""
        with minimal_patch(optimizer):
            return AS_IS.step(optimizer, closure)


class AsIsMode:
    """`optimizer.step(closure)`: the control. `HybridBFO` then calls the closure as it stands and reads `.grad`."""

    name = "as-is"

    def step(self, optimizer: Any, closure: Callable[[], Any], grad_closure: Callable[[], Any] | None = None) -> Any:
        """See the protocol."""
        if _takes_gradient_config(optimizer):
            with _config(optimizer, None):
                return optimizer.step(closure)
        return optimizer.step(closure)


@contextmanager
def minimal_patch(optimizer: Any) -> Iterator[Any]:
    """Mend, for as long as the context lasts, an optimizer that calls a closure with `backward()` for each member.

    The closure that reaches `optimizer.step` is wrapped: a backward on a loss that does not require grad, where
    torch raises "element 0 of tensors does not require grad and does not have a grad_fn", is skipped; every other
    backward runs. Nothing else changes: not the class, not the optimizer's code. On exit, also after an
    exception, the instance has the `step` it had, and no attribute more; after each step the parameters have the
    `.grad` they had.

    Raises:
        GradientModeUnsupportedError: an object without param groups or step, or whose attributes cannot be set.
    """
    original = getattr(optimizer, "step", None)
    if not callable(original):
        raise GradientModeUnsupportedError(f"{type(optimizer).__name__} has no step(closure) to patch")
    params = _params_of(optimizer)
    had_own = "step" in getattr(optimizer, "__dict__", {})

    def step(closure: Callable[[], Any] | None = None, *args: Any, **kwargs: Any) -> Any:
        if closure is None or as_batched(closure) is not None:
            return original(closure, *args, **kwargs)
        with grads_set_aside(params):
            return original(_without_dead_backward(closure), *args, **kwargs)

    try:
        optimizer.step = step
    except AttributeError as error:
        raise GradientModeUnsupportedError(
            f"{type(optimizer).__name__} does not let its step be set on the instance (it has __slots__?)"
        ) from error
    try:
        yield optimizer
    finally:
        if had_own:
            optimizer.step = original
        else:
            del optimizer.step


def _without_dead_backward(closure: Callable[[], Any]) -> Callable[[], Any]:
    """The closure, with backward skipped where there is no graph to run it on."""

    def skip_dead(call: BackwardCall) -> None:
        if call.has_graph:
            call.run()

    def patched() -> Any:
        with intercept_backward(skip_dead):
            return closure()

    return patched


def _takes_gradient_config(optimizer: Any) -> bool:
    return isinstance(optimizer, ColonyOptimizer) and hasattr(optimizer, "gradient_config")


def _params_of(optimizer: Any) -> list[Tensor]:
    groups = getattr(optimizer, "param_groups", None)
    if groups is None:
        raise GradientModeUnsupportedError(
            f"{type(optimizer).__name__} has no param_groups: it is not known what it optimizes"
        )
    return [param for group in groups for param in group["params"]]


def _second_closure_of(optimizer: Any) -> str | None:
    """The name of the argument of `step` that takes a gradient closure, if there is one."""
    names = [
        name
        for name, parameter in inspect.signature(optimizer.step).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    return next((name for name in names[1:] if "closure" in name), None)


@contextmanager
def _config(optimizer: Any, config: GradientConfig | None) -> Iterator[None]:
    found = optimizer.gradient_config
    optimizer.gradient_config = config
    try:
        yield
    finally:
        optimizer.gradient_config = found


SMART = SmartMode()
AS_IS = AsIsMode()

MODES: dict[str, GradientMode] = {
    "dual": DualMode(),
    "smart": SMART,
    "config": ConfigMode(),
    "minimal": MinimalMode(),
    "as-is": AS_IS,
}
