"""From the record of a training to findings: what is certain, and no opinion on how well it learns."""

from __future__ import annotations

from collections.abc import Iterator

from bfo_diag.findings import catalogue
from bfo_diag.probes.run import turnover
from bfo_diag.probes.run.results import compiled, declined
from bfo_diag.records import Finding, Place, Run


def judge(run: Run) -> Iterator[Finding]:
    """Yield what went wrong with losses and gradients, and what was asked of compile and turnover and not done."""
    yield from _diverged(run)
    yield from _gradients(run)
    yield from _compile(run)
    yield from turnover.judge(run)


def _diverged(run: Run) -> Iterator[Finding]:
    entry = catalogue()["RUN-DIVERGED"]
    for number, observation in run.of_kind("fold_end"):
        values = observation.values
        if values["diverged"]:
            yield entry.finding(f"fold {values['fold']}: {values['diverged']}", evidence=(number,))


def _gradients(run: Run) -> Iterator[Finding]:
    """Yield the first gradient of the run that was not finite; what comes after it follows from it."""
    for number, observation in run.of_kind("gradients"):
        values = observation.values
        if values["nonfinite"]:
            first, others = values["nonfinite"][0], len(values["nonfinite"]) - 1
            message = f"fold {values['fold']}, step {values['step']}: the gradient of {first}"
            message += f" and of {others} more" if others else ""
            place = Place(parameter=first, step=values["step"])
            yield catalogue()["RUN-GRADIENT-NON-FINITE"].finding(message, place=place, evidence=(number,))
            return


def _compile(run: Run) -> Iterator[Finding]:
    """Yield once for each way in which compile was not, or not wholly, applied: the first fold stands for others."""
    codes = {"NOT APPLIED": "RUN-COMPILE-NOT-APPLIED", "PARTIAL": "RUN-COMPILE-PARTIAL"}
    seen: dict[str, tuple[str, list[int]]] = {}
    for number, report in compiled(run):
        code = codes.get(report["status"])
        if code is not None and not declined(report):
            message = f"fold {report['fold']}: {report['reason']}"
            seen.setdefault(code, (message, []))[1].append(number)
    for code, (message, numbers) in seen.items():
        yield catalogue()[code].finding(message, evidence=tuple(numbers))
