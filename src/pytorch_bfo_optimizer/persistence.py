"""What every optimizer of the family keeps and restores: parameters, colony, generator, `state_dict`.

No algorithm and no step here: those are in `shell` and in the optimizers themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Any, ClassVar, Generic, cast

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from pytorch_bfo_optimizer.errors import (
    BFOError,
    DeviceMismatchError,
    EmptyParametersError,
    ParameterError,
    StateMismatchError,
)
from pytorch_bfo_optimizer.flat import ParameterVector, refuse_unfit
from pytorch_bfo_optimizer.space import SearchSpace
from pytorch_bfo_optimizer.state import (
    BaseColony,
    BaseHyperparameters,
    ColonyT,
    HyperparametersT,
    require_agreement,
)

COUNTERS = ("generation", "evaluations", "gradient_evaluations", "nonfinite_evaluations")

_PLAIN = {bool, int, float, str, tuple, type(None)}
"""Types whose values cannot change in place: only such settings can be told to be unchanged by a comparison."""


class ColonyKeeper(Optimizer, Generic[ColonyT, HyperparametersT]):
    """A `torch.optim.Optimizer` whose state is one colony over all its param groups.

    The state of each parameter holds its coordinates of what the colony's class says is `split`, `position`
    (P, *shape) and `best` (*shape), in the dtype of the vector; what the members share is in the state of the first
    parameter. All of it is tensors and plain numbers, with the same keys from the start: `torch.load` with
    `weights_only=True` and `torch.distributed.checkpoint` take it.
    """

    hyperparameters_type: ClassVar[type[BaseHyperparameters]]
    colony_type: ClassVar[type[BaseColony]]

    def __init__(
        self,
        params: ParamsT,
        defaults: dict[str, Any],
        *,
        generator: torch.Generator | None,
        device: torch.device | str | None,
    ) -> None:
        self._drop_caches()
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
        known = cls.hyperparameters_type.names()
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
        if self.initialised:
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
        self._drop_caches()
        try:
            self._hyperparameters()
        except BFOError:
            self.param_groups.pop()
            raise

    # --- what is read from the groups, kept until they are edited ---

    def _drop_caches(self) -> None:
        self._vector: ParameterVector | None = None
        self._groups: list[HyperparametersT] | None = None
        self._seen: list[Any] | None = None
        self._space_now: SearchSpace | None = None

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

    def _hyperparameters(self) -> list[HyperparametersT]:
        """The settings of each group as they are now, validated; the same list as long as no group is edited.

        It is asked for once a step, and so looks at the parameters of the groups too.
        """
        seen = self._values()
        if self._groups is None or seen is None or seen != self._seen:
            groups = [self.hyperparameters_type.from_group(group) for group in self.param_groups]
            require_agreement(groups)
            self._groups, self._seen = cast("list[HyperparametersT]", groups), seen
        return self._groups

    def _values(self) -> list[Any] | None:
        """What the settings are read from, with their types; None where it cannot be compared with what is later."""
        read = itemgetter(*self.hyperparameters_type.names())
        seen: list[Any] = [self.vector]
        for group in self.param_groups:
            try:
                values = read(group)
            except KeyError:
                return None
            types = tuple(map(type, values))
            if not _PLAIN.issuperset(types):
                return None
            seen += [values, types, len(group["params"])]
        return seen

    def _space(self, groups: list[HyperparametersT]) -> SearchSpace:
        """The space as these settings shape it."""
        if self._space_now is None or self._space_now.groups is not groups:
            counts = [len(group["params"]) for group in self.param_groups]
            self._space_now = SearchSpace(self.vector, groups, counts, self.generator)
        return self._space_now

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
        return "position" in self._colony_state()

    def _names(self, shared: Mapping[str, Any]) -> Iterable[str]:
        """What a colony consists of, given what its members share."""
        return self.colony_type.names()

    def _packed(self, colony: ColonyT) -> dict[str, Any]:
        """A colony as `_names` say."""
        return {name: getattr(colony, name) for name in self.colony_type.names()}

    def _unpacked(self, values: dict[str, Any]) -> ColonyT:
        """The inverse of `_packed`."""
        return cast("ColonyT", self.colony_type(**values))

    def _stored(self) -> ColonyT:
        shared, vector, split = self._colony_state(), self._vector or self.vector, self.colony_type.split
        states = [self.state[param] for param in vector.params]
        return self._unpacked(
            {
                name: vector.merge([state[name] for state in states]) if name in split else shared[name]
                for name in self._names(shared)
            }
        )

    def _keep(self, colony: ColonyT) -> None:
        vector, shared = self._vector or self.vector, self._kept_state()
        for name, value in self._packed(colony).items():
            if name in self.colony_type.split:
                for param, part in zip(vector.params, vector.split(value), strict=True):
                    self.state[param][name] = part
            else:
                shared[name] = value

    def _counter(self, name: str) -> int:
        return int(self._colony_state().get(name, 0))

    def _bump(self, name: str, by: int) -> None:
        kept = self._kept_state()
        kept[name] = kept.get(name, 0) + by

    # --- state ---

    def state_dict(self) -> dict[str, Any]:
        """Everything that a bitwise equal resume needs, the generator's state (uint8) included."""
        self._kept_state()["rng_state"] = self.generator.get_state()
        found: dict[str, Any] = super().state_dict()
        # torch hands out the live dicts; a copy stays the snapshot that goes with this generator state
        found["state"] = {
            key: {name: _apart(name, value) for name, value in kept.items()} for key, kept in found["state"].items()
        }
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a colony. torch casts state to the parameter's dtype; here every tensor keeps its own.

        Raises:
            StateMismatchError: the colony searches parameters of other shapes, or is another optimizer's; nothing
                is changed then.
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
        if not any("generation" in values for values in saved):
            return
        missing = [name for name in self._names(saved[0]) if name not in saved[0]]
        if missing:
            raise StateMismatchError(
                f"the saved colony has no {', '.join(missing)}, which {type(self).__name__} needs: it was saved by "
                "another class, or by an earlier version; load it there"
            )
        shapes = [values["position"].shape[1:] for values in saved if "position" in values]
        if shapes != self.vector.shapes:
            raise StateMismatchError(
                f"the saved colony searches parameters of shapes {[tuple(shape) for shape in shapes]}, and these "
                f"have {[tuple(shape) for shape in self.vector.shapes]}: load it into an optimizer of the same "
                "model"
            )

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and deepcopy: the generator travels by its state; what is attached stays behind."""
        return {
            **super().__getstate__(),
            "_rng": (str(self.generator.device), self.generator.get_state()),
            "_written_D": self._written_D,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild what was left behind; torch calls this from `load_state_dict` too, with a part of the state."""
        state = dict(state)
        random = state.pop("_rng", None)
        self._drop_caches()
        super().__setstate__(state)
        if random is not None:
            self._generator = torch.Generator(random[0])
            self._generator.set_state(random[1])


def _apart(name: str, value: Any) -> Any:
    """The value in memory of its own, as `torch.distributed.checkpoint` needs it, which reads a file into it in place.

    The members' positions share none with each other, and are left where they are; the rest is small beside them.
    """
    return value.clone() if isinstance(value, Tensor) and name not in ("position", "archive") else value


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
