"""From the record of a gradients run to findings and the summary. Reads the record alone: no torch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from bfo_diag.findings import catalogue
from bfo_diag.probes.gradients import closure_judge, matrix_judge, update_judge
from bfo_diag.records import Finding, JSONValue, Observation, Place, Run, Severity

EXPLODING_NORM = 1e4
"""A parameter's gradient norm (ord 2) above this is a finding."""
VANISHING_NORM = 1e-7
"""A parameter's gradient norm (ord 2) below this, and not zero, is a finding."""
_LISTED = 6
_MAY_BE_INTENDED = ("GRAD-UNUSED", "GRAD-DROPPED", "GRAD-UNKNOWN")
"""Where no optimizer holds the parameter, these are notes."""


@dataclass
class History:
    """What the record says of one parameter over the steps; `last` is its newest line."""

    name: str
    last: dict[str, Any] = field(default_factory=dict)
    lines: list[int] = field(default_factory=list)
    by_status: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    norms: list[tuple[int, float]] = field(default_factory=list)
    non_finite: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def has_gradient(self) -> bool:
        """Whether it got a gradient in any step."""
        return bool(self.by_status.get("gradient"))


def histories(run: Run) -> dict[str, History]:
    """Gather the `parameter` lines by name, in the order of their first line."""
    found: dict[str, History] = {}
    for number, observation in run.of_kind("parameter"):
        name = (observation.place.parameter if observation.place else None) or "?"
        history = found.setdefault(name, History(name))
        values = observation.values
        history.last = dict(values)
        history.lines.append(number)
        history.by_status[str(values.get("status"))].append(number)
        if values.get("grad_norm") is not None:
            history.norms.append((number, float(values["grad_norm"])))
        if values.get("nan_count") or values.get("inf_count"):
            history.non_finite.append((number, values["nan_count"], values["inf_count"]))
    return found


def names(parameters: Iterable[str]) -> str:
    """Return a list of names for a sentence, cut off after a few."""
    given = list(parameters)
    shown = ", ".join(given[:_LISTED])
    return shown if len(given) <= _LISTED else f"{shown} and {len(given) - _LISTED} more"


def _place_of(text: str | None, parameter: str | None = None) -> Place | None:
    if not text:
        return Place(parameter=parameter) if parameter else None
    file, _, line = text.rpartition(":")
    return Place(file=file, line=int(line), parameter=parameter)


def judge(run: Run) -> Iterator[Finding]:
    """Yield what the record says of gradients: cuts first, then what has none, then gradients that can't train."""
    yield from matrix_judge.judge(run)
    found = histories(run)
    wanted = not closure_judge.takes_no_gradient(run)
    without = {name: history for name, history in found.items() if wanted and not history.has_gradient}
    yield from _cuts(run, found, without)
    yield from _intermittent(run, found)
    yield from _no_operation_to_blame(run, found, without)
    yield from _of_the_steps(run, gradient_wanted=wanted)
    yield from closure_judge.judge(run)
    yield from update_judge.judge(run)
    yield from _gradients(run, found)


def _of_the_steps(run: Run, *, gradient_wanted: bool) -> Iterator[Finding]:
    """Yield what is wrong with a step as a whole."""
    steps = list(run.of_kind("step"))
    alone = [number for number, o in steps if o.values.get("backward_by") == "bfo-diag"]
    stepped = [number for number, o in steps if number in alone and o.values.get("optimizer_steps")]
    if stepped and gradient_wanted:
        yield catalogue()["GRAD-STEP-WITHOUT-BACKWARD"].finding(
            "an optimizer stepped and the step ran no backward pass; bfo-diag ran it on the returned loss to go on.",
            evidence=tuple(stepped),
        )
    cleared = [(number, o.values["cleared"]) for number, o in steps if o.values.get("cleared")]
    if cleared:
        yield catalogue()["GRAD-CLEARED"].finding(
            f"{names(cleared[0][1])}: had a gradient, and none any more when the optimizer stepped.",
            evidence=tuple(number for number, _ in cleared),
        )
    losses = [(number, o) for number, o in steps if isinstance(o.values.get("loss"), float)]
    broken = [(number, o) for number, o in losses if not math.isfinite(o.values["loss"])]
    if broken:
        first = broken[0][1]
        yield catalogue()["GRAD-LOSS-NOT-FINITE"].finding(
            f"the loss is {first.values['loss']} in step {first.place.step if first.place else '?'}.",
            evidence=tuple(number for number, _ in broken),
        )


