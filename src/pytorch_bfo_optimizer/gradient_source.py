"""A colony that can ask closures what the loss and the slope are at one place, and when it asks for the slope.

What is done with them is in `running` and `hybrid`; how one closure is evaluated and differentiated is in
`smart_closure`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from pytorch_bfo_optimizer.bfo import BFO
from pytorch_bfo_optimizer.errors import HyperparameterError, LossTypeError, NoGradientError
from pytorch_bfo_optimizer.gradient_modes import DualClosure, GradientConfig, GradientDecision
from pytorch_bfo_optimizer.objective import Closure, as_batched, as_loss
from pytorch_bfo_optimizer.smart_closure import ClosureGradient, SmartClosure
from pytorch_bfo_optimizer.state import Hyperparameters, require_number

logger = logging.getLogger("pytorch_bfo_optimizer")

TRUSTED = 9
"""Steps for which the loss of a second closure stands for that of the first, once the two were the same."""

SAME = 1e-5
"""Relative difference of two losses that are the same but for rounding."""


@dataclass(frozen=True)
class HybridHyperparameters(Hyperparameters):
    """The settings of `BFO`, and those of the gradient."""

    gradient_weight: float
    """w: share of the descent direction in a tumble, in [0, 1]."""
    use_momentum: bool
    """Whether gradients are averaged over steps."""
    momentum: float
    """beta_1: share of the old average, in [0, 1)."""

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        require_number("gradient_weight", self.gradient_weight, low=0, high=1, mend="0.5 is usual, 0 blends nothing")
        require_number("momentum", self.momentum, low=0, high=1, open_high=True, mend="0.9 is usual")
        if not isinstance(self.use_momentum, bool):
            raise HyperparameterError(f"use_momentum is {self.use_momentum!r}: pass True or False")

    @property
    def beta(self) -> float:
        """beta_1, 0 without momentum."""
        return self.momentum if self.use_momentum else 0.0


class Measured(NamedTuple):
    """What was found at one place."""

    gradient: Tensor | None
    """(D,), or None where none is wanted or to be had."""
    loss: float | None
    """In units of the loss; None where nothing told it."""
    trusted: int = 0
    """Steps for which the loss of the second of two closures stands for that of the first."""


class GradientSource(BFO):
    """`BFO` with a `gradient_config` and the decision that came of it; by itself it asks for no gradient."""

    hyperparameters_type: ClassVar[type[Hyperparameters]] = HybridHyperparameters
    gradient_config: GradientConfig | None
    _decision: GradientDecision | None
    _owed: int
    """Evaluations made at single places, and not counted yet."""

    def _take_config(self, config: GradientConfig | None) -> None:
        if config is not None and not isinstance(config, GradientConfig):
            raise HyperparameterError(f"gradient_config is {config!r}: pass GradientConfig(...), or None for as-is")
        self.gradient_config, self._decision, self._owed = config, None, 0

    @property
    def gradient_decision(self) -> GradientDecision | None:
        """Whether a gradient is used, why, and since which step; None before the first step."""
        return self._decision

    @property
    def gradient_evaluations(self) -> int:
        """Gradients taken so far."""
        return self._counter("gradient_evaluations")

    # --- at one place ---

    def _measure(
        self, place_D: Tensor, closure: Closure, grad_enabled: bool, *, trusted: int = 0, strict: bool = True
    ) -> Measured:
        """The gradient and the loss where the parameters are, which is `place_D`.

        Args:
            place_D: in the dtype of the vector.
            closure: one that gives both, or a `DualClosure`.
            grad_enabled: the caller's grad mode.
            trusted: as returned the last time.
            strict: whether a gradient that is not finite is none at all; otherwise the caller looks for itself.
        """
        if isinstance(closure, DualClosure):
            return self._measure_by_two(place_D, closure, grad_enabled, trusted=trusted, strict=strict)
        self._bind(closure)
        gradient_D, value = self._gradient(closure, grad_enabled, strict=strict)
        if value is None:
            return Measured(None, None)
        told = self._as_loss(value)
        # ranks that share the colony go by the loss of the first of them
        loss = float(told) if self._shard is None else self._sense(place_D, closure, grad_enabled, told)
        return Measured(gradient_D, loss)

    def _measure_by_two(
        self, place_D: Tensor, closure: DualClosure, grad_enabled: bool, *, trusted: int, strict: bool
    ) -> Measured:
        """The same of two closures: the loss by the first, unless the second has just given the same."""
        loss = math.nan
        if trusted == 0:
            loss = self._sense(place_D, self._evaluated(closure), grad_enabled=False)
            if not math.isfinite(loss):
                return Measured(None, loss)
        self._bind(closure.grad_closure)
        gradient_D, value = self._gradient(closure, grad_enabled, strict=strict)
        try:
            told = float(self._as_loss(value))
        except LossTypeError:  # it is asked for a gradient, and may return what it likes
            told = math.nan
        if trusted == 0:
            same = abs(told - loss) <= SAME * abs(loss) and self._shard is None  # else each rank has another opinion
            return Measured(gradient_D, loss, TRUSTED if same else 0)
        if not math.isfinite(told):
            return Measured(gradient_D, self._sense(place_D, self._evaluated(closure), grad_enabled=False))
        return Measured(gradient_D, told, trusted - 1)

    def _sense(self, place_D: Tensor, closure: Closure, grad_enabled: bool, told: Tensor | None = None) -> float:
        """The loss at one place, as the evaluator of a generation finds it; `told` where it is known already."""
        if as_batched(closure) is not None and callable(closure):
            closure = partial(closure)  # one place alone need not be stacked
        evaluator = self._evaluator(closure, grad_enabled, {} if told is None else {0: told})
        one = torch.ones(1, dtype=torch.bool, device=place_D.device)
        try:
            return float(evaluator(place_D.unsqueeze(0), one)[0])
        finally:
            self._owed += evaluator.evaluations

    def _settle(self) -> None:
        """Count what was evaluated at single places."""
        owed, self._owed = self._owed, 0
        self._bump("evaluations", owed)

    def _evaluated(self, closure: Closure) -> Closure:
        """What is called for losses alone."""
        closure = closure.closure if isinstance(closure, DualClosure) else closure
        self._bind(closure)
        smart = self.gradient_config is not None and as_batched(closure) is None
        return SmartClosure(closure, (self._vector or self.vector).params) if smart else closure

    def _bind(self, closure: Closure) -> None:
        batched = as_batched(closure)
        if batched is not None:
            batched.bind(self.vector.params)

    def _as_loss(self, value: Any) -> Tensor:
        return as_loss(value, dtype=self._kept_state()["best_loss"].dtype, device=(self._vector or self.vector).device)

    # --- the gradient ---

    def _gradient_due(self) -> bool:
        """Whether this step asks for a gradient; where it does not, that is the decision."""
        if self.gradient_config is None:
            return True
        wanted, why = self._wanted(self.gradient_config)
        if not wanted:
            self._decide(False, why)
        return wanted

    def _gradient(self, closure: Closure, grad_enabled: bool, *, strict: bool) -> tuple[Tensor | None, Any]:
        """The gradient (D,) where it is to be had, and what the call that was spent on it returned, if anything."""
        config = self.gradient_config
        if config is None:
            return self._gradient_as_is(closure, grad_enabled)
        source = closure.grad_closure if isinstance(closure, DualClosure) else closure
        try:
            self._require_callable(source)
            self._bump("gradient_evaluations", 1)
            self._owed += source is closure
            found = self._taken(SmartClosure(source, (self._vector or self.vector).params).gradient)
            gradient_D = self._joined(found.grads)
            if strict and not bool(torch.isfinite(gradient_D).all()):
                raise NoGradientError(
                    f"the gradient is not finite in {self._nonfinite_of(found.grads)}",
                    reason="non-finite",
                    loss=found.loss,
                )
        except NoGradientError as error:
            self._decide(False, error.why)
            if config.mode != "auto":
                if not config.fallback_on_error:
                    raise
                logger.warning("no gradient in generation %d, going on without: %s", self.generation, error.why)
            return None, error.loss
        _, why = self._wanted(config)
        missing = found.reached.count(False)
        note = f"; {missing} of {len(found.reached)} parameters got none, taken as zero" if missing else ""
        self._decide(True, f"{why}: it reaches {len(found.reached) - missing} parameters{note}")
        return gradient_D, found.loss

    def _gradient_as_is(self, closure: Closure, grad_enabled: bool) -> tuple[Tensor | None, Any]:
        """Call the closure as it stands, and take what its backward left in `.grad`."""
        source = closure.grad_closure if isinstance(closure, DualClosure) else closure
        if as_batched(source) is not None:
            return None, None
        self._owed += source is closure

        def take() -> ClosureGradient:
            with torch.set_grad_enabled(grad_enabled):
                loss = source()
            grads = [param.grad for param in self.vector.params]
            if all(grad is None for grad in grads):
                raise NoGradientError("as it stands, the closure left nothing in .grad", reason="unreached", loss=loss)
            filled = [
                torch.zeros_like(p) if grad is None else grad for p, grad in zip(self.vector.params, grads, strict=True)
            ]
            return ClosureGradient(loss, filled, [grad is not None for grad in grads])

        try:
            found = self._taken(take)
        except NoGradientError as error:
            self._decide(False, error.why)
            return None, error.loss
        self._bump("gradient_evaluations", 1)
        self._decide(True, "as it stands, the closure left gradients in .grad")
        return self.vector.join(found.grads), found.loss

    def _taken(self, take: Callable[[], ClosureGradient]) -> ClosureGradient:
        """What `take` finds; where ranks have data of their own, the mean of what it finds on each."""
        return take() if self._shard is None else self._shard.gradient(take)

    def _joined(self, grads: Sequence[Tensor]) -> Tensor:
        """The gradient (D,)."""
        vector = self._vector or self.vector
        if vector.mixed or any(grad.layout is not torch.strided for grad in grads):
            return vector.join(grads)
        return torch.cat([grad.reshape(-1) for grad in grads])  # the usual case, without a copy of each

    def _wanted(self, config: GradientConfig) -> tuple[bool, str]:
        """Whether this step asks for a gradient, and why."""
        due = self.generation % config.check_every == 0
        if config.mode == "never":
            return False, "the config says never"
        if config.mode == "always":
            return True, "the config says always, and there is a gradient"
        if config.mode == "hybrid":
            return due, f"the config says every {config.check_every} steps"
        if self._decision is None or due or self._decision.use_gradient:
            return True, "an attempt gave a gradient"
        return False, self._decision.why

    def _decide(self, use_gradient: bool, why: str) -> None:
        """Note the decision; say so in the log when it is a new one."""
        last = self._decision
        if last is None or (last.use_gradient, last.why) != (use_gradient, why):
            logger.info(
                "generation %d: %s, since %s", self.generation, "gradient" if use_gradient else "no gradient", why
            )
            self._decision = GradientDecision(use_gradient, why, self.generation)
            self._kept_state()["uses_gradient"] = int(use_gradient)

    def _require_callable(self, source: object) -> None:
        """A batched objective need not be a closure; then it has no gradient to give."""
        if not callable(source):
            raise NoGradientError(
                f"{type(source).__name__} evaluates populations and cannot be called for one loss with a graph: give "
                "it a __call__, or a grad_closure beside it",
                reason="no-graph",
            )

    def _nonfinite_of(self, grads: Sequence[Tensor]) -> str:
        """Which parameters have NaN or infinite gradients, in words."""
        which = [str(index) for index, grad in enumerate(grads) if not bool(torch.isfinite(grad).all())]
        return f"parameter {', '.join(which[:5])}{' and more' if len(which) > 5 else ''}"
