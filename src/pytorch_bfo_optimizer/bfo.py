"""`BFO`: bacterial foraging (Passino 2002) as a `torch.optim.Optimizer`: state, and the order of calls.

The algorithm itself is in `foraging`; this shell reads the hyperparameters, draws the noise, keeps the colony in
`state`, and writes the best position into the parameters. What it keeps and restores is in `shell`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from pytorch_bfo_optimizer import foraging
from pytorch_bfo_optimizer.errors import ClosureRequiredError, HyperparameterError, NonFiniteGenerationError
from pytorch_bfo_optimizer.objective import Closure, Evaluator, MemberEvaluator, PopulationEvaluator, as_batched
from pytorch_bfo_optimizer.shell import ColonyOptimizer
from pytorch_bfo_optimizer.state import (
    Colony,
    GenerationResult,
    Hyperparameters,
    MinimizeResult,
    StepRecord,
    SwarmingParams,
    fitness_dtype,
    require_count,
)


@dataclass(frozen=True)
class Plan:
    """What a generation starts from: the colony, how it is evaluated, and which way is down, if known."""

    colony: Colony
    evaluator: Evaluator
    guide: Tensor | None = None
    """Unit descent direction (D,), or None."""
    guided: int = -1
    """The member that goes straight down `guide_D`."""
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    """What joins the optimizer's state if the generation succeeds."""