def _cuts(run: Run, found: dict[str, History], without: dict[str, History]) -> Iterator[Finding]:
    grouped: dict[tuple[Any, ...], list[tuple[int, Observation]]] = defaultdict(list)
    for number, observation in run.of_kind("cut"):
        place = observation.place or Place()
        values = observation.values
        grouped[place.file, place.line, values.get("op"), values.get("reason")].append((number, observation))
    for lines in grouped.values():
        first = lines[0][1]
        values = first.values
        reason = str(values.get("reason"))
        hit = {name: None for _, line in lines for name in line.values.get("parameters", ()) if name in without}
        if not hit:
            continue
        entry = catalogue().get(f"GRAD-CUT-{reason.upper()}") or catalogue()["GRAD-UNKNOWN"]
        likely = "probably " if values.get("guessed") else ""
        message = f"{values.get('op')} {likely}cuts the gradient of {names(hit)}: {entry.why}"
        if values.get("grad_mode_at"):
            message += f" Gradients were switched off at {values['grad_mode_at']}."
        if values.get("left_torch_at"):
            message += f" The value then left torch at {values['left_torch_at']}."
        if values.get("library_at"):
            message += f" The line in the library is {values['library_at']}."
        severity = _weight_of_cut(
            [without[name].last for name in hit],
            reason,
            candidates=values.get("candidates", 0),
            others_train=len(without) < len(found),
        )
        if severity is Severity.WARNING and values.get("candidates", 0) <= 1:
            message += " If this part is not to train, say so with requires_grad_(False)."
        yield entry.finding(
            message,
            place=first.place,
            evidence=tuple(number for number, _ in lines),
            severity=severity,
        )


def _intermittent(run: Run, found: dict[str, History]) -> Iterator[Finding]:
    """Yield what had a gradient and lost it: by turns, as in adversarial training, or by a fault of a later step."""
    lost = [h for h in found.values() if h.has_gradient and h.last.get("status") in ("cut", "unused", "dropped")]
    by_step: dict[int | None, list[History]] = defaultdict(list)
    for history in lost:
        place = run.observations[history.lines[-1] - 1].place
        by_step[place.step if place else None].append(history)
    for step, members in by_step.items():
        cuts = [(n, o) for n, o in run.of_kind("cut") if o.place is not None and o.place.step == step]
        hit = [(n, o) for n, o in cuts if any(h.name in o.values.get("parameters", ()) for h in members)]
        yield catalogue()["GRAD-INTERMITTENT"].finding(
            f"{names(h.name for h in members)}: had a gradient before, and none from step {step} on.",
            place=hit[0][1].place if hit else Place(parameter=members[0].name),
            evidence=(*(h.lines[-1] for h in members), *(number for number, _ in hit)),
        )


def _weight_of_cut(parameters: list[dict[str, Any]], reason: str, *, candidates: int, others_train: bool) -> Severity:
    """Return how much a cut weighs.

    A teacher is run without gradients on purpose, and no optimizer holds it. Of several values that left torch, some
    were perhaps only logged.
    """
    if all(values.get("in_optimizer") is False for values in parameters):
        return Severity.NOTE
    unheld = all(values.get("in_optimizer") is None for values in parameters)
    if others_train and candidates > 1:
        return Severity.WARNING
    if unheld and others_train and reason in ("no_grad", "inference_mode"):
        return Severity.WARNING
    return Severity.ERROR


