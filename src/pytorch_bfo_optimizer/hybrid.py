"""`HybridBFO`: a bacterium that feels the slope runs down it as long as that pays; when it no longer does, all forage.

Here are the settings and the generations that a gradient guides. The other steps are in `running`: runs, and the
search for a place to run from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from pytorch_bfo_optimizer import foraging, runs
from pytorch_bfo_optimizer.gradient_modes import DualClosure, GradientConfig, GradientDecision
from pytorch_bfo_optimizer.gradient_source import HybridHyperparameters
from pytorch_bfo_optimizer.objective import Closure
from pytorch_bfo_optimizer.running import RunningBFO, Step, mode_of, state_of
from pytorch_bfo_optimizer.runs import Run
from pytorch_bfo_optimizer.search import Search
from pytorch_bfo_optimizer.shell import Plan
from pytorch_bfo_optimizer.state import Colony, GenerationResult, Hyperparameters


class HybridBFO(RunningBFO):
    """`BFO` with a gradient: for training a network, and for losses with many minima.

    A step takes one gradient, and one more where a run begins. The best member runs: Adam's direction, and a length
    that the slope ahead corrects (`runs`), so that there is no learning rate to tune. As long as the run pays
    (`search`) the others are quiet, and that gradient is all that a step costs; with a `grad_closure`, `closure` is
    called too, unless both have just given the same loss. When the run no longer pays, the colony forages: P places a
    hop away from the record are evaluated, and the next run begins at the best of them. It leads once it has got below
    the record; if it is seen to lead nowhere, another one is tried, and now and then the one that led goes on.

    A step without a gradient, one whose run met a loss or gradient that is not finite, and with
    `GradientConfig(mode="hybrid")` every step is a generation of `BFO`, in which moves that do not pay are taken back,
    and members tumble, where the slope is known, along::

        phi_i = unit((1 - w) Delta_i / |Delta_i| - w u)          u: direction of the run, uphill; w: gradient_weight

    except the best member, which goes straight along -u, one step long, and swims on while that pays.

    After a step the parameters hold the place of the leading run, or the record while another one strays: always a
    place whose loss was measured, which `step` returns. With `reevaluate=False` it is the best place of all. As it is
    by default, only means over many steps are compared, never single losses of different mini-batches.
    A step costs at most `population_size * (1 + swim_length)` calls of the closure.

    A single closure may call `.backward()`: see `SmartClosure`. `gradient_config` says when a gradient is taken
    (it is no part of the `state_dict`); None calls the closure as it stands and reads `.grad` afterwards.

    Args: those of `BFO`, of which `lr * step_size_max` is also the length of a run's first move and the unit of hops;
    `gradient_weight` w in [0, 1]; `use_momentum`; `momentum` beta_1 in [0, 1); `gradient_config`.
    """

    greedy: ClassVar[bool] = True

    def __init__(
        self,
        params: ParamsT,
        *,
        gradient_weight: float = 0.5,
        use_momentum: bool = True,
        momentum: float = 0.9,
        gradient_config: GradientConfig | None = GradientConfig(),  # noqa: B008 - frozen
        reevaluate: bool = True,
        levy_alpha: float | None = 1.5,
        **options: Any,
    ) -> None:
        super().__init__(
            params,
            gradient_weight=gradient_weight,
            use_momentum=use_momentum,
            momentum=momentum,
            reevaluate=reevaluate,
            levy_alpha=levy_alpha,
            **options,
        )
        self._take_config(gradient_config)
        self._blocked = self._held = None

    @overload
    def step(self, closure: None = None, grad_closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], Any], grad_closure: Callable[[], Any] | None = None) -> float: ...

    def step(
        self, closure: Callable[[], Any] | None = None, grad_closure: Callable[[], Any] | None = None
    ) -> float | None:
        """Run on, or forage; see the class, and `BFO.step`.

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
    def population(self) -> Tensor:
        """A copy of all positions (P, D), of the best member that of the run; draws the first if there are none."""
        position_PD = super().population
        position_PD[int(torch.argmin(self._kept_state()["loss"]))] = self._kept_state()["run"].to(position_PD.dtype)
        return position_PD

    def _advance(self, closure: Closure) -> float:
        """Search on where a gradient is due, else make a generation."""
        groups = self._hyperparameters()
        if not self.initialised:
            self._start(groups)
        self._blocked = None
        same_size = self._kept_state()["loss"].shape[0] == groups[0].population_size  # else the shell refuses
        if same_size and not self._guided and self._gradient_due():
            loss = self._search_on(closure, groups)
            if loss is not None:
                return loss
        return super()._advance(closure)

    @property
    def _guided(self) -> bool:
        """Whether gradients guide generations, and there are no runs."""
        return self.gradient_config is not None and self.gradient_config.mode == "hybrid"

    # --- a generation ---

    def _plan(
        self, closure: Closure, colony: Colony, groups: list[Hyperparameters], grad_enabled: bool
    ) -> Plan[Colony]:
        """The run stands where the best member does; what this step has measured is not evaluated again."""
        step = self._blocked or Step(*self._kept_search())
        try:
            known = step.search.felt == 1 if self._blocked else self._feel(step, closure, groups, grad_enabled)
        finally:
            self._settle()
        leader = int(torch.argmin(self._stored().loss))
        prefilled: dict[int, Tensor] = {}
        measured: list[tuple[Tensor, float | None]] = [(step.run.position, None), *step.measured]
        for place_D, loss in measured:
            member = leader if place_D is step.run.position else (leader + 1) % colony.loss.shape[0]
            colony = _put(colony, member, place_D.to(self.vector.dtype), anew=loss is not None)
            if loss is not None:
                prefilled[member] = torch.full_like(colony.best_loss, loss)
        evaluator = self._evaluator(self._evaluated(closure), mode_of(closure, grad_enabled), prefilled)
        guide_D = -step.run.direction() if known and step.run.feels else None
        return Plan(colony, evaluator, guide_D, -1 if guide_D is None else leader, state_of(step.run, step.search))

    def _feel(self, step: Step, closure: Closure, groups: list[Hyperparameters], grad_enabled: bool) -> bool:
        """Take the gradient where generations are guided and it is due; whether a direction is known for this one."""
        hyper = groups[0]
        assert isinstance(hyper, HybridHyperparameters)
        if not self._guided:
            return False
        if not self._gradient_due():
            return hyper.use_momentum
        place_D = step.run.position
        found = self._measure(self._hold(step, place_D), closure, grad_enabled)
        if found.loss is not None:
            step.measured.append((place_D, found.loss))
        if found.gradient is None:
            return False
        step.run, _, slope = runs.arrive(step.run, place_D, found.gradient, momentum=hyper.beta)
        return slope > 0

    def _directions(self, noise_PD: Tensor, plan: Plan[Colony], groups: list[Hyperparameters]) -> Tensor:
        """Tumbles bent downhill (P, D); the best member goes straight down."""
        tumble_PD = foraging.tumble(noise_PD)
        hyper = groups[0]
        assert isinstance(hyper, HybridHyperparameters)
        if plan.guide is None:
            return tumble_PD
        bent_PD = foraging.unit((1 - hyper.gradient_weight) * tumble_PD + hyper.gradient_weight * plan.guide)
        bent_PD[plan.guided] = plan.guide
        return bent_PD

    def _seasons(self, result: GenerationResult[Colony], groups: list[Hyperparameters]) -> tuple[Colony, bool, int]:
        """See `BFO`; the next run leads from the best position."""
        run, search = self._kept_search()
        search.restart()
        run = replace(run, position=result.colony.best.to(run.position.dtype))
        self._kept_state().update(state_of(run, search))
        return super()._seasons(result, groups)

    # --- state ---

    def _further_state(self) -> dict[str, Any]:
        """The run, the search, and the last decision, -1 before the first."""
        return {**state_of(Run.at(self._best()), Search()), "uses_gradient": -1}

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


def _put(colony: Colony, member: int, place_D: Tensor, *, anew: bool) -> Colony:
    """The colony with a member at `place_D`, its loss unknown there; as it was if it stands there and not `anew`."""
    if not anew and torch.equal(colony.position[member], place_D):
        return colony
    moved_P = torch.arange(colony.loss.shape[0], device=colony.loss.device) == member
    position_PD = torch.where(moved_P.unsqueeze(1), place_D, colony.position)
    return foraging.forget(replace(colony, position=position_PD), moved_P)
