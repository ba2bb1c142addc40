"""What every optimizer of the family does in a step: it begins, is put back when it fails, counts, and reports.

No algorithm here: an optimizer says how its colony begins, is read back, and makes one generation. What is kept
between steps, and how, is in `persistence`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from pytorch_bfo_optimizer import foraging
from pytorch_bfo_optimizer.errors import ClosureRequiredError, HyperparameterError, NonFiniteGenerationError
from pytorch_bfo_optimizer.objective import Closure, Evaluator, MemberEvaluator, PopulationEvaluator, as_batched
from pytorch_bfo_optimizer.persistence import COUNTERS, ColonyKeeper
from pytorch_bfo_optimizer.sharing import Sharing
from pytorch_bfo_optimizer.state import (
    ColonyT,
    GenerationResult,
    HyperparametersT,
    MinimizeResult,
    StepRecord,
    fitness_dtype,
    require_count,
)


@dataclass(frozen=True)
class Plan(Generic[ColonyT]):
    """What a generation starts from: the colony, how it is evaluated, and which way is down, if known."""

    colony: ColonyT
    evaluator: Evaluator
    guide: Tensor | None = None
    """Unit descent direction (D,), or None."""
    guided: int = -1
    """The member that goes straight down `guide`."""
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    """What joins the optimizer's state if the generation succeeds."""