def _no_operation_to_blame(run: Run, found: dict[str, History], without: dict[str, History]) -> Iterator[Finding]:
    by_status: dict[str, list[History]] = defaultdict(list)
    for history in without.values():
        status = str(history.last.get("status"))
        by_status["stale" if status == "unused" and history.last.get("stale") else status].append(history)
    frozen = by_status.pop("frozen", [])
    if frozen and len(frozen) == len(found):
        yield _of("GRAD-ALL-FROZEN", frozen, f"none of the {len(frozen)} parameters requires grad")
    else:
        by_setting: dict[str | None, list[History]] = defaultdict(list)
        for history in frozen:
            by_setting[history.last.get("frozen_at")].append(history)
        for at, members in by_setting.items():
            where = f", set at {at}" if at else "; where that was set was not seen"
            yield _of("GRAD-FROZEN", members, f"requires_grad is False{where}", at=at)
    for status, code, said in (
        ("stale", "GRAD-STALE", "the optimizer holds it, and no operation of the step uses it"),
        ("unused", "GRAD-UNUSED", "no operation of the step uses it (other threads are not seen)"),
        ("dropped", "GRAD-DROPPED", "it is used, but nothing computed from it reaches the loss"),
        ("no_backward", "GRAD-NO-BACKWARD", "the step ran no backward pass and returned no loss tensor"),
        (
            "unknown",
            "GRAD-UNKNOWN",
            "the loss is computed from it, and yet it gets no gradient; the cause can't be told",
        ),
        ("not_asked", "GRAD-NOT-ASKED", "the backward pass was given its inputs, and this is none of them"),
    ):
        by_place: dict[str | None, list[History]] = defaultdict(list)
        for history in by_status.pop(status, []):
            by_place[history.last.get("used_at") if status == "dropped" else None].append(history)
        for at, members in by_place.items():
            left = [h.last["left_torch"] for h in members if h.last.get("left_torch")]
            if left:
                where = f"{left[0]['op']} at {left[0]['file']}:{left[0]['line']}"
                said = (
                    "it reaches the loss through no operation of torch, and the cause can't be told for certain: its "
                    f"value left torch through {where}. If that number feeds the loss, this is the cut"
                )
            yield _of(code, members, said, at=f"{left[0]['file']}:{left[0]['line']}" if left else at)
    functional = (
        by_status.pop("not_measured", []) if any(o.values.get("functional") for _, o in run.of_kind("step")) else []
    )
    if functional:
        yield _of("GRAD-NOT-FOLLOWED", functional, "torch.func computed gradients in this step")
    stepped = [number for number, observation in run.of_kind("step") if observation.values.get("judged")]
    if not found and stepped:
        yield catalogue()["GRAD-NO-BACKWARD"].finding(
            "the step touched no parameter and no tensor that requires grad", evidence=tuple(stepped)
        )


def _of(code: str, members: list[History], said: str, *, at: str | None = None) -> Finding:
    entry = catalogue()[code]
    on_purpose = all(member.last.get("in_optimizer") is False for member in members)
    return entry.finding(
        f"{names(member.name for member in members)}: {said}.",
        place=_place_of(at, members[0].name),
        evidence=tuple(member.lines[-1] for member in members),
        severity=Severity.NOTE if on_purpose and code in _MAY_BE_INTENDED else None,
    )


