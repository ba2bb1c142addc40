"""What of a target is compiled, and how it is called: the whole step, or the part of it that its framework compiles."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch._dynamo

from bfo_diag.attempt import call_through
from bfo_diag.cases.optimizer_step import optimizer_case
from bfo_diag.errors import TargetLoadError
from bfo_diag.inputs import StepInPart
from bfo_diag.records import Case
from bfo_diag.targets import Target


@dataclass
class Subject:
    """`function` is what torch.compile gets; `call(compiled, n)` makes call n (from 0) with it, backward included."""

    case: Case
    function: Callable[..., Any]

    def call(self, function: Callable[..., Any], number: int) -> Any:
        """Run call `number` through `function`: the function itself, or its compiled form."""
        if isinstance(self.case.step, StepInPart):
            return self.case.step.through(function)
        return call_through(function, self.case.arguments(number), {})

    def call_part(self, function: Callable[..., Any], number: int) -> Any:
        """Run call `number` without what can't be compiled with `function`: an optimizer that a framework steps."""
        if isinstance(self.case.step, StepInPart):
            return self.case.step.run_part(function)
        return self.call(function, number)

    def arguments(self, number: int) -> tuple[Any, ...]:
        """Return what `function` is called with."""
        if isinstance(self.case.step, StepInPart):
            return tuple(self.case.step.inputs)
        return self.case.arguments(number)

    @property
    def part(self) -> str | None:
        """What `function` is where it is a part of a framework's step, None where it is all that is examined."""
        return self.case.step.part_name or None if isinstance(self.case.step, StepInPart) else None

    @property
    def shapes_given(self) -> int:
        """How many different calls the target gives."""
        return max(1, len(self.case.calls))


def fresh(target: Target, *, factory: bool) -> Subject:
    """Return a subject that begins from the start, as far as the target can: a factory is called anew.

    Raises:
        TargetLoadError: the factory returned nothing that can be examined.
    """
    torch.manual_seed(target.seed)
    if target.kind == "optimizer":
        return _subject(optimizer_case(target.value, device=target.device, seed=target.seed))
    case = target.make()
    if factory:
        made = target.resolve(call_through(target.value, (), _of_the_run(target)))
        if made is None:
            raise TargetLoadError(f"{target.record.target} returned a case once, and something else at its next call")
        case = made
    return _subject(case)


def _of_the_run(target: Target) -> dict[str, Any]:
    """Return the device and seed of the run, where the factory has arguments of these names."""
    known = {"device": target.device, "seed": target.seed}
    try:
        taken = inspect.signature(target.value).parameters
    except (TypeError, ValueError):
        return {}
    return {name: value for name, value in known.items() if name in taken}


def _subject(case: Case) -> Subject:
    step = case.step
    return Subject(case, step.function if isinstance(step, StepInPart) else step)


def as_it_is(target: Target) -> tuple[Subject, bool]:
    """Make the first plain call, and return the subject and whether the target is a factory, which the call tells.

    Raises:
        TargetLoadError: inputs were given, and it is neither a module nor a factory of one.
    """
    subject = fresh(target, factory=False)
    if target.remade(subject.case, subject.call(subject.function, 0)) is None:
        return subject, False
    subject = fresh(target, factory=True)
    subject.call(subject.function, 0)
    return subject, True


def used_by(function: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    """Yield what a Python function names: its closure, its object, and the globals in its code."""
    function = inspect.unwrap(function)
    owner = getattr(function, "__self__", None)
    if owner is not None:
        yield "self", owner
    plain = getattr(function, "__func__", function)
    code = getattr(plain, "__code__", None)
    if code is None:
        return
    for name, cell in zip(code.co_freevars, plain.__closure__ or (), strict=False):
        try:
            yield name, cell.cell_contents
        except ValueError:
            continue
    for name in code.co_names:
        if name in plain.__globals__:
            yield name, plain.__globals__[name]


def compiled_names(case: Case) -> list[str]:
    """Return the names under which the step holds what went through torch.compile: modules and functions."""
    found: list[str] = []
    for name, thing in (("model", case.model), *used_by(case.step)):
        is_compiled = isinstance(thing, torch._dynamo.OptimizedModule) or hasattr(thing, "_torchdynamo_orig_callable")
        if is_compiled or getattr(thing, "_compiled_call_impl", None) is not None:
            found.append(name)
    return list(dict.fromkeys(found))
