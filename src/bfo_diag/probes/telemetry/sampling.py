"""Collects the gradients of a step: when its optimizers step, and of what is left when the step is over."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from bfo_diag.records import Case
from bfo_diag.variables import variables_of
from pytorch_bfo_optimizer import TelemetryError
from pytorch_bfo_optimizer.telemetry import GradientCollector, GradientStats
from pytorch_bfo_optimizer.telemetry.closures import FirstBackward


@dataclass(frozen=True)
class Source:
    """Whose gradients are measured together: the parameters of an optimizer, or what no optimizer held."""

    number: int
    of: str | None
    collector: GradientCollector
    shapes: tuple[tuple[int, ...], ...]


@dataclass
class Sample:
    """What one step showed so far; steps count from 1."""

    step: int
    measured: list[tuple[Source, GradientStats]] = field(default_factory=list)
    stepped: dict[int, torch.optim.Optimizer] = field(default_factory=dict)
    """The optimizers that stepped, by id."""
    collected: set[int] = field(default_factory=set)
    """The ids of the parameters that were measured."""
    closures: list[FirstBackward] = field(default_factory=list)
    hooks: dict[int, Any] = field(default_factory=dict)
    """The hook on each optimizer, by its id."""
    refused: TelemetryError | None = None
    """Why they can't be measured. (Raised inside the target's step, it would look like the target's own.)"""


class Sampler:
    """Knows the parameters of a case by name, and measures them in the steps that are sampled."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._names: dict[int, tuple[str, Tensor]] = {}
        self._sources: dict[tuple[int, ...], Source] = {}

    @contextmanager
    def sampling(self, step: int) -> Iterator[Sample]:
        """Measure what steps inside of the block."""
        sample = Sample(step)

        hook = register_optimizer_step_pre_hook(functools.partial(self._before, sample))
        try:
            yield sample
        finally:
            hook.remove()
            for on_one in sample.hooks.values():
                on_one.remove()
            for closures in sample.closures:
                closures.close()

    def _before(self, sample: Sample, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Look at an optimizer after all hooks of its own: one of them may bring the closure, as a Trainer's does."""
        if id(optimizer) not in sample.hooks:
            watch = functools.partial(self._steps, sample)
            sample.hooks[id(optimizer)] = optimizer.register_step_pre_hook(watch)

    def _steps(
        self, sample: Sample, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Collect what an optimizer is about to use, at its first step; what a closure makes, when it has made it."""
        if id(optimizer) in sample.stepped:
            return None
        sample.stepped[id(optimizer)] = optimizer
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        of = type(optimizer).__name__
        if any(argument is not None for argument in (*args[1:2], kwargs.get("closure"))):
            closures = FirstBackward(parameters, functools.partial(self._collect, sample, parameters, of))
            sample.closures.append(closures)
            return closures.wrapped(args, kwargs)
        # (GradScaler leaves the division to an optimizer that can do it while it steps.)
        self._collect(sample, parameters, of, scale=getattr(optimizer, "grad_scale", None))
        return None

    def finish(self, sample: Sample) -> None:
        """Collect what an optimizer used whose closure was not noticed, and then all that no optimizer held."""
        for optimizer in sample.stepped.values():
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            if not sample.collected.issuperset(map(id, parameters)):
                self._collect(sample, parameters, type(optimizer).__name__)
        left = [tensor for key, (_, tensor) in self.names().items() if key not in sample.collected]
        if any(tensor.requires_grad for tensor in left):
            self._collect(sample, left, None)

    def names(self) -> dict[int, tuple[str, Tensor]]:
        """Return the parameters that the case and its step can be seen to hold, by id, with their names."""
        if not self._names:
            for name, tensor in trainable(self._case):
                self._names.setdefault(id(tensor), (name, tensor))
        return self._names

    def _collect(
        self, sample: Sample, parameters: list[Tensor], of: str | None, *, scale: Tensor | None = None
    ) -> None:
        try:
            source = self._source(parameters, of)
            pending = source.collector.collect(sample.step, scale=scale)
            sample.measured.append((source, pending.materialize()))  # now: a fused step writes to the gradients
        except TelemetryError as error:
            sample.refused = error
        sample.collected.update(map(id, parameters))

    def _source(self, parameters: list[Tensor], of: str | None) -> Source:
        """Return who measures these parameters; the same as at the step before, unless they are new."""
        key = tuple(map(id, parameters))
        if key not in self._sources:
            known = self.names()
            named: dict[str, Tensor] = {}
            for index, parameter in enumerate(parameters):
                name = known.get(id(parameter), (f"{of}.{index}", parameter))[0]
                named[name if name not in named else f"{name}#{index}"] = parameter
            shapes = tuple(tuple(parameter.shape) for parameter in named.values())
            self._sources[key] = Source(len(self._sources), of, GradientCollector(named.items()), shapes)
        return self._sources[key]


def trainable(case: Case) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters of a case with their names: of its model, its own, and of what its step can reach."""
    model = case.model
    if isinstance(model, torch.nn.Module):
        yield from model.named_parameters()
    elif isinstance(model, Mapping):
        for name, module in model.items():
            yield from ((f"{name}.{inner}", tensor) for inner, tensor in module.named_parameters())
    yield from case.parameters.items()
    variables = dict(variables_of(case.step))
    modules = {name: value for name, value in variables.items() if isinstance(value, torch.nn.Module)}
    alone = len({id(module) for module in modules.values()}) == 1
    for name, module in modules.items():
        prefix = "" if alone else f"{name}."
        yield from ((prefix + inner, tensor) for inner, tensor in module.named_parameters())
    for name, value in variables.items():
        if isinstance(value, Tensor) and value.is_leaf and value.requires_grad:
            yield name, value
