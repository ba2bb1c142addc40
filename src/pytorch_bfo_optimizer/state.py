"""What a colony is made of: hyperparameters, tensors, and the record of one step. No algorithm lives here.

Every class is a frozen dataclass; each field says its shape, dtype and unit. Hyperparameters are validated
whenever they are built, and built anew whenever `param_groups` was edited, so an edit is checked like an argument.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from torch import Tensor

from pytorch_bfo_optimizer.errors import HyperparameterError

SwarmingParams = tuple[float, float, float, float]
"""(d_attract [loss], w_attract [1/unit^2], h_repellant [loss], w_repellant [1/unit^2])."""

HyperparametersT = TypeVar("HyperparametersT", bound="BaseHyperparameters")
ColonyT = TypeVar("ColonyT", bound="BaseColony")


def _refuse(name: str, value: object, must: str, mend: str) -> None:
    raise HyperparameterError(f"{name} is {value!r}: it must be {must}; {mend}")


def require_count(name: str, value: object, *, least: int, mend: str) -> None:
    """Raise unless `value` is an int (and no bool) of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        _refuse(name, value, f"an integer of at least {least}", mend)


def require_flag(name: str, value: object) -> None:
    """Raise unless `value` is True or False."""
    if not isinstance(value, bool):
        _refuse(name, value, "True or False", "pass a bool")


def require_number(
    name: str, value: object, *, low: float, high: float, mend: str, open_low: bool = False, open_high: bool = False
) -> None:
    """Raise unless `value` is a real number in the interval; NaN is in none."""
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    inside = real and (low < value if open_low else low <= value) and (value < high if open_high else value <= high)  # type: ignore[operator]
    if not inside or not math.isfinite(value):  # type: ignore[arg-type]
        span = f"{'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
        _refuse(name, value, f"a finite number in {span}", mend)


@dataclass(frozen=True)
class BaseHyperparameters:
    """The settings that every optimizer of the family has, of one param group.

    Those in `per_coordinate` hold for the coordinates of their group; everything else is shared by the colony and
    must agree over the groups.
    """

    lr: float
    """Factor on every move, dimensionless; for schedulers. May be a one-element tensor in the group."""
    population_size: int
    """P, members of the colony."""
    bounds: tuple[float, float] | None
    """(lowest, highest) value of every coordinate of the group; None: unbounded."""
    reevaluate: bool
    """Whether losses go stale from one step to the next: for a loss that changes (mini-batches)."""
    chunk_size: int | Literal["auto"] | None
    """Members that a batched objective evaluates at a time; None: all; "auto": as many as memory allows."""

    per_coordinate = frozenset({"lr", "bounds"})
    """Fields in which param groups may differ."""
    fewest_members = 1
    """Least population_size."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            HyperparameterError: naming the field, its value and the mend.
        """
        require_number(
            "lr", self.lr, low=0, high=math.inf, open_high=True, mend="1.0 leaves the step sizes as they are"
        )
        require_count("population_size", self.population_size, least=self.fewest_members, mend="20 to 100 is usual")
        require_flag("reevaluate", self.reevaluate)
        if self.chunk_size is not None and self.chunk_size != "auto":
            require_count("chunk_size", self.chunk_size, least=1, mend='"auto" is usual, None evaluates all at once')
        self._check_bounds()

    def _check_bounds(self) -> None:
        if self.bounds is None:
            return
        mend = "pass (lowest, highest), or None for no bounds"
        pair: object = self.bounds
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            _refuse("bounds", pair, "a pair of finite numbers", mend)
        low, high = self.bounds
        require_number("bounds[0]", low, low=-math.inf, high=math.inf, mend=mend)
        require_number("bounds[1]", high, low=low, high=math.inf, open_low=True, mend=mend)

    @classmethod
    @cache
    def names(cls) -> tuple[str, ...]:
        """The names of all settings."""
        return tuple(field.name for field in fields(cls))

    @classmethod
    def from_group(cls: type[HyperparametersT], group: Mapping[str, Any]) -> HyperparametersT:
        """Read one param group; keys that are no hyperparameter (`weight_decay`, `initial_lr`) are left alone."""
        missing = [name for name in cls.names() if name not in group]
        if missing:
            raise HyperparameterError(
                f"the param group lacks {', '.join(missing)}: was its state_dict saved by another class?"
            )
        values = {name: group[name] for name in cls.names()}
        lr = values["lr"]
        if isinstance(lr, Tensor):
            if lr.numel() != 1:
                _refuse("lr", lr, "a number or a one-element tensor", "pass lr=torch.tensor(1.0)")
            values["lr"] = float(lr)
        return cls(**values)


