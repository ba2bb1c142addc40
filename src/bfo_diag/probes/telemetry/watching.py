"""Runs the steps of a target, and yields of each step that is sampled what its gradients were."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from bfo_diag.attempt import Attempt, attempt
from bfo_diag.cases import char_transformer, digits_mlp
from bfo_diag.cases.optimizer_step import optimizer_case
from bfo_diag.errors import DiagError
from bfo_diag.losses import loss_in, number_of
from bfo_diag.probes import Request
from bfo_diag.probes.telemetry.live import Live
from bfo_diag.probes.telemetry.sampling import Sample, Sampler, Source
from bfo_diag.probes.telemetry.sinks import Sinks
from bfo_diag.records import Case, Observation, Place
from bfo_diag.shown import Progress
from bfo_diag.targets import Target, builtin_record
from pytorch_bfo_optimizer.telemetry import GradientStats

BUILTINS: Mapping[str, Callable[[str], Case]] = {
    digits_mlp.NAME: digits_mlp.train_step,
    char_transformer.NAME: char_transformer.train_step,
}


def run(request: Request, sinks: Sinks, *, steps: int, every: int) -> Iterator[Observation | Progress]:
    """Watch the target, or each built-in case."""
    if request.text is None:
        yield Observation("case", builtin_record(request.device, request.seed).to_json())
        for name, make in BUILTINS.items():
            torch.manual_seed(request.seed)
            for said in _Training(make(request.device), sinks, name=name).run(steps, every):
                yield said if isinstance(said, Progress) else _labelled(said, name)
        return
    target = request.load()
    yield Observation("case", target.record.to_json())
    made = attempt(functools.partial(_case_of, target))
    if made.value is None:
        yield from made.observations("make")
        return
    yield from _Training(made.value, sinks, target).run(steps, every)


def _case_of(target: Target) -> Case:
    # (Not `subject.fresh`: it imports torch's compiler, which takes longer than the steps.)
    if target.kind == "optimizer":
        return optimizer_case(target.value, device=target.device, seed=target.seed)
    return target.make()


def _labelled(observation: Observation, case: str) -> Observation:
    return Observation(observation.kind, {"case": case, **observation.values}, observation.place)


class _Training:
    """The steps of one case."""

    def __init__(self, case: Case, sinks: Sinks, target: Target | None = None, *, name: str = "") -> None:
        self._case, self._sinks, self._target, self._name = case, sinks, target, name
        self._sampler = Sampler(case)
        self._told: set[int] = set()
        self._runs_backward: bool | None = None
        self._live = Live()

    def run(self, steps: int, every: int) -> Iterator[Observation | Progress]:
        """Run the steps, and yield what is measured at the first of every `every`."""
        number = 0
        while number < steps:
            yield Progress(number, steps, f"step {number + 1}", table=self._live.table())
            call = functools.partial(self._case.step, *self._case.arguments(number))
            if number % every:
                result, sample, step_ms = attempt(call), None, 0.0
            else:
                with self._sampler.sampling(number + 1) as sample:
                    began = time.perf_counter()
                    result = attempt(call)
                    step_ms = (time.perf_counter() - began) * 1e3
            if number == 0 and result.ok and (remade := self._remade(result.value)) is not None:
                # The name was a factory: what it returned is the case, and its call was no step.
                self._case, self._sampler = remade, Sampler(remade)
                continue
            number += 1
            if sample is not None and result.ok:
                yield from self._measured(number, sample, result, step_ms)
            if not result.ok:
                yield from result.observations("step", step=number)
                return

    def _remade(self, returned: object) -> Case | None:
        return None if self._target is None else self._target.remade(self._case, returned)

    def _measured(self, number: int, sample: Sample, result: Attempt[Any], step_ms: float) -> Iterator[Observation]:
        """Yield the facts of a step that was sampled."""
        place = Place(step=number)
        added = self._backward(sample, result)
        self._sampler.finish(sample)
        if sample.refused is not None:
            raise DiagError(
                str(sample.refused), mend="name a step whose gradients lie whole in one process and have a norm"
            )
        yield Observation(
            "step",
            {
                "step_ms": step_ms,
                "loss": number_of(result.value),
                "optimizer_steps": len(sample.stepped),
                "backward_by": "bfo-diag" if added is not None else "target",
            },
            place,
        )
        for source, stats in sample.measured:
            if source.number not in self._told:
                self._told.add(source.number)
                yield _tensors(source)
            self._live.saw(number, stats)
            yield Observation("gradients", {"source": source.number, **_values(source, stats)}, place)
            self._sinks.take(self._label(source), stats)
        if added is not None and not added.ok:
            yield from added.observations("backward", step=number)
        elif added is not None:
            for _, tensor in self._sampler.names().values():
                tensor.grad = None

    def _label(self, source: Source) -> str:
        """Return what tells a source's samples from the others': the case, and its optimizer if it is not the first."""
        more = f"{source.of or 'rest'}-{source.number}" if source.number else ""
        return "/".join(part for part in (self._name, more) if part)

    def _backward(self, sample: Sample, result: Attempt[Any]) -> Attempt[Any] | None:
        """Go back from the loss of a step that only returns one; None where it went back itself."""
        loss = loss_in(result.value)
        if sample.stepped or loss is None or not loss.requires_grad or loss.is_complex() or self._runs_backward:
            return None
        if self._runs_backward is None:
            held = [tensor for _, tensor in self._sampler.names().values() if tensor.requires_grad]
            self._runs_backward = any(tensor.grad is not None for tensor in held)
            if self._runs_backward:
                return None
        return attempt(loss.sum().backward)


def _tensors(source: Source) -> Observation:
    return Observation(
        "tensors",
        {
            "source": source.number,
            "of": source.of,
            "names": list(source.collector.names),
            "shapes": [list(shape) for shape in source.shapes],
        },
    )


def _values(source: Source, stats: GradientStats) -> dict[str, Any]:
    """Return a sample for the log: what is of each tensor stands in the order of the source's names, null for none."""
    values: dict[str, Any] = dict(stats.to_dict())
    at = {name: index for index, name in enumerate(values.pop("names"))}
    for key in ("norms", "zero_shares"):
        if values[key] is not None:
            values[key] = [values[key][at[name]] if name in at else None for name in source.collector.names]
    for key in ("step", "groups", "ratio"):
        del values[key]
    return values
