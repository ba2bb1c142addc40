"""Runs each gradient mode against each scenario on real work, with our optimizer or somebody else's class."""

from __future__ import annotations

import contextlib
import functools
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bfo_diag.attempt import Attempt, Raised, attempt
from bfo_diag.cases import char_transformer, digits_mlp, rosenbrock
from bfo_diag.cases.optimizer_step import constructor_arguments
from bfo_diag.cases.workload import Workload
from bfo_diag.probes.gradients.scenarios import SCENARIOS, Arrangement, Scenario
from bfo_diag.records import Observation
from bfo_diag.shown import Progress
from bfo_diag.torch_state import default_device

WORKLOADS: dict[str, Callable[..., Workload]] = {
    module.NAME: module.workload for module in (digits_mlp, char_transformer, rosenbrock)
}
_HARD_LIMIT = 5
"""No step begins after --evaluations are used up; one that began is stopped at this many times as many."""


class BudgetSpent(BaseException):
    """A single step used up far more than the cell's evaluations.

    No `except Exception` of an optimizer's turns it into a bad candidate.
    """


@dataclass(frozen=True)
class Plan:
    """Which cells to run, and how long each may be."""

    modes: tuple[str, ...]
    scenarios: tuple[str, ...]
    steps: int
    evaluations: int
    device: str
    seed: int


def run(plan: Plan, optimizer_class: Any) -> Iterator[Observation | Progress]:
    """Yield one `cell` for each workload, scenario and mode; `optimizer_class` is a class or a partial of one."""
    arguments = constructor_arguments(optimizer_class)
    cls = optimizer_class.func if isinstance(optimizer_class, functools.partial) else optimizer_class
    ours = cls.__module__.partition(".")[0] == "pytorch_bfo_optimizer"
    yield Observation(
        "optimizer",
        {"class": f"{cls.__module__}.{cls.__qualname__}", "arguments": arguments, "ours": ours},
    )
    make = functools.partial(optimizer_class, **arguments)
    first = attempt(lambda: make([torch.zeros(2, requires_grad=True)]))
    if not first.ok:
        yield from first.observations("make")
        return
    yield Observation(
        "plan",
        {
            "workloads": list(WORKLOADS),
            "scenarios": list(plan.scenarios),
            "modes": list(plan.modes),
        },
    )
    done, total = 0, len(WORKLOADS) * len(plan.modes) * len(plan.scenarios)
    for workload in WORKLOADS.values():
        for scenario in plan.scenarios:
            for mode in plan.modes:
                yield Progress(done, total, f"{scenario}, {mode}")
                done += 1
                with _torch_as_new():
                    cell = _cell(plan, make, workload, SCENARIOS[scenario], mode, ours=ours)
                yield cell
                if cell.kind == "timed_out":
                    return


class _Counted:
    """The scenario's closures, counted, with a budget; and what they raised, whether or not it came out of step."""

    def __init__(self, arrangement: Arrangement, budget: int) -> None:
        self._arrangement = arrangement
        self._budget = budget
        self.optimizer: torch.optim.Optimizer | None = None
        self.calls = 0
        self.errors = 0
        self.first_error: str | None = None

    def closure(self) -> Tensor | float:
        """Be the closure as a user writes it."""
        return self._count(lambda: self._arrangement.closure(self._zero_grad))

    def evaluate(self) -> Tensor | float:
        """Be the closure without backward, for the dual mode."""
        return self._count(self._arrangement.evaluate)

    def _zero_grad(self) -> None:
        if self.optimizer is not None:
            self.optimizer.zero_grad()

    def _count(self, call: Callable[[], Tensor | float]) -> Tensor | float:
        if self.calls >= _HARD_LIMIT * self._budget:
            raise BudgetSpent
        self.calls += 1
        returned = False
        try:
            value = call()
            returned = True
        finally:
            error = None if returned else sys.exc_info()[1]
            if isinstance(error, Exception):
                self.errors += 1
                self.first_error = self.first_error or str(error)[:500]
        return value


def _measure(loss: Callable[[], Tensor]) -> float | None:
    """Return the loss at the present parameters, leaving .grad and grad mode alone; None where it is not finite."""
    with torch.no_grad():
        value = float(loss())
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class _State:
    """What a mode must leave as it found it."""

    requires_grad: tuple[bool, ...]
    grads: tuple[tuple[int, int] | None, ...]
    grad_mode: bool
    hooks: tuple[int, ...]

    @classmethod
    def of(cls, parameters: dict[str, Tensor]) -> _State:
        values = parameters.values()
        return cls(
            requires_grad=tuple(p.requires_grad for p in values),
            grads=tuple(None if p.grad is None else (id(p.grad), p.grad._version) for p in values),
            grad_mode=torch.is_grad_enabled(),
            hooks=tuple(len(p._backward_hooks or ()) for p in values),
        )

    def changed(self, before: _State, *, grads: bool) -> list[str]:
        names = ["requires_grad", "grad_mode", "hooks", *(["grads"] if grads else [])]
        return [name for name in names if getattr(self, name) != getattr(before, name)]