@dataclass(frozen=True)
class Hyperparameters(BaseHyperparameters):
    """The settings of `BFO` of one param group."""

    chem_steps: int
    """N_c, generations between two reproductions."""
    swim_length: int
    """N_s, most swims after a tumble."""
    repro_steps: int
    """N_re, reproductions between two elimination-dispersals; 0: no reproduction."""
    elim_steps: int
    """N_ed, elimination-dispersals in a life cycle; 0: none."""
    elim_prob: float
    """p_ed, chance of a member to be dispersed; 0: none."""
    step_size_max: float
    """C at the start of a life cycle, in units of the parameters."""
    step_size_min: float
    """C at its end; linear in between."""
    levy_alpha: float | None
    """Index of the Lévy law of move lengths, in (0, 2); None: every move has length C."""
    use_swarming: bool
    """Whether J_cc is added to the loss in comparisons between members."""
    swarming_params: SwarmingParams
    """(d_attract, w_attract, h_repellant, w_repellant)."""

    per_coordinate = BaseHyperparameters.per_coordinate | {"step_size_max", "step_size_min", "levy_alpha"}

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        require_count("chem_steps", self.chem_steps, least=1, mend="10 is usual")
        require_count("swim_length", self.swim_length, least=0, mend="4 is usual, 0 turns swimming off")
        require_count("repro_steps", self.repro_steps, least=0, mend="4 is usual, 0 turns reproduction off")
        require_count("elim_steps", self.elim_steps, least=0, mend="2 is usual, 0 turns dispersal off")
        require_number("elim_prob", self.elim_prob, low=0, high=1, mend="0.25 is usual, 0 turns dispersal off")
        require_number(
            "step_size_max",
            self.step_size_max,
            low=0,
            high=math.inf,
            open_low=True,
            open_high=True,
            mend="0.1 is usual",
        )
        require_number(
            "step_size_min", self.step_size_min, low=0, high=self.step_size_max, mend="it may not exceed step_size_max"
        )
        if self.levy_alpha is not None:
            require_number(
                "levy_alpha", self.levy_alpha, low=0.1, high=2, open_high=True, mend="1.5 is usual, None turns it off"
            )
        require_flag("use_swarming", self.use_swarming)
        self._check_swarming()
        if self.reevaluate and self.swim_length == 0:
            raise HyperparameterError(
                "reevaluate is True with swim_length 0: sensing takes the place of one swim, so no member could "
                "ever move; use swim_length >= 1, or reevaluate=False"
            )

    def _check_swarming(self) -> None:
        shape = "four finite numbers (d_attract, w_attract, h_repellant, w_repellant), none negative"
        params: object = self.swarming_params
        if not isinstance(params, Sequence) or isinstance(params, str) or len(params) != 4:
            _refuse("swarming_params", params, shape, "(0.2, 0.1, 0.2, 10.0) is usual")
        for value in self.swarming_params:
            require_number(
                "swarming_params", value, low=0, high=math.inf, open_high=True, mend="(0.2, 0.1, 0.2, 10.0) is usual"
            )

    @property
    def disperses(self) -> bool:
        """Whether elimination-dispersal happens at all."""
        return self.elim_steps > 0 and self.elim_prob > 0

    @property
    def life_cycle(self) -> int:
        """Generations in one life cycle, N_c N_re N_ed, where a part that is off counts once."""
        return self.chem_steps * max(self.repro_steps, 1) * max(self.elim_steps, 1)

    def step_size(self, generation: int) -> float:
        """C in this generation, lr excluded: linear from `step_size_max` to `step_size_min` over a life cycle."""
        progress = (generation % self.life_cycle) / max(self.life_cycle - 1, 1)
        return self.step_size_max + (self.step_size_min - self.step_size_max) * progress


def require_agreement(groups: Sequence[BaseHyperparameters]) -> None:
    """Raise unless the groups agree in everything the colony shares.

    Raises:
        HyperparameterError: naming the field, both values and both groups.
    """
    first = groups[0]
    for index, other in enumerate(groups[1:], start=1):
        for name in first.names():
            mine, theirs = getattr(first, name), getattr(other, name)
            if name not in first.per_coordinate and mine != theirs:
                raise HyperparameterError(
                    f"{name} is {mine!r} in group 0 and {theirs!r} in group {index}: one colony spans all "
                    "groups; give every group the same value, or use one optimizer per group"
                )


@dataclass(frozen=True)
class BaseColony:
    """What every optimizer of the family keeps from one step to the next; all fields are tensors.

    The fields in `split` end in D and are kept in pieces by each parameter, shaped like it; the others, which the
    members share, are kept in the state of the first parameter. Each goes by its own name.
    """

    position: Tensor
    """(P, D), dtype of the vector, in units of the parameters: where each member is."""
    best: Tensor
    """(D,), dtype of the vector, in units of the parameters: the best position evaluated."""
    best_loss: Tensor
    """0-dim, dtype of loss, in units of the loss: loss there; +inf before the first."""

    split: ClassVar[tuple[str, ...]] = ("position", "best")
    """Names of the fields that are kept by each parameter."""

    @classmethod
    @cache
    def names(cls) -> tuple[str, ...]:
        """The names of all fields."""
        return tuple(field.name for field in fields(cls))


