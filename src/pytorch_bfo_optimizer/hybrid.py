"""`HybridBFO`: a colony that also feels the slope. One gradient a step, blended into the tumbles."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from pytorch_bfo_optimizer.bfo import BFO, Plan
from pytorch_bfo_optimizer.errors import HyperparameterError, NoGradientError
from pytorch_bfo_optimizer.foraging import forget, tumble, unit
from pytorch_bfo_optimizer.gradient_modes import DualClosure, GradientConfig, GradientDecision
from pytorch_bfo_optimizer.objective import Closure, as_batched, as_loss
from pytorch_bfo_optimizer.smart_closure import SmartClosure
from pytorch_bfo_optimizer.state import Colony, Hyperparameters, require_number

logger = logging.getLogger("pytorch_bfo_optimizer")


@dataclass(frozen=True)
class HybridHyperparameters(Hyperparameters):
    """The settings of `BFO`, and those of the gradient."""

    gradient_weight: float
    """w: share of the descent direction in a tumble, in [0, 1]."""
    use_momentum: bool
    """Whether directions are averaged over steps."""
    momentum: float
    """mu: share of the old average, in [0, 1)."""

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        require_number("gradient_weight", self.gradient_weight, low=0, high=1, mend="0.5 is usual, 0 blends nothing")
        require_number("momentum", self.momentum, low=0, high=1, open_high=True, mend="0.9 is usual")
        if not isinstance(self.use_momentum, bool):
            raise HyperparameterError(f"use_momentum is {self.use_momentum!r}: pass True or False")


class HybridBFO(BFO):
    """`BFO` with a gradient, for training a network on mini-batches.

    Once a step the gradient g is taken at the best position, and every member tumbles along::

        m     <- mu m + (1 - mu) g / |g|      (m <- g / |g| where m points uphill; mu = 0 without momentum)
        phi_i  = unit((1 - w) Delta_i / |Delta_i| - w m / |m|)

    except the best member, the gradient candidate, which goes straight along -m / |m|, one step long, and swims on
    while that pays: a line search. The closure call that gives the gradient also senses that member's loss, so a
    step still costs at most `population_size * (1 + swim_length)` calls of the closure. With a batched objective
    the gradient comes from calling it as a closure.

    `reevaluate` is on: the loss of a new mini-batch is never compared with an old one.
    A single closure may call `.backward()`: see `SmartClosure`. `gradient_config` says when a gradient is taken
    (it is no part of the `state_dict`); None calls the closure as it stands and reads `.grad` afterwards.

    Args: those of `BFO`; `gradient_weight` w in [0, 1]; `use_momentum`; `momentum` mu in [0, 1); `gradient_config`.
    """

    hyperparameters_type: ClassVar[type[Hyperparameters]] = HybridHyperparameters
    gradient_config: GradientConfig | None

    def __init__(
        self,
        params: ParamsT,
        *,
        gradient_weight: float = 0.5,
        use_momentum: bool = True,
        momentum: float = 0.9,
        gradient_config: GradientConfig | None = GradientConfig(),  # noqa: B008 - frozen
        reevaluate: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(
            params,
            gradient_weight=gradient_weight,
            use_momentum=use_momentum,
            momentum=momentum,
            reevaluate=reevaluate,
            **options,
        )
        if gradient_config is not None and not isinstance(gradient_config, GradientConfig):
            raise HyperparameterError(
                f"gradient_config is {gradient_config!r}: pass GradientConfig(...), or None for as-is"
            )
        self.gradient_config = gradient_config
        self._decision: GradientDecision | None = None

    @overload
    def step(self, closure: None = None, grad_closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], Any], grad_closure: Callable[[], Any] | None = None) -> float: ...

    def step(
        self, closure: Callable[[], Any] | None = None, grad_closure: Callable[[], Any] | None = None
    ) -> float | None:
        """Make one generation; see `BFO.step`.

        Args:
            closure: returns the loss; it may call `.backward()`, which runs only when the gradient is wanted.
            grad_closure: if given, the gradient is taken from this one, and `closure` is evaluated without gradients.

        Raises:
            NoGradientError: as `gradient_config` says.
        """
        if closure is None:
            self._initialise_without_closure()
            return None
        return self._advance(closure if grad_closure is None else DualClosure(closure, grad_closure))

    @property
    def gradient_decision(self) -> GradientDecision | None:
        """Whether a gradient is used, why, and since which step; None before the first step."""
        return self._decision

    @property
    def gradient_evaluations(self) -> int:
        """Gradients taken so far."""
        return self._counter("gradient_evaluations")

    # --- the plan: evaluate how, and which way is down ---

    def _plan(self, closure: Closure, colony: Colony, groups: list[Hyperparameters], grad_enabled: bool) -> Plan:
        """Take the gradient at the best member if it is wanted; its loss then stands for that member's sensing."""
        evaluated = closure.closure if isinstance(closure, DualClosure) else closure
        batched = as_batched(evaluated)
        if batched is not None:
            batched.bind(self.vector.params)
        best = int(torch.argmin(self._stored().loss))
        self.vector.write_(colony.position[best])
        gradient_D, loss = self._gradient(closure, grad_enabled)
        prefilled: dict[int, Tensor] = {}
        if loss is not None:
            prefilled[best] = as_loss(loss, dtype=colony.loss.dtype, device=self.vector.device)
            sensed_P = torch.arange(colony.loss.shape[0], device=colony.loss.device) == best
            colony = forget(colony, sensed_P)
        if self.gradient_config is not None and batched is None:
            evaluated = SmartClosure(evaluated, self.vector.params)
        if isinstance(closure, DualClosure):
            grad_enabled = False
        guide_D, kept = self._guide(gradient_D, groups)
        evaluator = self._evaluator(evaluated, grad_enabled, prefilled)
        return Plan(colony, evaluator, guide=guide_D, guided=best, kept=kept)

    def _gradient(self, closure: Closure, grad_enabled: bool) -> tuple[Tensor | None, Any]:
        """The gradient (D,) where it is wanted and to be had, and the loss of the call that was spent on it."""
        config = self.gradient_config
        if config is None:
            return self._gradient_as_is(closure, grad_enabled)
        wanted, why = self._wanted(config)
        if not wanted:
            self._decide(False, why)
            return None, None
        dual = isinstance(closure, DualClosure)
        source = closure.grad_closure if isinstance(closure, DualClosure) else closure
        try:
            self._require_callable(source)
            self._bump("gradient_evaluations", 1)
            self._bump("evaluations", 0 if dual else 1)
            found = SmartClosure(source, self.vector.params).gradient()
            gradient_D = self.vector.join(found.grads)
            if not bool(torch.isfinite(gradient_D).all()):
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
            return None, None if dual else error.loss
        missing = found.reached.count(False)
        note = f"; {missing} of {len(found.reached)} parameters got none, taken as zero" if missing else ""
        self._decide(True, f"{why}: it reaches {len(found.reached) - missing} parameters{note}")
        return gradient_D, None if dual else found.loss

    def _gradient_as_is(self, closure: Closure, grad_enabled: bool) -> tuple[Tensor | None, Any]:
        """Call the closure as it stands, and take what its backward left in `.grad`."""
        source = closure.grad_closure if isinstance(closure, DualClosure) else closure
        if as_batched(source) is not None:
            return None, None
        self._bump("evaluations", 0 if isinstance(closure, DualClosure) else 1)
        with torch.set_grad_enabled(grad_enabled):
            loss = source()
        grads = [param.grad for param in self.vector.params]
        if all(grad is None for grad in grads):
            self._decide(False, "as it stands, the closure left nothing in .grad")
            return None, None if isinstance(closure, DualClosure) else loss
        self._bump("gradient_evaluations", 1)
        self._decide(True, "as it stands, the closure left gradients in .grad")
        return self.vector.join(grads), None if isinstance(closure, DualClosure) else loss

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

    def _further_state(self) -> dict[str, Any]:
        """The averaged direction, zero as long as there is none, and the last decision, -1 before the first."""
        wide = torch.promote_types(self.vector.dtype, torch.float32)
        none_yet_D = torch.zeros(self.vector.dimension, dtype=wide, device=self.vector.device)
        return {"momentum": none_yet_D, "uses_gradient": -1}

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

    def _guide(
        self, gradient_D: Tensor | None, groups: list[Hyperparameters]
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """The unit descent direction (D,), and the average to keep if the step succeeds."""
        hyper = groups[0]
        assert isinstance(hyper, HybridHyperparameters)
        kept_D: Tensor = self._kept_state()["momentum"]
        average_D = kept_D if bool(kept_D.any()) else None
        if gradient_D is None:
            coasting = self.gradient_config is not None and self.gradient_config.mode == "hybrid" and hyper.use_momentum
            return (-unit(average_D) if coasting and average_D is not None else None), {}
        slope_D = gradient_D.to(torch.promote_types(gradient_D.dtype, torch.float32))
        if not bool(slope_D.any()):
            return None, {}
        slope_D = unit(slope_D / slope_D.abs().max())  # scaled, so that no square overflows or vanishes
        if average_D is None or not hyper.use_momentum:
            average_D = slope_D
        else:
            average_D = hyper.momentum * average_D + (1 - hyper.momentum) * slope_D
            if float(torch.dot(average_D, slope_D)) <= 0:
                average_D = slope_D
        return -unit(average_D), {"momentum": average_D}

    def _directions(self, noise_PD: Tensor, plan: Plan, groups: list[Hyperparameters]) -> Tensor:
        """Tumbles bent downhill (P, D); the best member goes straight down."""
        tumble_PD = tumble(noise_PD)
        hyper = groups[0]
        assert isinstance(hyper, HybridHyperparameters)
        if plan.guide is None:
            return tumble_PD
        bent_PD = unit((1 - hyper.gradient_weight) * tumble_PD + hyper.gradient_weight * plan.guide)
        bent_PD[plan.guided] = plan.guide
        return bent_PD

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `BFO.load_state_dict`; the decision of `auto` comes back too, its reason does not."""
        super().load_state_dict(state_dict)
        uses = self._colony_state().get("uses_gradient")
        self._decision = (
            None if uses in (None, -1) else GradientDecision(bool(uses), "as saved in the state_dict", self.generation)
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """See `BFO`; the attributes that torch's own pickling leaves behind."""
        self.__dict__.setdefault("gradient_config", GradientConfig())
        self.__dict__.setdefault("_decision", None)
        super().__setstate__(state)

    def __getstate__(self) -> dict[str, Any]:
        """See `BFO`; with the config and the decision."""
        return {**super().__getstate__(), "gradient_config": self.gradient_config, "_decision": self._decision}
