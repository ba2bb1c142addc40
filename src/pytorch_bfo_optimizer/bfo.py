"""`BFO`: bacterial foraging (Passino 2002) as a `torch.optim.Optimizer`: its settings, and the order of calls.

The algorithm itself is in `foraging`; this shell draws the noise, and knows when reproduction and dispersal come due.
What a step does for every optimizer of the family is in `shell`, what is kept and restored in `persistence`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from pytorch_bfo_optimizer import foraging
from pytorch_bfo_optimizer.errors import HyperparameterError
from pytorch_bfo_optimizer.shell import ColonyOptimizer, Plan
from pytorch_bfo_optimizer.space import SearchSpace
from pytorch_bfo_optimizer.state import Colony, GenerationResult, Hyperparameters, SwarmingParams


class BFO(ColonyOptimizer[Colony, Hyperparameters]):
    """Bacterial foraging optimization (Passino 2002); gradient-free.

    One `step(closure)` is one chemotactic generation (`foraging.generation`) of at most
    `population_size * (1 + swim_length)` evaluations. Every `chem_steps` generations the healthier half of the
    colony splits and the other half dies; every `chem_steps * repro_steps` each member is dispersed with probability
    `elim_prob`; after `elim_steps` of these a life cycle is over.

    Moves, swims, health, reproduction and dispersal are the paper's; see `foraging` for what is not. Members leave
    good places, so the best position ever evaluated is kept apart, and that is what the parameters hold. Ours are
    also the Lévy flights, which are off by default, the step size that falls from `step_size_max` to
    `step_size_min` over a life cycle and then starts again (the paper's C is one number: set both to it), and how
    members are placed: the first starts at the parameters as they are (clamped into `bounds`), the others uniformly
    in `bounds`, or, where there are none, `step_size_max * N(0, I) / sqrt(D)` away from it, a move of about
    `step_size_max` in length. Dispersed members are put down in the same way around the best position.

    Equations (symbols in `foraging`)::

        theta^i(j+1) = clamp(theta^i(j) + lr C(j) |v| phi(j))    and again, up to N_s times, while the cost falls
        phi          = Delta / |Delta|,  Delta ~ N(0, I)         tumble
        |v|          = sigma |x| / |y|^(1/levy_alpha)            Lévy flight (Mantegna 1994), 1 if levy_alpha is None
        C(j)         = step_size_max + (step_size_min - step_size_max) j / (life cycle - 1)

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
        reevaluate: sense every member anew at each step, for a loss that changes (mini-batches); the best is then
            the best of one step. Otherwise a loss, once measured, is believed, and the best never gets worse.
        chunk_size: members that a batched objective evaluates at a time, to bound memory; None: all at once;
            "auto": as many as memory allows.

    Raises:
        HyperparameterError, ParameterError: here, or at a later step if `param_groups` was edited.
    """

    hyperparameters_type: ClassVar[type[Hyperparameters]] = Hyperparameters
    colony_type: ClassVar[type[Colony]] = Colony
    greedy: ClassVar[bool] = False
    """Whether a move that does not pay is taken back."""
    _confined_to: SearchSpace | None = None
    """The bounds that the stored colony is known to be in."""

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
        levy_alpha: float | None = None,
        use_swarming: bool = False,
        swarming_params: SwarmingParams = (0.2, 0.1, 0.2, 10.0),
        bounds: tuple[float, float] | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        reevaluate: bool = False,
        chunk_size: int | Literal["auto"] | None = "auto",
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
            "chunk_size": chunk_size,
            **extra,
        }
        super().__init__(params, defaults, generator=generator, device=device)

    def _generation_cost(self) -> int:
        hyper = self._hyperparameters()[0]
        return hyper.population_size * (1 + hyper.swim_length)

    def _begin(self, groups: list[Hyperparameters], here_D: Tensor) -> Colony:
        """The first member at the parameters, the others scattered."""
        space = self._space(groups)
        return Colony.fresh(torch.cat([space.clamp(here_D).unsqueeze(0), self._scatter(here_D, groups)[1:]]))

    def _resume(self, colony: Colony, groups: list[Hyperparameters], moved_D: Tensor | None) -> Colony:
        """Confined to its bounds as they are now; what was changed from outside takes the place of the worst."""
        if colony.position.shape[0] != groups[0].population_size:
            raise HyperparameterError(
                f"population_size is {groups[0].population_size} and the living colony has "
                f"{colony.position.shape[0]} members: it cannot change after the first step; make a new optimizer"
            )
        space = self._space(groups)
        if space.bounded and space is not self._confined_to:
            colony = foraging.confine(colony, *space.bounds)
        if moved_D is not None:
            colony = foraging.adopt(colony, space.clamp(moved_D))
        return foraging.forget_all(colony) if groups[0].reevaluate else colony

    def _scatter(self, centre_D: Tensor, groups: list[Hyperparameters]) -> Tensor:
        return self._space(groups).scatter(centre_D, [hyper.step_size_max for hyper in groups])

    def _generation(self, plan: Plan[Colony], groups: list[Hyperparameters]) -> GenerationResult[Colony]:
        """Draw the noise and make the moves."""
        hyper = groups[0]
        lower, upper = self._space(groups).bounds
        return foraging.generation(
            plan.colony,
            self._displacement(plan, groups),
            lower,
            upper,
            plan.evaluator,
            swim_length=hyper.swim_length,
            swarming=tuple(hyper.swarming_params) if hyper.use_swarming else None,  # type: ignore[arg-type]
            greedy=self.greedy,
        )

    def _displacement(self, plan: Plan[Colony], groups: list[Hyperparameters]) -> Tensor:
        """One move of each member, lr C |v| phi (P, D), in units of the parameters."""
        space = self._space(groups)
        direction_PD = self._directions(space.normal(self.vector.dimension), plan, groups)
        displacement_PD = self._step_length(plan.colony, groups) * direction_PD
        length = space.levy_length([hyper.levy_alpha for hyper in groups])
        if length is not None:
            # the member that goes straight down keeps the length of its step
            guided_P = torch.arange(space.population_size, device=length.device) == plan.guided
            displacement_PD = displacement_PD * torch.where(guided_P.unsqueeze(1), 1.0, length)
        return displacement_PD.to(self.vector.dtype)

    def _directions(self, noise_PD: Tensor, plan: Plan[Colony], groups: list[Hyperparameters]) -> Tensor:
        """Unit directions (P, D)."""
        return foraging.tumble(noise_PD)

    def _step_length(self, colony: Colony, groups: list[Hyperparameters]) -> Tensor:
        """The move lr C(j): (1,) or (D,), in units of the parameters."""
        return self._space(groups).per_coordinate([hyper.lr * hyper.step_size(self.generation) for hyper in groups])

    def _account(
        self, plan: Plan[Colony], result: GenerationResult[Colony], groups: list[Hyperparameters]
    ) -> tuple[str, float | None, Tensor | None]:
        hyper, made = groups[0], self.generation - 1
        return "generation", hyper.lr * hyper.step_size(made), result.colony.loss

    def _seasons(self, result: GenerationResult[Colony], groups: list[Hyperparameters]) -> tuple[Colony, bool, int]:
        """Reproduction and elimination-dispersal, as they come due by count; a greedy colony spares its best."""
        hyper, colony, space = groups[0], result.colony, self._space(groups)
        self._confined_to = space  # no move leaves the bounds; an edit of the groups makes another space
        reproduced = hyper.repro_steps > 0 and self.generation % hyper.chem_steps == 0
        if reproduced:
            colony = foraging.reproduce(colony, foraging.holds_best(colony) if self.greedy else None)
        dispersed = 0
        if hyper.disperses and self.generation % (hyper.chem_steps * max(hyper.repro_steps, 1)) == 0:
            chosen_P = space.uniform(1).squeeze(1) < hyper.elim_prob
            if self.greedy:
                chosen_P = chosen_P & ~foraging.holds_best(colony)
            colony, dispersed = self._disperse(colony, chosen_P, groups)
        return colony, reproduced, dispersed

    def _disperse(self, colony: Colony, chosen_P: Tensor, groups: list[Hyperparameters]) -> tuple[Colony, int]:
        """Put the chosen members down elsewhere, around the best position, and say how many those were."""
        return foraging.disperse(colony, chosen_P, self._scatter(colony.best, groups)), int(chosen_P.sum())
