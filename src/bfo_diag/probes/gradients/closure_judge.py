"""From what closures did in one step of an optimizer to findings. Reads the record alone: no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bfo_diag.findings import catalogue
from bfo_diag.records import Finding, Observation, Run

Values = Mapping[str, Any]


def judge(run: Run) -> Iterator[Finding]:
    """Yield each fault once for each line that steps an optimizer, told of the step in which it weighed most."""
    for code, said in _SAYS.items():
        by_line: dict[tuple[Any, ...], list[tuple[int, Observation, str]]] = {}
        for number, observation in run.of_kind("closure"):
            message = said(observation.values)
            if message is not None:
                place = observation.place
                line = (place.file, place.line) if place else ()
                by_line.setdefault((observation.values["optimizer"], *line), []).append((number, observation, message))
        for lines in by_line.values():
            _, worst, message = max(lines, key=lambda line: line[1].values["evaluations"])
            evidence = tuple(number for number, _, _ in lines)
            yield catalogue()[code].finding(message, place=worst.place, evidence=evidence)


def takes_no_gradient(run: Run) -> bool:
    """Whether all that stepped were optimizers that evaluate losses alone, and nothing else went back."""
    steps = [observation.values for _, observation in run.of_kind("step")]
    closures = [observation.values for _, observation in run.of_kind("closure")]
    return (
        bool(closures)
        and not any(values["gradient_reads"] or values["with_backward"] for values in closures)
        and not any(values["bare_steps"] or values["backward_by"] == "target" for values in steps)
    )


def _step(values: Values) -> str:
    number = values["evaluations"]
    return f"{number} evaluation{'' if number == 1 else 's'} in one step of {values['optimizer']}"


def _backward_each_time(values: Values) -> str | None:
    ran, evaluations = values["with_backward"], values["evaluations"]
    if ran < 2 or values["gradient_reads"]:
        return None
    how_many = "each" if ran == evaluations else f"{ran} of them"
    return f"{_step(values)}, {how_many} ran backward(): {values['optimizer']} read no gradient of these."


def _random(values: Values) -> str | None:
    if not values["drew_others"]:
        return None
    drew = values["drew_others"] + 1
    each = drew == values["evaluations"]
    how_many = "each with random numbers of its own" if each else f"{drew} of them with random numbers of their own"
    where = f": dropout in {', '.join(values['dropouts'])}" if values["dropouts"] else ""
    return f"{_step(values)}, {how_many}{where}."


def _moves_buffers(values: Values) -> str | None:
    if not values["met_others"]:
        return None
    return (
        f"{_step(values)}: {values['met_others']} of them met other values than the first in "
        f"{', '.join(values['buffers'])}, because the evaluations before had moved them."
    )


def _local_loss(values: Values) -> str | None:
    if values["evaluations"] < 2 or values["exchanges"] != 0:
        return None
    return (
        f"{_step(values)} call a DistributedDataParallel module, and no collective averages their losses: each rank "
        "compares losses of its own batch."
    )


def _through_scaler(values: Values) -> str | None:
    if not values["by_scaler"]:
        return None
    return (
        f"{_step(values)} that a GradScaler makes: it unscales what was in .grad before, and the gradient that the "
        "closure gives stays scaled."
    )


def _accumulation_lost(values: Values) -> str | None:
    passes = values["earlier_backwards"]
    before = f"{passes} backward pass{'es' if passes > 1 else ''} before {values['optimizer']}.step(closure)"
    if values["earlier_gradients"] == "cleared":
        return f"{before}: the closure cleared the gradients before the optimizer read them."
    if values["earlier_gradients"] == "unread":
        return f"{before}: the optimizer never read the gradients."
    return None


_SAYS: Mapping[str, Callable[[Values], str | None]] = {
    "CLOSURE-BACKWARD-EACH-TIME": _backward_each_time,
    "CLOSURE-RANDOM": _random,
    "CLOSURE-MOVES-BUFFERS": _moves_buffers,
    "DDP-LOCAL-LOSS": _local_loss,
    "AMP-SCALER-CLOSURE": _through_scaler,
    "ACCUMULATION-LOST": _accumulation_lost,
}
"""For each code, what is to be said of a step; None where there is nothing."""
