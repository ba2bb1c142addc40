"""What every optimizer of the family keeps and restores: parameters, colony, generator, `state_dict`.

No algorithm here; `bfo` and its subclasses decide what happens in a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from pytorch_bfo_optimizer import foraging
from pytorch_bfo_optimizer.errors import (
    BFOError,
    DeviceMismatchError,
    EmptyParametersError,
    HyperparameterError,
    ParameterError,
    StateMismatchError,
)
from pytorch_bfo_optimizer.flat import ParameterVector, refuse_unfit
from pytorch_bfo_optimizer.space import SearchSpace
from pytorch_bfo_optimizer.state import Colony, Hyperparameters, StepRecord, fitness_dtype, require_agreement

SHARED = ("loss", "known", "health", "scale")
"""Fields of `Colony` kept in the state of the first parameter; positions are kept by each parameter."""

COUNTERS = ("generation", "evaluations", "gradient_evaluations", "nonfinite_evaluations")


class ColonyOptimizer(Optimizer):
    """A `torch.optim.Optimizer` whose state is one colony over all its param groups.

    The state of each parameter holds its coordinates of the positions, `population` (P, *shape) in the dtype of the
    vector; what the members share is in the state of the first parameter. All of it is tensors and plain numbers,
    with the same keys from the start: `torch.load(weights_only=True)` and `torch.distributed.checkpoint` take it.
    """

    hyperparameters_type: ClassVar[type[Hyperparameters]] = Hyperparameters
    on_step: list[Callable[[StepRecord], None]]

    def __init__(
        self,
        params: ParamsT,
        defaults: dict[str, Any],
        *,
        generator: torch.Generator | None,
        device: torch.device | str | None,
    ) -> None:
        self.on_step = []
        self._vector: ParameterVector | None = None
        self._written_D: Tensor | None = None
        if not isinstance(params, Tensor):
            params = list(params)  # type: ignore[assignment]
            if not params:
                raise EmptyParametersError(
                    "no parameters were given: pass model.parameters(), or a list of tensors or groups"
                )
        super().__init__(params, defaults)
        found = self.vector.device
        if device is not None:
            wanted = torch.device(device)
            if not _same_device(wanted, found):
                raise DeviceMismatchError(
                    f"device is {str(wanted)!r} and the parameters are on {str(found)!r}: move the parameters first "
                    "(model.to(device)), or leave device out"
                )
        if generator is not None and not _same_device(generator.device, found):
            raise DeviceMismatchError(
                f"the generator is on {generator.device} and the parameters on {found}: make it with "
                f"torch.Generator({str(found)!r})"
            )
        self._generator = generator if generator is not None else _own_generator(found)

    @classmethod
    def _refuse_unknown(cls, extra: Mapping[str, Any]) -> None:
        known = cls.hyperparameters_type.__dataclass_fields__
        unknown = [name for name in extra if name not in known]
        if unknown:
            raise TypeError(
                f"{cls.__name__} has no argument {unknown[0]!r}; it has {', '.join(known)}, generator, device"
            )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group before the first step; see `torch.optim.Optimizer.add_param_group`.

        Raises:
            ParameterError: tensors that cannot join the vector, or a colony that already lives in another space.
            HyperparameterError: a setting out of range, or not agreeing with the other groups.
        """
        if "population" in self._colony_state():
            raise ParameterError(
                "the colony is alive: a new group would change the space it searches; add groups before the first "
                "step, or make a new optimizer"
            )
        if isinstance(param_group, dict) and not isinstance(param_group.get("params"), (Tensor, set)):
            param_group["params"] = list(param_group["params"])
            if not param_group["params"]:
                raise EmptyParametersError(f"param group {len(self.param_groups)} is empty: leave it out")
        super_params = param_group["params"] if isinstance(param_group, dict) else []
        tensors = (
            [super_params]
            if isinstance(super_params, Tensor)
            else [p[1] if isinstance(p, tuple) else p for p in super_params]
        )
        if all(isinstance(tensor, Tensor) for tensor in tensors):
            refuse_unfit([*self._all_params(), *tensors])
        super().add_param_group(param_group)
        self._vector = None
        try:
            self._hyperparameters()
        except BFOError:
            self.param_groups.pop()
            raise

    def _all_params(self) -> list[Tensor]:
        return [param for group in self.param_groups for param in group["params"]]

    @property
    def vector(self) -> ParameterVector:
        """The parameters of all groups as one vector."""
        params = self._all_params()
        if self._vector is None or not self._vector.matches(params):
            self._vector = ParameterVector(params)
        return self._vector

    @property
    def generator(self) -> torch.Generator:
        """The source of all randomness."""
        return self._generator

    def _space(self, groups: list[Hyperparameters]) -> SearchSpace:
        """The space as these settings shape it."""
        counts = [len(group["params"]) for group in self.param_groups]
        return SearchSpace(self.vector, groups, counts, self.generator)

    def _hyperparameters(self) -> list[Hyperparameters]:
        """The settings of each group, validated, as they are now."""
        groups = [self.hyperparameters_type.from_group(group) for group in self.param_groups]
        require_agreement(groups)
        return groups

    # --- the colony ---

    def _colony_state(self) -> dict[str, Any]:
        """The state of the first parameter; an empty dict, not kept, where there is none yet."""
        if not self.param_groups:
            return {}
        found: dict[str, Any] = self.state.get(self.param_groups[0]["params"][0], {})
        return found

    def _kept_state(self) -> dict[str, Any]:
        """The state of the first parameter, made if there is none."""
        kept: dict[str, Any] = self.state[self.param_groups[0]["params"][0]]
        return kept

    @property
    def initialised(self) -> bool:
        """Whether the colony lives."""
        return "population" in self._colony_state()

    def _stored(self) -> Colony:
        shared = self._colony_state()
        parts = [self.state[param]["population"] for param in self.vector.params]
        position_PD = torch.cat([part.reshape(part.shape[0], -1) for part in parts], dim=1)
        return Colony(position=position_PD, **{name: shared[name] for name in SHARED})

    def _keep(self, colony: Colony) -> None:
        for param, part in zip(self.vector.params, self.vector.split(colony.position), strict=True):
            self.state[param]["population"] = part
        self._kept_state().update({name: getattr(colony, name) for name in SHARED})

    def _counter(self, name: str) -> int:
        return int(self._colony_state().get(name, 0))

    def _bump(self, name: str, by: int) -> None:
        self._kept_state()[name] = self._counter(name) + by

    @torch.no_grad()
    def _colony_at_start(self, groups: list[Hyperparameters]) -> Colony:
        """Draw the first colony around the parameters, and keep it."""
        count, vector = groups[0].population_size, self.vector
        here_D, space = vector.read(), self._space(groups)
        position_PD = torch.cat([space.clamp(here_D).unsqueeze(0), space.scatter(here_D)[1:]])
        device, dtype = vector.device, fitness_dtype(vector.device)
        colony = Colony(
            position=position_PD,
            loss=torch.full((count,), math.inf, dtype=dtype, device=device),
            known=torch.zeros(count, dtype=torch.bool, device=vector.device),
            health=torch.zeros(count, dtype=dtype, device=device),
            scale=torch.ones(count, dtype=dtype, device=device),
        )
        self._keep(colony)
        for name in COUNTERS:
            self._bump(name, 0)
        self._kept_state().update(self._further_state(), rng_state=self.generator.get_state())
        self._written_D = here_D
        return colony

    def _further_state(self) -> dict[str, Any]:
        """What a subclass keeps beside the colony, as it is at the start."""
        return {}

    def _colony_now(self, groups: list[Hyperparameters]) -> Colony:
        """The colony for the next generation: begun if there is none, inside its bounds, stale losses dropped."""
        if not self.initialised:
            return self._colony_at_start(groups)
        colony = self._stored()
        if colony.position.shape[0] != groups[0].population_size:
            raise HyperparameterError(
                f"population_size is {groups[0].population_size} and the living colony has "
                f"{colony.position.shape[0]} members: it cannot change after the first step; make a new optimizer"
            )
        space = self._space(groups)
        inside_PD = space.clamp(colony.position)
        stale_P = (inside_PD != colony.position).any(dim=1)
        here_D = self.vector.read()
        if self._written_D is not None and not torch.equal(here_D, self._written_D):
            worst = int(torch.argmax(colony.loss))
            inside_PD[worst] = space.clamp(here_D)
            stale_P[worst] = True
        if groups[0].reevaluate:
            stale_P = torch.ones_like(stale_P)
        return foraging.forget(replace(colony, position=inside_PD), stale_P)

    def _write_best(self, colony: Colony) -> float:
        best = int(torch.argmin(colony.loss))
        self.vector.write_(colony.position[best])
        self._written_D = self.vector.read()
        return float(colony.loss[best])

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
        """The best loss known (with `reevaluate`: on the last step's loss), or None before the first."""
        if not self.initialised or not bool(self._stored().known.any()):
            return None
        return float(self._stored().loss.min())

    @property
    def best_params(self) -> list[Tensor]:
        """Copies of the best parameters, shaped like the parameters; before the first step, of those themselves."""
        if self.best_fitness is None:
            return self.vector.as_params(self.vector.read())
        colony = self._stored()
        return self.vector.as_params(colony.position[int(torch.argmin(colony.loss))])

    @property
    def population(self) -> Tensor:
        """A copy of all positions (P, D); draws the first colony if there is none yet."""
        if not self.initialised:
            self._colony_at_start(self._hyperparameters())
        return self._stored().position.clone()

    def diversity(self) -> float:
        """Mean Euclidean distance of the members from their centroid, in units of the parameters."""
        return float(foraging.diversity(self.population))

    # --- state ---

    def state_dict(self) -> dict[str, Any]:
        """Everything that a bitwise equal resume needs, the generator's state (uint8) included."""
        self._kept_state()["rng_state"] = self.generator.get_state()
        found: dict[str, Any] = super().state_dict()
        # torch hands out the live dicts; a copy stays the snapshot that goes with this generator state
        found["state"] = {key: dict(kept) for key, kept in found["state"].items()}
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a colony. torch casts state to the parameter's dtype; here every tensor keeps its own.

        Raises:
            StateMismatchError: the colony searches parameters of other shapes; nothing is changed then.
        """
        names = [name for group in state_dict["param_groups"] for name in group["params"]]
        saved = [state_dict["state"].get(name, {}) for name in names]
        self._refuse_other_colony(saved)
        super().load_state_dict(state_dict)
        for param, values in zip(self._all_params(), saved, strict=True):
            for key, value in values.items():
                if isinstance(value, Tensor):
                    device = torch.device("cpu") if key == "rng_state" else self.vector.device
                    self.state[param][key] = value.detach().to(device, copy=True)
        if "rng_state" in self._colony_state():
            self.generator.set_state(self._colony_state()["rng_state"])
        self._written_D = None

    def _refuse_other_colony(self, saved: list[dict[str, Any]]) -> None:
        states = [values["rng_state"] for values in saved if "rng_state" in values]
        if states and states[0].numel() != self.generator.get_state().numel():
            raise StateMismatchError(
                "the saved random state is of a generator on another kind of device than "
                f"{str(self.generator.device)!r}: load it into an optimizer whose parameters are on the device it was "
                "saved on"
            )
        shapes = [values["population"].shape[1:] for values in saved if "population" in values]
        if shapes and shapes != self.vector.shapes:
            raise StateMismatchError(
                f"the saved colony searches parameters of shapes {[tuple(shape) for shape in shapes]}, and these "
                f"have {[tuple(shape) for shape in self.vector.shapes]}: load it into an optimizer of the same "
                "model"
            )

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and deepcopy: the generator travels by its state; `on_step` hooks stay behind."""
        return {
            **super().__getstate__(),
            "_rng": (str(self.generator.device), self.generator.get_state()),
            "_written_D": self._written_D,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild what was left behind; torch calls this from `load_state_dict` too, with a part of the state."""
        state = dict(state)
        random = state.pop("_rng", None)
        self.__dict__.setdefault("on_step", [])
        self._vector = None
        super().__setstate__(state)
        if random is not None:
            self._generator = torch.Generator(random[0])
            self._generator.set_state(random[1])


def _own_generator(device: torch.device) -> torch.Generator:
    """A generator seeded by what torch's default one would draw next, without drawing from it."""
    peek = torch.Generator()
    peek.set_state(torch.get_rng_state())
    seed = int(torch.randint(2**62, (), generator=peek, device="cpu"))
    generator = torch.Generator(device)
    generator.manual_seed(seed)
    return generator


def _same_device(wanted: torch.device, found: torch.device) -> bool:
    """Whether `wanted`, which may leave the index open, is `found`."""
    return wanted.type == found.type and wanted.index in (None, found.index)
