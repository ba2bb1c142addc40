"""`BFOScheduler`: foraging hyperparameters that change from step to step, and two ready-made ways to change.

`lr` is not among them: every scheduler of `torch.optim.lr_scheduler` drives it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

from pytorch_bfo_optimizer.errors import HyperparameterError, StateMismatchError
from pytorch_bfo_optimizer.shell import ColonyOptimizer
from pytorch_bfo_optimizer.state import require_count, require_number

Schedule = Callable[[int], Any]
"""The value at a step, counted from 0: `schedule(step)`."""

_REFUSED = {
    "lr": "torch.optim.lr_scheduler is for it: LambdaLR, CosineAnnealingLR, ... take this optimizer",
    "population_size": "it cannot change once the colony lives; make a new optimizer",
}


@dataclass(frozen=True)
class LinearSchedule:
    """From `start` at step 0 to `end` at step `steps`, in a straight line, and `end` from there on."""

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            HyperparameterError: naming the field, its value and the mend.
        """
        for name in ("start", "end"):
            require_number(name, getattr(self, name), low=-math.inf, high=math.inf, mend="give both ends")
        require_count("steps", self.steps, least=1, mend="give the steps from start to end")

    def __call__(self, step: int) -> float:
        """The value at `step`, a float."""
        progress = min(step / self.steps, 1.0)
        return self.start * (1 - progress) + self.end * progress


@dataclass(frozen=True)
class CosineSchedule(LinearSchedule):
    """From `start` at step 0 to `end` at step `steps`, along half a cosine, and `end` from there on."""

    def __call__(self, step: int) -> float:
        """The value at `step`, a float."""
        remaining = (1 + math.cos(math.pi * min(step / self.steps, 1.0))) / 2
        return self.start * remaining + self.end * (1 - remaining)


