"""Runs a target's own training step under the trace, and yields what was seen of its gradients."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from bfo_diag.attempt import Attempt, attempt
from bfo_diag.losses import loss_in, number_of
from bfo_diag.probes.gradients.cuts import StepAnalysis, leaf_values
from bfo_diag.probes.gradients.naming import name_case
from bfo_diag.probes.gradients.trace import Trace
from bfo_diag.probes.gradients.values import data_pointer
from bfo_diag.records import Observation, Place
from bfo_diag.shown import Progress
from bfo_diag.targets import Target


def examine(trace: Trace, target: Target, *, steps: int) -> Iterator[Observation | Progress]:
    """Run `steps` steps of the target and yield the facts of each.

    The target was loaded inside `trace`, so that a `requires_grad = False` at import time is known with its place.
    """
    made = attempt(target.make)
    if made.value is None:
        yield from made.observations("make")
        return
    case = made.value
    reporter = _Reporter(trace)
    number = 0
    while number < steps:
        yield Progress(number, steps, f"step {number + 1}")
        name_case(trace, case)
        trace.begin_step()
        began = time.perf_counter()
        result = attempt(functools.partial(case.step, *case.arguments(number)))
        step_ms = (time.perf_counter() - began) * 1e3
        if number == 0 and result.ok and (remade := target.remade(case, result.value)) is not None:
            # The name was a factory: what it returned is the case, and its call was no step.
            case = remade
            continue
        number += 1
        # A gradient that was taken to be part of the loss (create_graph) is not the step's backward pass.
        backward_by = None if all(backward.create_graph for backward in trace.step.backwards) else "target"
        loss = loss_in(result.value)
        if result.ok and backward_by is None and loss is not None and loss.requires_grad and not loss.is_complex():
            backward = attempt(loss.sum().backward)
            backward_by = "bfo-diag"
            trace.closures.forget_backwards()
            if not backward.ok:
                result = replace(backward, value=None)
        name_case(trace, case)
        yield from reporter.step(number, result, step_ms=step_ms, backward_by=backward_by)
        if not result.ok:
            return


class _Reporter:
    """Yields the facts of each step; of a parameter only what is new, so that long runs keep small logs."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._last: dict[str, tuple[Any, ...]] = {}
        self._optimizers: list[dict[str, Any]] = []
        self._norms: list[float] = []

    def step(
        self, number: int, result: Attempt[Any], *, step_ms: float, backward_by: str | None
    ) -> Iterator[Observation]:
        trace = self._trace
        analysis = StepAnalysis(
            trace, returned=result.value, raised=result.raised is not None, timed_out=result.timed_out
        )
        backwards = trace.step.backwards
        yield Observation(
            "step",
            {
                "step_ms": step_ms,
                "operations": trace.step.operations,
                "backwards": sum(backward.finished for backward in backwards),
                "backward_by": backward_by,
                "loss": backwards[-1].loss if backwards else number_of(result.value),
                "returned": type(result.value).__name__,
                "judged": analysis.judged,
                "functional": trace.step.functional,
                "optimizer_steps": trace.step.optimizer_steps,
                "bare_steps": trace.closures.bare_steps,
                "idle_steps": trace.step.idle_steps,
                "scaled": trace.step.scaled,
                "gradients_dropped": trace.step.gradients_dropped,
                "moved": self._moved(),
                "cleared": [leaf.shown for leaf in trace.leaves.members(trace.step.cleared)],
            },
            Place(step=number),
        )
        for backward in backwards:
            if not backward.requires_grad:
                spot = backward.spot
                yield Observation(
                    "backward_without_graph",
                    {"loss": backward.loss},
                    spot.place(step=number) if spot else Place(step=number),
                )
        for cut in analysis.cuts:
            yield cut.observation(number)
        for closure_step in trace.closures.take():
            yield closure_step.observation(number)
        yield from self._new_optimizers()
        yield from self._parameters(number, analysis)
        zero = [leaf for leaf in trace.leaves.reported() if leaf.stats and leaf.stats.get("grad_norm") == 0.0]
        if zero:
            yield from analysis.zero_derivatives(zero)
        yield from result.observations("step", step=number)

    def _moved(self) -> bool | None:
        """Whether a parameter that an optimizer holds has changed since the last step; None if that was not looked at.

        It is looked at where no optimizer has stepped: something else may have moved them.
        """
        if self._trace.step.optimizer_steps:
            return None
        leaves = self._trace.leaves
        with torch._C.DisableTorchFunction():  # (under the trace, this would be a use of the parameters)
            held = [leaf.tensor.detach() for optimizer in leaves.optimizers for leaf in leaves.held_by(optimizer)]
            plain = [tensor for tensor in held if data_pointer(tensor) is not None and tensor.is_floating_point()]
            norms = [float(torch.linalg.vector_norm(tensor)) for tensor in plain]
        before, self._norms = self._norms, norms
        return norms != before if norms and before else None

    def _new_optimizers(self) -> Iterator[Observation]:
        for optimizer in self._trace.leaves.optimizers:
            groups = optimizer.param_groups
            values = {
                "class": f"{type(optimizer).__module__}.{type(optimizer).__qualname__}",
                "groups": len(groups),
                "parameters": sum(len(group["params"]) for group in groups),
            }
            if values not in self._optimizers:
                self._optimizers.append(values)
                yield Observation("optimizer", values)

    def _parameters(self, number: int, analysis: StepAnalysis) -> Iterator[Observation]:
        optimizers = self._trace.leaves.optimizers
        optimized = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
        for leaf in self._trace.leaves.reported():
            values = leaf_values(
                leaf,
                analysis.status[leaf.index],
                in_optimizer=id(leaf.tensor) in optimized if optimizers else None,
                left=analysis.left_torch(leaf),
            )
            key = _class_of(values)
            if self._last.get(leaf.shown) != key:
                self._last[leaf.shown] = key
                yield Observation("parameter", values, Place(parameter=leaf.shown, step=number))


def _class_of(values: dict[str, Any]) -> tuple[Any, ...]:
    norm = values.get("grad_norm")
    size = None if norm is None else "zero" if norm == 0 else f"{norm:.0e}"
    return (values["status"], size, values.get("nan_count"), values.get("inf_count"))
