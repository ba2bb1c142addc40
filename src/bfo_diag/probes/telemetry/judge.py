"""From the gradients on record to findings: where they turn NaN, explode, vanish, die, or never come. No torch."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace

from bfo_diag.findings import catalogue
from bfo_diag.probes.telemetry.history import History, Sample, Tensor, histories
from bfo_diag.records import Finding, Place, Run

EXPLODING_NORM = 1e4
VANISHING_NORM = 1e-7
"""As in `pytorch_bfo_optimizer.telemetry`, which this module may not import (it needs torch); a test compares them."""
_LISTED = 6
_LINES = 8


def judge(run: Run) -> Iterator[Finding]:
    """Yield the findings of every case."""
    found = histories(run)
    for history in found:
        prefix = f"{history.case}: " if len(found) > 1 else ""
        for finding in (*_non_finite(history), *_exploding(history), *_vanishing(history), *_without(history)):
            yield replace(finding, message=prefix + finding.message)


def _non_finite(history: History) -> Iterator[Finding]:
    """Tell where NaN or Inf was first seen, and in how many samples; apart, what no optimizer used."""
    broken = [sample for sample in history.samples if _broken_names(sample)]
    skipped = [sample for sample in broken if history.steps_itself and not sample.stepped]
    used = [sample for sample in broken if sample not in skipped]
    entries = catalogue()
    if used:
        first = used[0]
        origin, count = _origin(history, first)
        others = len(_broken_names(first)) - 1
        message = f"{count} first seen at step {first.step} in {origin}"
        message += f", with {_count(others, 'other tensor')}" if others else ""
        message += f"; {_loss_then(history, first.step)}; in {_count(len(used), 'sample')} of {len(history.samples)}."
        place = Place(parameter=origin, step=first.step)
        lines = tuple(sample.line for sample in used[:_LINES])
        yield entries["TELEMETRY-NON-FINITE"].finding(message, place=place, evidence=lines)
    if skipped:
        message = (
            f"NaN or Inf in {_count(len(skipped), 'step')} that no optimizer took, the first at {skipped[0].step}."
        )
        lines = tuple(sample.line for sample in skipped[:_LINES])
        yield entries["TELEMETRY-SKIPPED"].finding(message, evidence=lines)


def _broken_names(sample: Sample) -> set[str]:
    values = sample.values
    return {*values.get("nan_counts", {}), *values.get("inf_counts", {}), *values.get("not_counted", [])}


def _origin(history: History, sample: Sample) -> tuple[str, str]:
    """Return the tensor in which it began, as far as order tells, and what it holds.

    A backward pass goes from the last layer to the first, and carries a NaN along: of the tensors that hold one, the
    last in the order of the model was the first to get it.
    """
    names = _broken_names(sample)
    origin = max(names, key=lambda name: history.tensors[name].place if name in history.tensors else -1)
    nan, inf = sample.values["nan_counts"].get(origin, 0), sample.values["inf_counts"].get(origin, 0)
    elements = 1
    for size in history.tensors[origin].shape if origin in history.tensors else ():
        elements *= size
    parts = [f"{nan} NaN"] if nan else []
    parts += [f"{inf} Inf"] if inf else []
    if not parts:
        return origin, "NaN or Inf (not counted: the gradient was changed before it could be)"
    return origin, f"{' and '.join(parts)} of {elements} elements"


def _loss_then(history: History, step: int) -> str:
    for _, at, loss in history.losses:
        if at == step:
            if loss is None:
                return "the step returned no loss"
            finite = abs(loss) < float("inf")
            began = "in the backward pass" if finite else "before the backward pass"
            return f"the loss was {loss:.4g}, so that it began {began}"
    return "the loss is not on record"


def _exploding(history: History) -> Iterator[Finding]:
    over = [
        (point.step, -tensor.place, tensor, point)
        for tensor in history.tensors.values()
        for point in tensor.points
        if point.norm is not None and point.finite and point.norm > EXPLODING_NORM
    ]
    if not over:
        return
    step, _, tensor, point = min(over, key=lambda item: item[:2])
    _, _, worst, worst_point = max(over, key=lambda item: item[3].norm or 0)
    names = list(dict.fromkeys(item[2].name for item in over))
    message = (
        f"the norm of {_names(names)} is above {EXPLODING_NORM:g}, first at step {step} in {tensor.name} "
        f"({point.norm:.3g}); the greatest is {worst_point.norm:.3g} in {worst.name} at step {worst_point.step}."
    )
    lines = tuple(dict.fromkeys((point.line, worst_point.line)))
    place = Place(parameter=tensor.name, step=step)
    yield catalogue()["TELEMETRY-EXPLODING"].finding(message, place=place, evidence=lines)


def _vanishing(history: History) -> Iterator[Finding]:
    """Tell from which layer on, counted from the loss back, the gradient has vanished."""
    small = [tensor for tensor in history.tensors.values() if _has_vanished(tensor)]
    if not small:
        return
    layers = list(dict.fromkeys(tensor.layer for tensor in history.tensors.values()))
    nearest = max(small, key=lambda tensor: tensor.place)
    weakest = min(small, key=_typical)
    strongest = max((t for t in history.tensors.values() if t.norms), key=_typical)
    message = (
        f"from {nearest.layer} on (layer {layers.index(nearest.layer) + 1} of {len(layers)}) towards the input, the "
        f"norm of {_names([tensor.name for tensor in small])} is below {VANISHING_NORM:g}: down to "
        f"{_typical(weakest):.2g} in {weakest.name}, where {strongest.name} has {_typical(strongest):.2g} (medians)."
    )
    lines = tuple(dict.fromkeys((*nearest.lines, *weakest.lines)))
    yield catalogue()["TELEMETRY-VANISHING"].finding(message, place=Place(parameter=nearest.name), evidence=lines)


def _has_vanished(tensor: Tensor) -> bool:
    """Whether the gradient is there, and too small in most samples; one that is always zero is dead instead."""
    norms = tensor.norms
    return bool(norms) and any(norms) and statistics.median(norms) < VANISHING_NORM


def _typical(tensor: Tensor) -> float:
    return statistics.median(tensor.norms)


def _without(history: History) -> Iterator[Finding]:
    """Tell which tensors got zeros alone, and which got nothing at all."""
    entries = catalogue()
    seen = [tensor for tensor in history.tensors.values() if tensor.points]
    dead = [tensor for tensor in seen if tensor.norms and not any(tensor.norms) and len(tensor.norms) == _got(tensor)]
    if dead:
        nearest = max(dead, key=lambda tensor: tensor.place)
        message = f"the gradient of {_names([tensor.name for tensor in dead])} was zero in "
        message += f"{_count(_got(nearest), 'sample')} of {len(history.steps)}"
        message += f"; {nearest.name} is nearest to the loss." if len(dead) > 1 else "."
        yield entries["TELEMETRY-DEAD"].finding(message, place=Place(parameter=nearest.name), evidence=nearest.lines)
    required = {name for sample in history.samples for name in sample.values.get("missing", [])}
    never = [tensor.name for tensor in seen if not _got(tensor) and tensor.name in required]
    if never:
        message = f"{_names(never)} got no gradient in any of {_count(len(history.steps), 'sample')}."
        place = Place(parameter=never[0])
        lines = history.tensors[never[0]].lines
        yield entries["TELEMETRY-NO-GRADIENT"].finding(message, place=place, evidence=lines)


def _got(tensor: Tensor) -> int:
    """Return in how many samples there was a gradient."""
    return sum(point.norm is not None for point in tensor.points)


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