class BFOScheduler:
    """Sets hyperparameters of `BFO`, `AdaptiveBFO` or `HybridBFO` to functions of the step count.

    ::

        scheduler = BFOScheduler(
            optimizer,
            elim_prob=LinearSchedule(0.25, 0.0, steps=500),
            swim_length=lambda step: 4 if step < 200 else 2,
        )
        for batch in batches:
            optimizer.step(closure_of(batch))
            scheduler.step()

    The values of step 0 are set at once, those of step n by the n-th call of `step`. A schedule gives the value itself,
    no factor, in the type that the optimizer wants: an integer for `swim_length` (`round(...)`). It is one function
    for all param groups, or a list of one for each where the optimizer lets them differ. With a `state_dict` of the
    optimizer save this one's, too.

    Raises:
        HyperparameterError: a name that is none of the optimizer's settings, `lr` or `population_size`, something that
            is no schedule; here and in `step`, a value that the optimizer refuses: nothing has changed then.
    """

    def __init__(self, optimizer: ColonyOptimizer[Any, Any], **schedules: Schedule | Sequence[Schedule]) -> None:
        if not isinstance(optimizer, ColonyOptimizer):
            raise HyperparameterError(
                f"BFOScheduler drives BFO, AdaptiveBFO and HybridBFO, and this is {type(optimizer).__name__}: give it "
                "the optimizer itself, without a wrapper around it"
            )
        self.optimizer = optimizer
        self.schedules: dict[str, Schedule | list[Schedule]] = {}
        for name, schedule in schedules.items():
            self._refuse_name(name)
            self.schedules[name] = self._checked(name, schedule)
        self.last_step = 0
        self._last_values = self._set(0)

    def step(self) -> None:
        """Set the values of the next step; call it after `optimizer.step`.

        Raises:
            HyperparameterError: the optimizer refuses a value; names it, and the step at which it came.
            Exception: whatever a schedule raises.
        """
        self._last_values = self._set(self.last_step + 1)
        self.last_step += 1

    def get_last_values(self) -> dict[str, list[Any]]:
        """The values that were set last: for each name one for each param group."""
        return {name: list(values) for name, values in self._last_values.items()}

    def state_dict(self) -> dict[str, Any]:
        """The step, and the attributes of schedules that are objects; functions are not saved, as in `LambdaLR`."""
        return {
            "last_step": self.last_step,
            "schedules": {name: [_saved(each) for each in _listed(found)] for name, found in self.schedules.items()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a `state_dict`, and set the values of its step.

        Raises:
            StateMismatchError: it is of a scheduler of other hyperparameters; nothing has changed.
            HyperparameterError: the optimizer refuses a value; nothing has changed.
        """
        saved = state_dict["schedules"]
        if {name: len(kept) for name, kept in saved.items()} != {
            name: len(_listed(found)) for name, found in self.schedules.items()
        }:
            raise StateMismatchError(
                f"the saved scheduler sets {', '.join(saved) or 'nothing'}, and this one "
                f"{', '.join(self.schedules) or 'nothing'}: make it with the same schedules, then load"
            )
        require_count("last_step", state_dict["last_step"], least=0, mend="it is that of a scheduler's state_dict")
        before = self.state_dict()
        self._restore(saved)
        try:
            self._last_values = self._set(state_dict["last_step"])
        except BaseException:
            self._restore(before["schedules"])
            raise
        self.last_step = state_dict["last_step"]

    def _restore(self, saved: dict[str, list[dict[str, Any] | None]]) -> None:
        for name, kept in saved.items():
            for schedule, attributes in zip(_listed(self.schedules[name]), kept, strict=True):
                if attributes is not None:
                    vars(schedule).update(attributes)

    def _refuse_name(self, name: str) -> None:
        known = [known for known in self.optimizer.hyperparameters_type.names() if known not in _REFUSED]
        if name in _REFUSED:
            raise HyperparameterError(f"{name} is not for a BFOScheduler: {_REFUSED[name]}")
        if name not in known:
            raise HyperparameterError(
                f"{type(self.optimizer).__name__} has no hyperparameter {name!r}; it has {', '.join(known)}"
            )

    def _checked(self, name: str, schedule: Schedule | Sequence[Schedule]) -> Schedule | list[Schedule]:
        """The schedule of one hyperparameter: a function, or a list of one for each group."""
        if callable(schedule):
            return schedule
        count = len(self.optimizer.param_groups)
        if not isinstance(schedule, (list, tuple)) or not all(callable(each) for each in schedule):
            raise HyperparameterError(
                f"the schedule of {name} is {schedule!r}: pass a function of the step count, or a list of one for "
                f"each param group (a number that stays is set in the optimizer: {name}=...)"
            )
        if len(schedule) != count:
            raise HyperparameterError(
                f"the schedule of {name} is a list of {len(schedule)}, and there are {count} param groups: pass one "
                "for each, or one function for all"
            )
        return list(schedule)

    def _set(self, step: int) -> dict[str, list[Any]]:
        """Write the values of a step into the groups, all or none."""
        groups = self.optimizer.param_groups
        values = {
            name: [_plain(found(step))] * len(groups) if callable(found) else [_plain(each(step)) for each in found]
            for name, found in self.schedules.items()
        }
        before = [{name: group[name] for name in values} for group in groups]
        try:
            for index, group in enumerate(groups):
                group.update({name: each[index] for name, each in values.items()})
            self.optimizer._hyperparameters()
        except BaseException as error:
            for group, kept in zip(groups, before, strict=True):
                group.update(kept)
            if isinstance(error, HyperparameterError):
                told = ", ".join(f"{name}={each[0] if len(each) == 1 else each}" for name, each in values.items())
                raise HyperparameterError(f"BFOScheduler at step {step} ({told}): {error}") from None
            raise
        return values


def _listed(found: Schedule | list[Schedule]) -> list[Schedule]:
    return [found] if callable(found) else found


def _plain(value: Any) -> Any:
    """A number of NumPy as Python's own, which `torch.load` reads with `weights_only=True`."""
    return value.item() if type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0 else value


def _saved(schedule: Schedule) -> dict[str, Any] | None:
    """The attributes of a schedule that is an object; None for a function."""
    if isinstance(schedule, (FunctionType, MethodType, BuiltinFunctionType)):
        return None
    return dict(getattr(schedule, "__dict__", {}))