def _cell(
    plan: Plan,
    make: Callable[..., Any],
    workload: Callable[..., Workload],
    scenario: Scenario,
    mode: str,
    *,
    ours: bool,
) -> Observation:
    from pytorch_bfo_optimizer.gradient_modes import MODES

    torch.manual_seed(plan.seed)
    work = workload(device=plan.device, seed=plan.seed)
    arrangement = scenario.arrange(work)
    counted = _Counted(arrangement, plan.evaluations)
    changed: set[str] = set()
    began = time.perf_counter()
    loss_first = _measure(work.loss)
    curve: list[tuple[int, float | None]] = [(0, loss_first)]
    made = attempt(lambda: make(list(arrangement.parameters.values())))
    result: Attempt[Any] = made
    steps = 0
    spent = False
    if made.value is not None:
        counted.optimizer = made.value
        for steps in range(1, plan.steps + 1):
            arrangement.before_step(steps)
            before = _State.of(work.parameters)
            try:
                result = attempt(
                    lambda: MODES[mode].step(
                        made.value,
                        counted.evaluate if mode == "dual" else counted.closure,
                        counted.closure if mode == "dual" else None,
                    )
                )
            except BudgetSpent:
                spent = True
            curve.append((counted.calls, _measure(work.loss)))
            changed.update(_State.of(work.parameters).changed(before, grads=mode != "as-is"))
            if "grad_mode" in changed:
                torch.set_grad_enabled(True)
            if spent or not result.ok or counted.calls >= plan.evaluations:
                break
    if result.timed_out:
        return Observation("timed_out", {"phase": f"{work.name}, {scenario.name}, {mode}"})
    loss_last = _measure(work.loss)
    status, finding = _status(result, counted, loss_first, loss_last)
    raised = result.raised
    spot = raised.spot if raised is not None else None
    return Observation(
        "cell",
        {
            "workload": work.name,
            "scenario": scenario.name,
            "mode": mode,
            "status": status,
            "expected": _expected(scenario, mode, result, ours=ours),
            "finding": finding,
            "loss_first": loss_first,
            "loss_last": loss_last,
            "losses": curve,
            "evaluations": counted.calls,
            "steps": steps,
            "budget_spent": spent,
            "swallowed": 0 if raised is not None else counted.errors,
            "swallowed_message": None if raised is not None else counted.first_error,
            "error_type": raised.type if raised is not None else None,
            "error": raised.message if raised is not None else None,
            "decision": _decision(made.value),
            "state_changed": sorted(changed),
            "cell_ms": (time.perf_counter() - began) * 1e3,
        },
        spot.place() if spot is not None else None,
    )


def _decision(optimizer: Any) -> str | None:
    decision = getattr(optimizer, "gradient_decision", None)
    return None if decision is None else str(getattr(decision, "why", decision))


def _status(
    result: Attempt[Any], counted: _Counted, loss_first: float | None, loss_last: float | None
) -> tuple[str, str | None]:
    """Return the status of a cell, and the code of the finding where it is not trained."""
    raised = result.raised
    if raised is not None:
        if "element 0 of tensors does not require grad" in raised.message:
            return ("refused", "MODE-REFUSED") if _refused(raised) else ("failed", "MODE-ELEMENT-0")
        return ("refused", "MODE-REFUSED") if _refused(raised) else ("failed", "MODE-RAISED")
    if counted.errors:
        return "failed", "MODE-SWALLOWED"
    if loss_first is None or loss_last is None or not loss_last < loss_first:
        return "failed", "MODE-NOT-TRAINED"
    return "trained", None


def _refused(raised: Raised) -> bool:
    """Whether our library said by name that it will not, and why; a class of that name elsewhere does not count."""
    return raised.module == "pytorch_bfo_optimizer.errors" and raised.type != "NonFiniteGenerationError"


def _expected(scenario: Scenario, mode: str, result: Attempt[Any], *, ours: bool) -> str:
    """Return the status that a right optimizer has in this cell."""
    raised = result.raised
    if raised is not None and _refused(raised) and raised.type == "GradientModeUnsupportedError":
        return "refused"  # what an optimizer does not take can't be asked of it
    return scenario.expected(mode) if ours or scenario.name == "raises" else "trained"


@contextlib.contextmanager
def _torch_as_new() -> Iterator[None]:
    """Take back for a cell what the target's file set for all of torch: the built-in work must not feel it."""
    dtype, device, grad = torch.get_default_dtype(), default_device(), torch.is_grad_enabled()
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_grad_enabled(True)
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_default_device(None if device == torch.device("cpu") else device)
        torch.set_grad_enabled(grad)
