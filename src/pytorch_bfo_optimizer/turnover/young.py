"""Newborn neurons begin with a step of their own: with zero moments and the old count, Adam's first steps overshoot.

At step t the correction of moments that were zero is 1 / (1 - beta^t) = 1 in place of 1 / (1 - beta): the first update
is sqrt(1 - beta2)^-1 (1 - beta1) = 3.2 times lr, and the largest 6.55 times.
"""

from __future__ import annotations

import functools
import itertools
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from pytorch_bfo_optimizer.errors import TurnoverError
from pytorch_bfo_optimizer.step_hooks import calls_itself
from pytorch_bfo_optimizer.turnover.layers import Layer, Part
from pytorch_bfo_optimizer.turnover.optimizer_state import has_own_step
from pytorch_bfo_optimizer.turnover.rearrangement import Rearrangement

GROWN_UP = 1e-3
"""A cohort is given up when max(betas)^age is below: its corrections are then those of the others."""
MOST = 8
"""Cohorts of a layer, each of which costs a third of a millisecond a step on a CPU; of more, two become one."""


@dataclass
class Cohort:
    """Neurons of one layer that were born at the same step."""

    layer: Layer
    rows: Tensor
    """(K,) int64 on the CPU, ascending: where they are now."""
    counts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By the role of a part: their own state of 0 dimensions (`step`, `mu_product`); {} before their first step.

    A part that is not named goes by the optimizer's own step.
    """

    @property
    def age(self) -> float:
        """Steps since their birth; those that a part without a gradient did not make are not counted."""
        return max((float(own["step"]) for own in self.counts.values() if own), default=0.0)


@dataclass
class _Slice:
    """What a cohort has of one parameter, as it was before the optimizer's step."""

    cohort: Cohort
    part: Part
    group: dict[str, Any]
    value: Tensor
    state: dict[str, Any]
    count: Tensor
    """The optimizer's own, with the version that it had: a step that raised before it counted was none."""
    version: int


