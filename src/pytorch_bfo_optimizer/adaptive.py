"""`AdaptiveBFO`: a colony that learns how to tumble, and that changes its way of foraging with the season.

What it does in a season is in `seasons`, which season follows which in `succession`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import optimizer
from torch.optim.optimizer import ParamsT

from pytorch_bfo_optimizer import succession
from pytorch_bfo_optimizer.errors import HyperparameterError, NonFiniteGenerationError
from pytorch_bfo_optimizer.objective import Closure, Evaluator
from pytorch_bfo_optimizer.seasons import (
    COVARIANCE,
    DIFFERENTIAL,
    MOMENTUM,
    PART_NAMES,
    SEASONS,
    AdaptiveColony,
    Clock,
    confined,
    names_of,
    packed,
    unpacked,
)
from pytorch_bfo_optimizer.shell import ColonyOptimizer, Plan
from pytorch_bfo_optimizer.space import SearchSpace
from pytorch_bfo_optimizer.state import (
    GenerationResult,
    MinimizeResult,
    fitness_dtype,
)
from pytorch_bfo_optimizer.succession import AdaptiveHyperparameters, Outlook

PHASES = {COVARIANCE: "covariance", MOMENTUM: "momentum", DIFFERENTIAL: "differential"}
"""What a `StepRecord` calls the seasons."""


class AdaptiveBFO(ColonyOptimizer[AdaptiveColony, AdaptiveHyperparameters]):
    """A gradient-free optimizer that forages as the best known do; only the frame is the bacterium's.

    One `step(closure)` is one generation: the members are spread, sensed (P evaluations, no more), and learnt from.
    In up to 64 coordinates three seasons take turns:

    1. a *covariance drift* (`covariance`): the colony drifts along the ranked mean of its tumbles and learns
       step size and shape of the tumbles that paid, until the losses stand still;
    2. *differential tumbles* (`differential`) of a dispersed colony that shrinks, over half of what is left of the
       budget: for landscapes with many basins, in which single coordinates or differences count;
    3. *dispersal*: covariance drifts from random places, each with twice as many members, until the budget is spent.

    In more, a *momentum drift* (`momentum`) with antithetic tumbles, whose step size falls to a twentieth over the
    horizon, and at plateaus of the mean loss.

    `minimize` knows its budget. For a loop of your own give `horizon`; without one, seasons 1 and 2 take turns, each
    time longer, and the momentum drift shrinks its steps at plateaus alone.

    The parameters hold the best position evaluated; with `reevaluate`, for mini-batches, the best of the last
    generation, or the centre of the momentum drift, and differential tumbles, which compare old losses, are left
    out. Parameters that were changed from outside between two steps are where the next season begins.

    Args:
        params: parameters, named parameters, or groups; floating-point, dense, on one device.
        lr: share of each move that is made, float or one-element tensor; for schedulers.
        population_size: P, at least 4. None: 4 + 3 ln D members in a covariance drift, doubled by each dispersal,
            up to 18 D differential tumblers, as many as the budget feeds, and 4 ln D members in a momentum drift,
            whose members come in pairs: of an odd number one is left out.
        step_size: sigma at the start, per coordinate, in units of the parameters. None: 0.3 of the bounds' width,
            0.1 without bounds.
        bounds: (lowest, highest) of every coordinate; no position outside is ever evaluated.
        horizon: evaluations that the colony can count on over its life, for a loop that calls `step`.
        generator, device, reevaluate, chunk_size: as for `BFO`.

    Groups may differ in `lr`, `step_size` and `bounds`. What `state_dict` holds, and in what shapes, changes with the
    season: `torch.distributed.checkpoint.load` reads it into a fresh optimizer in the first season alone; from a later
    one, `dcp_to_torch_save` makes a file for `torch.load`.

    Raises:
        HyperparameterError, ParameterError: here, or at a later step if `param_groups` was edited.
    """

    hyperparameters_type = AdaptiveHyperparameters
    colony_type = AdaptiveColony

    def __init__(
        self,
        params: ParamsT,
        *,
        lr: float | Tensor = 1.0,
        population_size: int | None = None,
        step_size: float | None = None,
        bounds: tuple[float, float] | None = None,
        horizon: int | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        reevaluate: bool = False,
        chunk_size: int | Literal["auto"] | None = "auto",
        **extra: Any,
    ) -> None:
        self._refuse_unknown(extra)
        if population_size == 0:
            raise HyperparameterError("population_size is 0: pass at least 4, or None for as many as D calls for")
        defaults = {
            "lr": lr,
            "population_size": population_size if population_size is not None else 0,
            "bounds": bounds,
            "reevaluate": reevaluate,
            "chunk_size": chunk_size,
            "step_size": step_size,
            "horizon": horizon,
        }
        self._end: int | None = None
        self._active: Tensor | None = None
        self._confined_to: SearchSpace | None = None
        super().__init__(params, defaults, generator=generator, device=device)

    def minimize(self, closure: Closure, *, max_evaluations: int, target: float | None = None) -> MinimizeResult:
        """See `BFO.minimize`; the seasons are planned for this budget.

        Where nobody looks on (no `on_step`, no hooks on `step`, no scheduler), the colony is kept in hand: parameters
        and state are written when the call returns or raises, as they are after the last generation that was complete.
        """
        self._require_budget(max_evaluations)
        self._end = self.evaluations + max_evaluations
        try:
            if self._watched() or self._hyperparameters()[0].reevaluate:
                return super().minimize(closure, max_evaluations=max_evaluations, target=target)
            return self._minimize_in_hand(closure, max_evaluations, target)
        finally:
            self._end = None

    def _watched(self) -> bool:
        hooks = optimizer._global_optimizer_pre_hooks or optimizer._global_optimizer_post_hooks
        own = self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks
        # schedulers put a step of theirs on the instance; under `distribute` each step is told to the other ranks
        return bool(self.on_step or hooks or own or "step" in vars(self) or self._shard is not None)

    def _minimize_in_hand(self, closure: Closure, max_evaluations: int, target: float | None) -> MinimizeResult:
        """Generation after generation without the writing and reading of state between two steps."""
        groups, grad_enabled, vector = self._hyperparameters(), torch.is_grad_enabled(), self.vector
        with torch.no_grad():
            here_D = vector.read()
            colony = self._colony_now(groups, here_D)
            evaluator = self._evaluator(closure, grad_enabled)
            kept, spent_before, generations, why = self._kept_state(), self.evaluations, 0, "budget"
            random_before = self.generator.get_state()
            try:
                while evaluator.evaluations + self._members(colony) <= max_evaluations:
                    random_before = self.generator.get_state()
                    try:
                        after, losses = self._forage(colony, evaluator, groups)
                    finally:
                        kept["evaluations"] = spent_before + evaluator.evaluations
                    nonfinite = len(losses) - sum(map(math.isfinite, losses))
                    kept["nonfinite_evaluations"] += nonfinite
                    if nonfinite < len(losses):
                        colony = self._turned(after, groups)
                    elif (rescued := self._after_nothing_finite(colony, groups)) is not None:
                        colony = rescued
                    else:
                        raise self._nonfinite_generation(nonfinite)
                    kept["generation"] += 1
                    generations += 1
                    if target is not None and colony.clock.record <= target:
                        why = "target"
                        break
            except BaseException as error:
                if not isinstance(error, NonFiniteGenerationError):
                    self.generator.set_state(random_before)
                raise
            finally:
                self._keep(colony)
                self._written_D = vector.write_(colony.best if colony.clock.record < math.inf else here_D)
        return MinimizeResult(colony.clock.record, self.best_params, self.evaluations - spent_before, generations, why)

    def _after_nothing_finite(
        self, colony: AdaptiveColony, groups: list[AdaptiveHyperparameters]
    ) -> AdaptiveColony | None:
        """Back to the best place known, where it was the colony itself that went where no loss is finite."""
        clock = colony.clock
        if clock.record == math.inf or (clock.season != DIFFERENTIAL and clock.cycle == 0):
            return None
        return succession.drifting(colony, self._outlook(groups), colony.best, cycle=0)

    # --- generations ---

    def _begin(self, groups: list[AdaptiveHyperparameters], here_D: Tensor) -> AdaptiveColony:
        space = self._space(groups)
        inside_D = space.clamp(here_D)
        unknown = torch.full((), math.inf, dtype=fitness_dtype(inside_D.device), device=inside_D.device)
        nothing = Clock(season=COVARIANCE, members=0)
        colony = AdaptiveColony(inside_D.unsqueeze(0), inside_D, unknown, unknown.unsqueeze(0), None, nothing)
        return succession.drifting(colony, self._outlook(groups), inside_D, cycle=0)

    def _resume(
        self, colony: AdaptiveColony, groups: list[AdaptiveHyperparameters], moved_D: Tensor | None
    ) -> AdaptiveColony:
        space = self._space(groups)
        if space.bounded and space is not self._confined_to:
            colony = confined(colony, space)
        if groups[0].reevaluate or moved_D is not None:
            unknown, clock = torch.full_like(colony.best_loss, math.inf), colony.clock._replace(record=math.inf)
            colony = replace(colony, best_loss=unknown, clock=clock)
        if moved_D is not None:
            place_D = space.clamp(moved_D)
            colony = succession.drifting(colony, self._outlook(groups), place_D, cycle=colony.clock.cycle)
        return colony

    def _packed(self, colony: AdaptiveColony) -> dict[str, Any]:
        return packed(colony)

    def _unpacked(self, values: dict[str, Any]) -> AdaptiveColony:
        return unpacked(values)

    def _names(self, shared: Mapping[str, Any]) -> Iterable[str]:
        return names_of(shared)

    def _keep(self, colony: AdaptiveColony) -> None:
        super()._keep(colony)
        self._confined_to = self._space_now
        stale = PART_NAMES.difference(self._packed(colony))
        for param in self.vector.params:
            for name in stale:
                self.state[param].pop(name, None)

    def _generation_cost(self) -> int:
        groups = self._hyperparameters()
        if not self.initialised:
            return succession.drifters(self._outlook(groups), cycle=0)
        colony = self._stored()
        if self._written_D is not None and not torch.equal(self.vector.read(), self._written_D):
            # changed from outside: a new drift begins there
            return succession.drifters(self._outlook(groups), cycle=colony.clock.cycle)
        return self._members(colony)

    def _members(self, colony: AdaptiveColony) -> int:
        """P of the next generation."""
        return colony.position.shape[0] if colony.clock.season == DIFFERENTIAL else colony.clock.members

    def _generation(
        self, plan: Plan[AdaptiveColony], groups: list[AdaptiveHyperparameters]
    ) -> GenerationResult[AdaptiveColony]:
        """Spread, sense, learn; then look at the losses, which is where the host waits for the device."""
        colony, losses = self._forage(plan.colony, plan.evaluator, groups)
        finite = sum(map(math.isfinite, losses))
        counts = colony.best_loss.new_tensor([finite, len(losses) - finite])
        improved_P = colony.best_loss.new_tensor(losses) < plan.colony.clock.record
        return GenerationResult(colony, improved_P, counts[0], counts[1])

    def _account(
        self,
        plan: Plan[AdaptiveColony],
        result: GenerationResult[AdaptiveColony],
        groups: list[AdaptiveHyperparameters],
    ) -> tuple[str, float | None, Tensor | None]:
        season, drift = plan.colony.clock.season, plan.colony.part
        return PHASES[season], None if season == DIFFERENTIAL else float(drift.scale), result.colony.loss

    def _forage(
        self, colony: AdaptiveColony, evaluator: Evaluator, groups: list[AdaptiveHyperparameters]
    ) -> tuple[AdaptiveColony, list[float]]:
        """The colony a generation later, and the losses it found. One host synchronisation, at the end."""
        clock, space = colony.clock, self._space(groups)
        season, lr = SEASONS[clock.season], self._share(groups, space)
        spread = season.spread(colony.part, clock, space, colony.position, lr)
        found_P = evaluator(spread.position, self._everyone(spread.position))
        found_P = torch.nan_to_num(found_P, nan=math.inf, posinf=math.inf, neginf=math.inf)
        part, position_PD, loss_P = season.learn(spread, clock, found_P, lr)
        losses: list[float] = found_P.tolist()
        lowest = min(losses)
        if groups[0].reevaluate and clock.season == MOMENTUM and losses[0] < math.inf:
            lowest = losses[0]  # the centre is what training is for
        best_D, best_loss = colony.best, colony.best_loss
        record = clock.record
        if lowest < record:
            at, record = losses.index(lowest), lowest
            best_D, best_loss = spread.position[at].clone(), found_P[at]
        seen = succession.told(clock, losses, space.vector.dtype)
        clock = clock._replace(age=clock.age + 1, spent=clock.spent + len(losses), record=record, **seen)
        return AdaptiveColony(position_PD, best_D, best_loss, loss_P, part, clock), losses

    def _everyone(self, position_PD: Tensor) -> Tensor:
        """All members are active (P,)."""
        if self._active is None or self._active.shape[0] != position_PD.shape[0]:
            self._active = torch.ones(position_PD.shape[0], dtype=torch.bool, device=position_PD.device)
        return self._active

    def _share(self, groups: list[AdaptiveHyperparameters], space: SearchSpace) -> Tensor | None:
        """`lr` of each coordinate, (1,) or (D,); None where it is 1."""
        if all(group.lr == 1.0 for group in groups):
            return None
        return space.per_coordinate([group.lr for group in groups])

    # --- which season follows which ---

    def _outlook(self, groups: list[AdaptiveHyperparameters]) -> Outlook:
        """What the next season is planned by."""
        horizon, spent = self._end if self._end is not None else groups[0].horizon, self.evaluations
        return Outlook(self._space(groups), groups, spent, None if horizon is None else max(horizon - spent, 0))

    def _turned(self, colony: AdaptiveColony, groups: list[AdaptiveHyperparameters]) -> AdaptiveColony:
        """The colony for the next generation: slower, or in another season, as the losses and the budget say."""
        if colony.clock.season == MOMENTUM:
            return succession.slowed(colony, self._outlook(groups))
        if succession.is_over(colony, (self._vector or self.vector).dtype):
            return succession.next_season(colony, self._outlook(groups))
        return colony

    def _seasons(
        self, result: GenerationResult[AdaptiveColony], groups: list[AdaptiveHyperparameters]
    ) -> tuple[AdaptiveColony, bool, int]:
        colony = self._turned(result.colony, groups)
        turned = colony.clock.age == 0
        return colony, turned and colony.clock.season == DIFFERENTIAL, colony.clock.members if turned else 0

    def __setstate__(self, state: dict[str, Any]) -> None:
        """See `ColonyOptimizer`; outside of `minimize` nothing but the settings says when the budget ends."""
        self.__dict__.setdefault("_end", None)
        self.__dict__.setdefault("_active", None)
        self._confined_to = None
        super().__setstate__(state)