@dataclass(frozen=True)
class Colony(BaseColony):
    """The state of P bacteria between generations."""

    loss: Tensor
    """(P,), float64 (float32 where the device has none): loss there; +inf where unknown or not finite."""
    known: Tensor
    """(P,), bool: whether the member has been evaluated where it stands."""
    health: Tensor
    """(P,), dtype of loss, in units of the loss: accumulated cost since the last reproduction; low is healthy;
    NaN where none has been accumulated yet."""

    @classmethod
    def fresh(cls, position_PD: Tensor) -> Colony:
        """Members that have not been evaluated anywhere yet."""
        count, device = position_PD.shape[0], position_PD.device
        dtype = fitness_dtype(device)
        return cls(
            position=position_PD,
            best=position_PD[0].clone(),
            best_loss=torch.full((), math.inf, dtype=dtype, device=device),
            loss=torch.full((count,), math.inf, dtype=dtype, device=device),
            known=torch.zeros(count, dtype=torch.bool, device=device),
            health=torch.full((count,), math.nan, dtype=dtype, device=device),
        )


@dataclass(frozen=True)
class GenerationResult(Generic[ColonyT]):
    """What one generation gives back."""

    colony: ColonyT
    improved: Tensor
    """(P,), bool: whether a move of the member found a lower cost than where it stood."""
    finite_count: Tensor
    """0-dim, dtype of loss: evaluations whose loss was finite."""
    nonfinite_count: Tensor
    """0-dim, dtype of loss: evaluations whose loss was NaN or infinite."""


@dataclass(frozen=True)
class StepRecord:
    """What one step did; given to every `on_step` hook.

    Records can be kept: none holds positions. Those are in `optimizer.population`.
    """

    generation: int
    """Number of this generation, from 1."""
    phase: str
    """How the step foraged. `generation`: of `BFO`, or of `HybridBFO` where no run leads on. Else of `HybridBFO`:
    `run`, the leading run went on; `stray`, a run that does not lead yet; `forage`, the members looked for a place to
    run from. Of `AdaptiveBFO` the season: `covariance`, `momentum` or `differential`."""
    evaluations: int
    """Evaluations spent in this step."""
    evaluations_total: int
    """Evaluations spent so far."""
    loss: float
    """Loss that this step came to, in units of the loss: the lowest of `losses`, or that of the run where it is now;
    +inf where none was finite. It is not `best_loss` where a generation finds nothing better, where a run strays, and
    in a momentum season on mini-batches, whose `best_loss` is that of the centre."""
    best_loss: float
    """Best loss known after the step, in units of the loss: what `step` returned, and what the parameters hold."""
    losses: Tensor | None = field(repr=False, compare=False)
    """(P,), dtype of loss, in units of the loss: of the members where this generation left them, before any of them
    died or was dispersed; +inf where not finite. None in a run: the members rest. It is no copy: read it, and leave it
    as it is."""
    nonfinite: int
    """Evaluations of this step whose loss was NaN or infinite."""
    nonfinite_total: int
    """Such evaluations so far."""
    improved: int
    """Members of which a move found a lower cost, of P; in a run 1 where it found a loss below the best, else 0."""
    diversity: float
    """Mean distance of the members from their centroid, in units of the parameters, after the step. A run is none of
    them: as long as it goes on they rest, and this stays as it is."""
    step_size: float | None
    """How far this step moved, in units of the parameters, in the first param group where groups differ: the length
    lr C of a generation's moves, without the factor of a Lévy flight; the length of a run's last move, or of the hops;
    sigma of an adaptive colony, a standard deviation of each coordinate. None where there is no such length: in a
    differential season, and where a run stood still."""
    reproduced: bool
    """Whether reproduction came due."""
    dispersed: int
    """Members put down elsewhere."""
    used_gradient: bool
    """Whether a gradient direction guided the moves."""

    def plain(self) -> dict[str, Any]:
        """Every field but `losses` by its name: numbers, bools, None and the word of the phase."""
        values = dict(self.__dict__)
        del values["losses"]
        return values


@dataclass(frozen=True)
class MinimizeResult:
    """How a call of `minimize` ended."""

    best_loss: float
    """Best loss found, in units of the loss."""
    best_params: list[Tensor]
    """Copies of the parameters there, shaped like the parameters."""
    evaluations: int
    """Evaluations this call spent; never more than it was given."""
    generations: int
    """Generations this call made."""
    why: str
    """`budget` or `target`: what ended it."""


def fitness_dtype(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device without it (Apple's MPS)."""
    return torch.float32 if device.type == "mps" else torch.float64