class YoungNeurons:
    """Makes the steps of newborn neurons, on an Adam, AdamW, NAdam, RAdam or Adamax; of others they need none.

    Before a step of the optimizer the slices of parameter, gradient and state are copied; after it, a second optimizer
    of the same class with the group's settings of the moment makes the step on the slices, from the cohort's own count,
    and the result is written over what the optimizer did to them. So the first steps of a newborn neuron are, bit for
    bit, those of a fresh optimizer. Where cohorts cross (a row of one layer is a column of another) the later born one
    counts, whose birth zeroed the moments there.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self.cohorts: list[Cohort] = []
        """In the order of their births."""
        self._slices: list[_Slice] = []
        self._is_paused = False
        self._hooks = []
        if has_own_step(optimizer):
            self._hooks = [
                optimizer.register_step_pre_hook(self._before),
                optimizer.register_step_post_hook(self._after),
            ]

    def moved(self, layer: Layer, arrangement: Rearrangement) -> None:
        """Follow what surgery did to a layer: rows move, the dead are left out, the newborn are a new cohort."""
        for cohort in self.cohorts:
            if cohort.layer.name == layer.name:
                cohort.rows = arrangement.moved(cohort.rows)
        newborn = arrangement.newborn.sort().values
        if self._hooks and len(newborn):
            # a parameter without state will make its first step itself
            counts: dict[str, dict[str, Any]] = {part.role: {} for part in layer.parts if self._state(part)}
            self.cohorts.append(Cohort(layer, newborn, counts))
            self._merge(layer.name)
        self._retire()

    def settle(self) -> None:
        """Finish the step that the optimizer has just made, if it was not yet."""
        slices = [taken for taken in self._slices if taken.count._version != taken.version]
        self._slices = []
        if not slices:
            return
        with torch.no_grad():
            for slice_, state in zip(slices, self._stepped(slices), strict=True):
                rows, dim = slice_.cohort.rows.to(slice_.value.device), slice_.part.dim
                slice_.part.tensor.index_copy_(dim, rows, slice_.value)
                kept = self._optimizer.state[slice_.part.tensor]
                for key, value in state.items():
                    if _has_rows(value):
                        kept[key].index_copy_(dim, rows, value)
                slice_.cohort.counts[slice_.part.role] = {
                    key: value for key, value in state.items() if not _has_rows(value)
                }
        self._retire()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let the optimizer step as if there were no young neurons."""
        before, self._is_paused = self._is_paused, True
        try:
            yield
        finally:
            self._is_paused = before

    def close(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self.cohorts.clear()
        self._slices.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return plain values and tensors, which `torch.load` takes with `weights_only=True`."""
        return {
            "cohorts": [
                {
                    "layer": cohort.layer.name,
                    "rows": cohort.rows.clone(),
                    "counts": {role: _copied(state) for role, state in cohort.counts.items()},
                }
                for cohort in self.cohorts
            ]
        }

    def load_state_dict(self, state: Mapping[str, Any], layers: Sequence[Layer]) -> None:
        """Go on from `state_dict`, with the layers that it names in their widths of that time.

        Raises:
            TurnoverError: a layer that is not among these, rows that it does not have, or an optimizer that has no
                young neurons.
        """
        if state["cohorts"] and not has_own_step(self._optimizer):
            raise TurnoverError(
                f"young neurons with steps of their own, which {type(self._optimizer).__name__} does not give them: "
                "load them with the optimizer that they were saved with"
            )
        known = {layer.name: layer for layer in layers}
        cohorts = []
        for saved in state["cohorts"]:
            layer = known.get(saved["layer"])
            if layer is None:
                raise TurnoverError(
                    f"young neurons of {saved['layer']!r}, which is not among {', '.join(known) or 'no layers'}: load "
                    "them into the model that they were saved with"
                )
            rows = saved["rows"].to("cpu", torch.int64)
            if len(rows) and int(rows.max()) >= layer.width:
                raise TurnoverError(
                    f"a young neuron in row {int(rows.max())} of {layer.name!r}, which has {layer.width}: first resize "
                    "the layer to the width that it was saved with"
                )
            counts = {role: _copied(own) for role, own in saved["counts"].items()}
            cohorts.append(Cohort(layer, rows.clone(), counts))
        self.cohorts = cohorts
        self._slices.clear()

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        if self._is_paused or not self.cohorts or calls_itself(optimizer):
            return None
        self._slices = []  # what a step that raised has left
        closure = next((argument for argument in (*args[1:2], kwargs.get("closure")) if argument is not None), None)
        if closure is None:
            self._take()
            return None
        closure = self._noticed(closure)
        return ((*args[:1], closure, *args[2:]), kwargs) if args[1:] else (args, {**kwargs, "closure": closure})

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not calls_itself(optimizer):
            self.settle()

    def _noticed(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """Return the closure, after which the gradients are those of the step."""

        @functools.wraps(closure)
        def noticed() -> Any:
            result = closure()
            self._take()
            return result

        return noticed

    @torch.no_grad()
    def _take(self) -> None:
        """Copy what each cohort has of each parameter that is about to step."""
        groups = {id(parameter): group for group in self._optimizer.param_groups for parameter in group["params"]}
        self._slices = []
        for cohort in self.cohorts:
            for part in cohort.layer.parts:
                tensor = part.tensor
                if part.role not in cohort.counts or tensor.grad is None or id(tensor) not in groups:
                    continue
                if not self._state(part):  # it was cleared: the optimizer begins anew, and all neurons with it
                    del cohort.counts[part.role]
                    continue
                rows = cohort.rows.to(tensor.device)
                value = tensor.index_select(part.dim, rows)
                value.grad = tensor.grad.index_select(part.dim, rows)
                state = self._own_state(cohort, part, rows)
                count = self._state(part)["step"]
                self._slices.append(_Slice(cohort, part, groups[id(tensor)], value, state, count, count._version))
        self._drop_empty()

    def _own_state(self, cohort: Cohort, part: Part, rows: Tensor) -> dict[str, Any]:
        """Return a copy of the slice's state; {} before its first step, which begins as a fresh optimizer does."""
        own = cohort.counts[part.role]
        if not own:
            return {}
        cut = {key: value.index_select(part.dim, rows) for key, value in self._state(part).items() if _has_rows(value)}
        return {**cut, **_copied(own)}

    def _stepped(self, slices: list[_Slice]) -> list[dict[str, Any]]:
        """Step each slice in place, as the optimizer does, and return its state after it."""
        sibling = object.__new__(type(self._optimizer))
        # A GradScaler leaves `grad_scale` and `found_inf` on a fused optimizer for the time of its step.
        sibling.__dict__.update(self._optimizer.__dict__)
        sibling._optimizer_step_pre_hooks = OrderedDict()
        sibling._optimizer_step_post_hooks = OrderedDict()
        groups = {id(slice_.group): {**slice_.group, "params": []} for slice_ in slices}
        for slice_ in slices:
            groups[id(slice_.group)]["params"].append(slice_.value)
        sibling.param_groups = list(groups.values())
        sibling.state = defaultdict(dict, {slice_.value: slice_.state for slice_ in slices})
        step = type(self._optimizer).step
        getattr(step, "__wrapped__", step)(sibling)  # without the hooks of all optimizers: it is no step of its own
        return [sibling.state[slice_.value] for slice_ in slices]

    def _state(self, part: Part) -> dict[str, Any]:
        state: dict[str, Any] = self._optimizer.state.get(part.tensor, {})
        return state

    def _retire(self) -> None:
        """Give up the counts that are as good as the optimizer's."""
        betas = {
            id(parameter): max(float(beta) for beta in group["betas"])
            for group in (self._optimizer.param_groups if self.cohorts else ())
            for parameter in group["params"]
        }
        for cohort in self.cohorts:
            for part in cohort.layer.parts:
                own = cohort.counts.get(part.role, {})
                if own and betas.get(id(part.tensor), 0.0) ** float(own["step"]) < GROWN_UP:
                    del cohort.counts[part.role]
        self._drop_empty()

    def _merge(self, name: str) -> None:
        """Make one of two cohorts of a layer where it has more than `MOST`."""
        own = [cohort for cohort in self.cohorts if cohort.layer.name == name and len(cohort.rows)]
        if len(own) <= MOST:
            return
        pairs = [
            (older, younger)
            for older, younger in itertools.pairwise(own)
            if older.counts.keys() == younger.counts.keys() and all(younger.counts.values())
        ]
        if not pairs:
            return
        older, younger = min(pairs, key=lambda pair: pair[0].age / pair[1].age)
        younger.rows = torch.cat([older.rows, younger.rows]).sort().values
        self.cohorts = [cohort for cohort in self.cohorts if cohort is not older]

    def _drop_empty(self) -> None:
        """Drop the cohorts of which nothing is left, neither rows nor counts of their own."""
        self.cohorts = [cohort for cohort in self.cohorts if len(cohort.rows) and cohort.counts]


def _has_rows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0


def _copied(state: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value.clone() if isinstance(value, Tensor) else value for key, value in state.items()}