class ColonyOptimizer(ColonyKeeper[ColonyT, HyperparametersT]):
    """A population-based optimizer: one `step(closure)` makes one generation of its colony.

    A subclass names its `hyperparameters_type` and `colony_type`, and gives `_begin`, `_resume`, `_generation` and
    `_generation_cost`; where it wants to, also `_plan` and `_seasons`. It finds the best position it ever evaluated
    in `colony.best`: that is what the parameters hold after each step.
    """

    on_step: list[Callable[[StepRecord], None]]
    """Called after each step, in this order, when all of the step is kept. What a hook raises leaves `step`, later
    hooks are not called, and parameters, state and counts are those after the step. Hooks belong to this object: they
    are in no `state_dict`, and a copy, by pickle or `deepcopy`, has none."""
    _shard: Sharing | None
    """Spreads the evaluations over several processes; None: this one makes them all. Never copied or saved."""

    def __init__(
        self,
        params: ParamsT,
        defaults: dict[str, Any],
        *,
        generator: torch.Generator | None,
        device: torch.device | str | None,
    ) -> None:
        self.on_step = []
        self._shard = None
        super().__init__(params, defaults, generator=generator, device=device)

    # --- what a subclass is ---

    def _begin(self, groups: list[HyperparametersT], here_D: Tensor) -> ColonyT:
        """Draw the first colony around the parameters as they are."""
        raise NotImplementedError

    def _resume(self, colony: ColonyT, groups: list[HyperparametersT], moved_D: Tensor | None) -> ColonyT:
        """The colony for the next generation: inside its bounds, and stale losses forgotten.

        `moved_D` holds the parameters where they were changed from outside since the last step, and is None where
        they were not.
        """
        raise NotImplementedError

    def _generation(self, plan: Plan[ColonyT], groups: list[HyperparametersT]) -> GenerationResult[ColonyT]:
        """Draw the noise and make one generation; what `plan.evaluator` spends is counted by the caller."""
        raise NotImplementedError

    def _generation_cost(self) -> int:
        """Most evaluations that one generation may spend."""
        raise NotImplementedError

    def _plan(
        self, closure: Closure, colony: ColonyT, groups: list[HyperparametersT], grad_enabled: bool
    ) -> Plan[ColonyT]:
        """How this generation is evaluated. Gradient-free here; `HybridBFO` finds the way down first."""
        return Plan(colony, self._evaluator(closure, grad_enabled))

    def _seasons(self, result: GenerationResult[ColonyT], groups: list[HyperparametersT]) -> tuple[ColonyT, bool, int]:
        """What comes due between two generations: the colony then, whether it reproduced, how many dispersed."""
        return result.colony, False, 0

    def _account(
        self, plan: Plan[ColonyT], result: GenerationResult[ColonyT], groups: list[HyperparametersT]
    ) -> tuple[str, float | None, Tensor | None]:
        """What a `StepRecord` says of a generation just counted: `phase`, `step_size` and `losses`."""
        return "generation", None, None

    def _after_nothing_finite(self, colony: ColonyT, groups: list[HyperparametersT]) -> ColonyT | None:
        """The colony to go on with after a generation in which no loss was finite; None: that is an error."""
        return None

    def _further_state(self) -> dict[str, Any]:
        """What a subclass keeps beside the colony, as it is at the start."""
        return {}

    # --- steps ---

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], Any]) -> float: ...

    def step(self, closure: Callable[[], Any] | None = None) -> float | None:
        """Make one generation and write the best position into the parameters.

        Args:
            closure: returns the loss at the parameters as they stand; called in the caller's grad mode, as often as
                the class says at most. Or a `BatchedObjective`. Without one, a fresh optimizer only initialises its
                state (as `torch.distributed.checkpoint` asks) and returns None.

        Returns: the loss at the parameters, the best known.

        Raises:
            ClosureRequiredError: no closure, and the state is there already.
            NonFiniteGenerationError: no evaluation was finite; the parameters hold the best known position.
            LossTypeError: the closure returned something that is no loss.
            Exception: whatever the closure raises, unchanged; the parameters are put back, the colony too.
        """
        if closure is None:
            self._initialise_without_closure()
            return None
        return self._advance(closure)

    def minimize(self, closure: Closure, *, max_evaluations: int, target: float | None = None) -> MinimizeResult:
        """Make generation after generation until the next one might not fit into the budget.

        Args:
            closure: as for `step`.
            max_evaluations: never exceeded; must cover one generation.
            target: stop as soon as the best loss is at or below it.

        Raises:
            HyperparameterError: a budget below what one generation may cost.
        """
        self._require_budget(max_evaluations)
        start, generations = self.evaluations, 0
        why = "budget"
        while self.evaluations - start + self._generation_cost() <= max_evaluations:
            loss = self.step(closure)
            generations += 1
            if target is not None and loss <= target:
                why = "target"
                break
        best = self.best_fitness
        assert best is not None
        return MinimizeResult(best, self.best_params, self.evaluations - start, generations, why)

    def _require_budget(self, max_evaluations: int) -> None:
        require_count("max_evaluations", max_evaluations, least=1, mend="pass the number of evaluations to spend")
        if max_evaluations < self._generation_cost():
            raise HyperparameterError(
                f"max_evaluations is {max_evaluations}: one generation may cost {self._generation_cost()} "
                "evaluations; raise the budget or make the colony smaller"
            )

    def _initialise_without_closure(self) -> None:
        if self.initialised:
            raise ClosureRequiredError(
                f"{type(self).__name__}.step() needs a closure that returns the loss: step(closure); there is no "
                "gradient in `.grad` that it would use"
            )
        self._start(self._hyperparameters())

    @torch.no_grad()
    def _start(self, groups: list[HyperparametersT]) -> ColonyT:
        """Draw the first colony, and keep it."""
        here_D = self.vector.read()
        colony = self._begin(groups, here_D)
        self._keep(colony)
        for name in COUNTERS:
            self._bump(name, 0)
        self._kept_state().update(self._further_state(), rng_state=self.generator.get_state())
        self._written_D = here_D
        return colony

    def _colony_now(self, groups: list[HyperparametersT], here_D: Tensor) -> ColonyT:
        """The colony for the next generation, begun if there is none."""
        if not self.initialised:
            return self._start(groups)
        colony = self._stored()
        moved = self._written_D is not None and not torch.equal(here_D, self._written_D)
        return self._resume(colony, groups, here_D if moved else None)

    def _advance(self, closure: Closure) -> float:
        """Make one generation. What the closure raises leaves parameters, colony and generator as they were.

        A generation in which no loss was finite puts the parameters back too, and has used up its random numbers.
        """
        groups, vector, grad_enabled = self._hyperparameters(), self.vector, torch.is_grad_enabled()
        spent_before = self.evaluations, self.nonfinite_evaluations
        with torch.no_grad():
            here_D = vector.read()
            colony = self._colony_now(groups, here_D)
            random_before = self.generator.get_state()
            try:
                plan = self._plan(closure, colony, groups, grad_enabled)
                try:
                    result = self._generation(plan, groups)
                finally:
                    self._bump("evaluations", plan.evaluator.evaluations)
            except BaseException:
                vector.write_(here_D)
                self.generator.set_state(random_before)
                raise
            # where the shell waits for a generation on a GPU; the optimizer itself may have waited for its losses
            figures = torch.stack([result.finite_count, result.nonfinite_count, result.colony.best_loss]).tolist()
            finite_count, nonfinite_count, best_loss = int(figures[0]), int(figures[1]), figures[2]
            self._bump("nonfinite_evaluations", nonfinite_count)
            rescued = self._after_nothing_finite(colony, groups) if finite_count == 0 else None
            if finite_count == 0 and rescued is None:
                vector.write_(here_D)
                raise self._nonfinite_generation(nonfinite_count)
            self._bump("generation", 1)
            self._kept_state().update(plan.kept)
            colony, reproduced, dispersed = self._seasons(result, groups) if rescued is None else (rescued, False, 0)
            self._keep(colony)
            self._written_D = vector.write_(colony.best)
        if self.on_step:
            phase, step_size, losses = self._account(plan, result, groups)
            lowest = result.colony.best_loss if losses is None else losses.min()
            numbers = result.improved.sum(), lowest, foraging.diversity(colony.position)
            improved, loss, diversity = torch.stack([number.to(lowest.dtype) for number in numbers]).tolist()
            record = StepRecord(
                generation=self.generation,
                phase=phase,
                evaluations=self.evaluations - spent_before[0],
                evaluations_total=self.evaluations,
                loss=loss,
                best_loss=best_loss,
                losses=losses,
                nonfinite=nonfinite_count,
                nonfinite_total=self.nonfinite_evaluations,
                improved=int(improved),
                diversity=diversity,
                step_size=step_size,
                reproduced=reproduced,
                dispersed=dispersed,
                used_gradient=plan.guide is not None,
            )
            self._tell(record)
        return float(best_loss)

    def _tell(self, record: StepRecord) -> None:
        for hook in list(self.on_step):
            hook(record)

    def _nonfinite_generation(self, count: int) -> NonFiniteGenerationError:
        return NonFiniteGenerationError(
            f"all {count} losses evaluated in generation {self.generation + 1} were NaN or infinite; the parameters "
            "hold the best position known before. Start from a point with a finite loss, set bounds, or take smaller "
            "steps"
        )

    def _evaluator(
        self, closure: Closure, grad_enabled: bool, prefilled: Mapping[int, Tensor] | None = None
    ) -> Evaluator:
        """What evaluates a generation: member by member, or through a batched objective."""
        vector, batched = self._vector or self.vector, as_batched(closure)
        dtype = fitness_dtype(vector.device)
        evaluator: Evaluator
        if batched is None:
            evaluator = MemberEvaluator(closure, vector, dtype=dtype, grad_enabled=grad_enabled, prefilled=prefilled)
        else:
            chunk_size = self._hyperparameters()[0].chunk_size
            evaluator = PopulationEvaluator(batched, vector, dtype=dtype, prefilled=prefilled, chunk_size=chunk_size)
        return evaluator if self._shard is None else self._shard(evaluator)

    # --- what users read ---

    @property
    def generation(self) -> int:
        """Generations made so far."""
        return self._counter("generation")

    @property
    def evaluations(self) -> int:
        """Positions evaluated so far; with a batched objective each row of each call is one."""
        return self._counter("evaluations")

    @property
    def nonfinite_evaluations(self) -> int:
        """Evaluations so far whose loss was NaN or infinite."""
        return self._counter("nonfinite_evaluations")

    @property
    def best_fitness(self) -> float | None:
        """The best loss found (with `reevaluate`: on the last step's loss), or None before the first."""
        if not self.initialised:
            return None
        best_loss = float(self._colony_state()["best_loss"])
        return best_loss if best_loss < math.inf else None

    @property
    def best_params(self) -> list[Tensor]:
        """Copies of the best parameters, shaped like the parameters; before the first step, of those themselves."""
        return self.vector.as_params(self.vector.read() if self.best_fitness is None else self._stored().best)

    @property
    def population(self) -> Tensor:
        """A copy of all positions (P, D); draws the first colony if there is none yet."""
        if not self.initialised:
            self._start(self._hyperparameters())
        return self._stored().position.clone()

    def diversity(self) -> float:
        """Mean Euclidean distance of the members from their centroid, in units of the parameters."""
        return float(foraging.diversity(self.population))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild what was left behind; torch calls this from `load_state_dict` too, where it is still there."""
        self.__dict__.setdefault("on_step", [])
        self.__dict__.setdefault("_shard", None)
        super().__setstate__(state)