def _gradients(run: Run, found: dict[str, History]) -> Iterator[Finding]:
    broken = [history for history in found.values() if history.non_finite]
    if broken:
        number, nan, inf = broken[0].non_finite[0]
        step = run.observations[number - 1].place
        yield catalogue()["GRAD-NAN"].finding(
            f"{names(h.name for h in broken)}: the gradient holds NaN or Inf, first in step "
            f"{step.step if step else '?'} ({broken[0].name}: {nan} NaN, {inf} Inf).",
            place=Place(parameter=broken[0].name),
            evidence=tuple(line for history in broken for line, _, _ in history.non_finite),
        )
    finite = [history for history in found.values() if history.norms and not history.non_finite]
    zero = [history for history in finite if all(norm == 0 for _, norm in history.norms)]
    if zero:
        steps = list(run.of_kind("zero_derivative"))
        passed = [(n, o) for n, o in steps if any(h.name in o.values.get("parameters", ()) for h in zero)]
        message = f"{names(h.name for h in zero)}: the gradient is zero in every element."
        place: Place | None = Place(parameter=zero[0].name)
        if passed:
            place = passed[0][1].place
            message += f" Its value passes {passed[0][1].values.get('op')}, whose derivative is zero everywhere."
        yield catalogue()["GRAD-ZERO"].finding(
            message,
            place=place,
            evidence=(*(h.lines[-1] for h in zero), *(number for number, _ in passed)),
        )
    for code, word, chosen in (
        ("GRAD-EXPLODING", "above", [h for h in finite if max(n for _, n in h.norms) > EXPLODING_NORM]),
        ("GRAD-VANISHING", "below", [h for h in finite if 0 < max(n for _, n in h.norms) < VANISHING_NORM]),
    ):
        if chosen:
            limit = EXPLODING_NORM if word == "above" else VANISHING_NORM
            norm = max(n for _, n in chosen[0].norms)
            yield catalogue()[code].finding(
                f"{names(h.name for h in chosen)}: the gradient's norm is {word} {limit:g} "
                f"({chosen[0].name}: {norm:.3g}).",
                place=Place(parameter=chosen[0].name),
                evidence=tuple(h.lines[-1] for h in chosen),
            )
    outside = [h for h in found.values() if h.has_gradient and h.last.get("in_optimizer") is False]
    if outside and any(h.last.get("in_optimizer") for h in found.values()):
        yield _of("GRAD-NOT-IN-OPTIMIZER", outside, "it gets a gradient, but no optimizer of the step holds it")


def summarise(run: Run) -> dict[str, JSONValue]:
    """Return the `summary` of the `--json` document: the parts that apply."""
    summary: dict[str, JSONValue] = {}
    modes = matrix_judge.modes(run)
    if modes:
        summary["modes"] = modes
    found = histories(run)
    if found or any(True for _ in run.of_kind("step")):
        summary["parameters"] = {
            "with_grad": [name for name, history in found.items() if history.has_gradient],
            "without_grad": [name for name, history in found.items() if not history.has_gradient],
        }
        cuts: dict[tuple[Any, ...], dict[str, Any]] = {}
        for _, observation in run.of_kind("cut"):
            place, values = observation.place or Place(), observation.values
            lost = [n for n in values.get("parameters", ()) if n in found and not found[n].has_gradient]
            if lost:
                key = (place.file, place.line, values.get("op"))
                cut = cuts.setdefault(
                    key,
                    {
                        "file": place.file,
                        "line": place.line,
                        "op": values.get("op"),
                        "source": place.source,
                        "reason": values.get("reason"),
                        "certain": not values.get("guessed"),
                        "parameters": [],
                    },
                )
                cut["parameters"].extend(name for name in lost if name not in cut["parameters"])
        for name, history in found.items():
            left = history.last.get("left_torch")
            if left and not history.has_gradient:
                key = (left["file"], left["line"], left["op"])
                cut = cuts.setdefault(key, {**left, "reason": "item", "certain": False, "parameters": []})
                cut["parameters"].append(name)
        summary["cuts"] = list(cuts.values())
        steps = [o.values for _, o in run.of_kind("step")]
        summary["steps"] = len(steps)
        losses = [values.get("loss") for values in steps if values.get("loss") is not None]
        summary["loss_first"] = losses[0] if losses else None
        summary["loss_last"] = losses[-1] if losses else None
    return summary