class BFO(ColonyOptimizer):
    """Bacterial foraging optimization; gradient-free.

    One `step(closure)` is one chemotactic generation (`foraging.generation`). Every `chem_steps` generations the
    colony reproduces; every `chem_steps * repro_steps` each member but the best is dispersed with probability
    `elim_prob`; after `elim_steps` of these a life cycle is over and the step size starts again at its maximum.

    Equations (symbols in `foraging`)::

        theta^i(j+1) = clamp(theta^i(j) + lr C(j) |v| phi(j))    kept if the loss falls
        phi          = Delta / |Delta|,  Delta ~ N(0, I)         tumble
        |v|          = sigma |x| / |y|^(1/levy_alpha)            Lévy flight (Mantegna 1994), 1 if levy_alpha is None
        C(j)         = step_size_max + (step_size_min - step_size_max) j / (life cycle - 1)

    The first member starts at the parameters as they are (clamped into `bounds`); the others uniformly in
    `bounds`, or, where there are none, `step_size_max * N(0, I) / sqrt(D)` away from it, a move of about
    `step_size_max` in length. Dispersed members are put down in the same way around the best position.
    Parameters that were changed from outside between two steps are taken up as a member in place of the worst.

    Groups may differ in `lr`, `step_size_max`, `step_size_min`, `levy_alpha` and `bounds`; one colony spans them
    all, so the rest must agree. Hyperparameters are read from `param_groups` at every step; only
    `population_size` cannot change once the colony lives.

    Args:
        params: parameters, named parameters, or groups; floating-point, dense, on one device.
        lr: factor on every move, float or one-element tensor; for schedulers.
        population_size: P, at least 1.
        chem_steps: generations between reproductions.
        swim_length: most swims after a tumble.
        repro_steps: reproductions between dispersals; 0 turns reproduction off.
        elim_steps: dispersals in a life cycle; 0 turns dispersal off.
        elim_prob: chance of a member to be dispersed; 0 turns dispersal off.
        step_size_max, step_size_min: length of a move at the start and the end of a life cycle, in units of the
            parameters (Euclidean, over all coordinates).
        levy_alpha: index of the Lévy law in (0, 2), or None for moves of one length.
        use_swarming: add the cell-to-cell signal to the loss when members compare positions.
        swarming_params: (d_attract, w_attract, h_repellant, w_repellant).
        bounds: (lowest, highest) of every coordinate; no position outside is ever evaluated.
        generator: the caller's source of all randomness, on the parameters' device. Without one, the optimizer
            makes its own, seeded by the value torch's default generator would draw next; nothing is drawn from
            it, so that optimizers built one after the other share their stream unless given generators.
        device: checked against the parameters; None accepts theirs.
        reevaluate: sense every member anew at each step, for a loss that changes (mini-batches). Otherwise a
            loss, once measured, is believed.

    Raises:
        HyperparameterError, ParameterError: here, or at a later step if `param_groups` was edited.
    """

    hyperparameters_type: ClassVar[type[Hyperparameters]] = Hyperparameters

    def __init__(
        self,
        params: ParamsT,
        *,
        lr: float | Tensor = 1.0,
        population_size: int = 50,
        chem_steps: int = 10,
        swim_length: int = 4,
        repro_steps: int = 4,
        elim_steps: int = 2,
        elim_prob: float = 0.25,
        step_size_max: float = 0.1,
        step_size_min: float = 0.01,
        levy_alpha: float | None = 1.5,
        use_swarming: bool = False,
        swarming_params: SwarmingParams = (0.2, 0.1, 0.2, 10.0),
        bounds: tuple[float, float] | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        reevaluate: bool = False,
        **extra: Any,
    ) -> None:
        self._refuse_unknown(extra)
        defaults = {
            "lr": lr,
            "population_size": population_size,
            "chem_steps": chem_steps,
            "swim_length": swim_length,
            "repro_steps": repro_steps,
            "elim_steps": elim_steps,
            "elim_prob": elim_prob,
            "step_size_max": step_size_max,
            "step_size_min": step_size_min,
            "levy_alpha": levy_alpha,
            "use_swarming": use_swarming,
            "swarming_params": swarming_params,
            "bounds": bounds,
            "reevaluate": reevaluate,
            **extra,
        }
        super().__init__(params, defaults, generator=generator, device=device)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], Any]) -> float: ...

    def step(self, closure: Callable[[], Any] | None = None) -> float | None:
        """Make one chemotactic generation and write the best position into the parameters.

        Args:
            closure: returns the loss at the parameters as they stand; called in the caller's grad mode, at most
                `population_size * (1 + swim_length)` times. Or a `BatchedObjective`. Without one, a fresh
                optimizer only initialises its state (as `torch.distributed.checkpoint` asks) and returns None.

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
        """Run life cycle after life cycle until the next generation might not fit into the budget.

        Args:
            closure: as for `step`.
            max_evaluations: never exceeded; must cover one generation.
            target: stop as soon as the best loss is at or below it.

        Raises:
            HyperparameterError: a budget below one generation, `population_size * (1 + swim_length)`.
        """
        require_count("max_evaluations", max_evaluations, least=1, mend="pass the number of evaluations to spend")
        start, generations = self.evaluations, 0
        if max_evaluations < self._generation_cost():
            raise HyperparameterError(
                f"max_evaluations is {max_evaluations}: one generation may cost {self._generation_cost()}, "
                "population_size * (1 + swim_length); raise the budget or make the colony smaller"
            )
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

    def _generation_cost(self) -> int:
        hyper = self._hyperparameters()[0]
        return hyper.population_size * (1 + hyper.swim_length)

    def _initialise_without_closure(self) -> None:
        if self.initialised:
            raise ClosureRequiredError(
                f"{type(self).__name__}.step() needs a closure that returns the loss: step(closure); there is no "
                "gradient in `.grad` that it would use"
            )
        self._colony_at_start(self._hyperparameters())

    def _advance(self, closure: Closure) -> float:
        """Make one generation. What the closure raises leaves parameters, colony and generator as they were.

        A generation in which no loss was finite puts the parameters back too, and has used up its random numbers.
        """
        groups = self._hyperparameters()
        grad_enabled = torch.is_grad_enabled()
        spent_before = self.evaluations, self.nonfinite_evaluations
        with torch.no_grad():
            colony = self._colony_now(groups)
            before_D, random_before = self.vector.read(), self.generator.get_state()
            try:
                plan = self._plan(closure, colony, groups, grad_enabled)
                result = self._generation(plan, groups)
            except BaseException:
                self.vector.write_(before_D)
                self.generator.set_state(random_before)
                raise
            self._bump("nonfinite_evaluations", int(result.nonfinite_count))
            if int(result.finite_count) == 0:
                self.vector.write_(before_D)
                raise NonFiniteGenerationError(
                    f"all {int(result.nonfinite_count)} losses evaluated in generation {self.generation + 1} were "
                    "NaN or infinite; the parameters hold the best position known before. Start from a point with "
                    "a finite loss, set bounds, or make step_size_max smaller"
                )
            self._bump("generation", 1)
            self._kept_state().update(plan.kept)
            colony, reproduced, dispersed = self._seasons(result, groups)
            self._keep(colony)
            best = self._write_best(colony)
        if self.on_step:
            self._report(colony, result, plan, spent_before, reproduced=reproduced, dispersed=dispersed, best=best)
        return best

    def _plan(self, closure: Closure, colony: Colony, groups: list[Hyperparameters], grad_enabled: bool) -> Plan:
        """How this generation is evaluated. Gradient-free here; `HybridBFO` finds the way down first."""
        return Plan(colony, self._evaluator(closure, grad_enabled))

    def _evaluator(self, closure: Closure, grad_enabled: bool, prefilled: dict[int, Tensor] | None = None) -> Evaluator:
        dtype = fitness_dtype(self.vector.device)
        batched = as_batched(closure)
        if batched is not None:
            return PopulationEvaluator(batched, self.vector, dtype=dtype, prefilled=prefilled)
        return MemberEvaluator(closure, self.vector, dtype=dtype, grad_enabled=grad_enabled, prefilled=prefilled)

    def _generation(self, plan: Plan, groups: list[Hyperparameters]) -> GenerationResult:
        """Draw the noise, make the moves, and count what they cost."""
        hyper = groups[0]
        lower, upper = self._space(groups).bounds()
        displacement_PD = self._displacement(plan, groups)
        try:
            return foraging.generation(
                plan.colony,
                displacement_PD,
                lower,
                upper,
                plan.evaluator,
                swim_length=hyper.swim_length,
                swarming=tuple(hyper.swarming_params) if hyper.use_swarming else None,  # type: ignore[arg-type]
            )
        finally:
            self._bump("evaluations", plan.evaluator.evaluations)

    def _displacement(self, plan: Plan, groups: list[Hyperparameters]) -> Tensor:
        """One move of each member, lr C |v| phi (P, D), in units of the parameters."""
        space = self._space(groups)
        direction_PD = self._directions(space.normal(self.vector.dimension), plan, groups)
        displacement_PD = self._step_length(plan.colony, groups) * direction_PD
        length = space.levy_length()
        if length is not None:
            # the member that goes straight down keeps the length of its step
            guided_P = torch.arange(space.population_size, device=length.device) == plan.guided
            displacement_PD = displacement_PD * torch.where(guided_P.unsqueeze(1), 1.0, length)
        return displacement_PD.to(self.vector.dtype)

    def _directions(self, noise_PD: Tensor, plan: Plan, groups: list[Hyperparameters]) -> Tensor:
        """Unit directions (P, D)."""
        return foraging.tumble(noise_PD)

    def _step_length(self, colony: Colony, groups: list[Hyperparameters]) -> Tensor:
        """The move lr C(j): (1,) or (D,), in units of the parameters."""
        return self._space(groups).per_coordinate([hyper.lr * hyper.step_size(self.generation) for hyper in groups])

    def _seasons(self, result: GenerationResult, groups: list[Hyperparameters]) -> tuple[Colony, bool, int]:
        """Reproduction and elimination-dispersal, as they come due by count."""
        hyper, colony = groups[0], result.colony
        reproduced = hyper.repro_steps > 0 and self.generation % hyper.chem_steps == 0
        if reproduced:
            colony = foraging.reproduce(colony)
        dispersed = 0
        if hyper.disperses and self.generation % (hyper.chem_steps * max(hyper.repro_steps, 1)) == 0:
            chosen_P = self._space(groups).uniform(1).squeeze(1) < hyper.elim_prob
            colony, dispersed = self._disperse(colony, chosen_P, groups)
        return colony, reproduced, dispersed

    def _disperse(self, colony: Colony, chosen_P: Tensor, groups: list[Hyperparameters]) -> tuple[Colony, int]:
        """Put the chosen members (never the best) down elsewhere, and say how many those were."""
        centre_D = colony.position[torch.argmin(colony.loss)]
        moved = foraging.disperse(colony, chosen_P, self._space(groups).scatter(centre_D))
        return moved, int((colony.known & ~moved.known).sum())

    def _report(
        self,
        colony: Colony,
        result: GenerationResult,
        plan: Plan,
        spent_before: tuple[int, int],
        *,
        reproduced: bool,
        dispersed: int,
        best: float,
    ) -> None:
        record = StepRecord(
            generation=self.generation,
            evaluations=self.evaluations - spent_before[0],
            evaluations_total=self.evaluations,
            best_loss=best,
            nonfinite=self.nonfinite_evaluations - spent_before[1],
            improved=int(result.improved.sum()),
            diversity=float(foraging.diversity(colony.position)),
            reproduced=reproduced,
            dispersed=dispersed,
            used_gradient=plan.guide is not None,
        )
        for hook in list(self.on_step):
            hook(record)
