"""The five ways to mend an optimizer's step or a training step, each with what was measured of it in these runs.

The order is an outcome: how much of what went wrong the way was seen to mend, then what it cost. What was not
measured says why, and comes last.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bfo_diag.recorded import Recorded
from bfo_diag.records import Severity

_CONTROL = "as-is"
_MODES = {
    "dual": (
        "Dual closure",
        "Give step() a second closure that calls backward(), beside the one that only evaluates the loss. Candidates "
        "are scored without a graph, and the gradient is asked for where it is wanted.",
    ),
    "smart": (
        "Smart closure wrapper",
        "Keep the one closure that LBFGS would take; the optimizer runs its backward() once a step, and intercepts it "
        "for all other candidates.",
    ),
    "config": (
        "Configuration",
        "Say in a GradientConfig when gradients are used; with AUTO the optimizer decides by what requires grad.",
    ),
    "minimal": (
        "Minimal fix",
        "Patch somebody else's optimizer from outside: gradients on for the evaluation, nothing else touched.",
    ),
}
_COMPILE = (
    "Compile compatibility",
    "Mend what breaks the graph, so that torch.compile is applied to all of the step.",
)


@dataclass(frozen=True)
class Approach:
    """A way to mend it. `mended` of `of` says what it was seen to do; None where nothing was measured."""

    name: str
    what: str
    measured: tuple[str, ...]
    mended: int | None = None
    of: int = 0
    cost: float = 0.0
    """Evaluations of the closure, for those of the same measure."""
    runs: tuple[str, ...] = ()
    """Ids of the runs it was read from; empty where nothing was measured of it."""
    broken: int = 0
    """How much that worked without it does not work with it."""
    proposed: str = ""
    """What is proposed, where what it would mend was not run."""

    @property
    def outcome(self) -> str:
        """What it mended, in words."""
        if self.mended is None:
            return self.proposed or "not measured"
        said = f"mends {self.mended} of {self.of}" if self.of else "nothing to mend"
        return f"{said}, breaks {self.broken}" if self.broken else said


def ranked(recorded: Sequence[Recorded]) -> list[Approach]:
    """Return the five approaches, those first that were seen to mend most, at the least cost."""
    found = [*_gradient_modes(recorded), _compile(recorded)]

    def order(approach: Approach) -> tuple[float, ...]:
        if approach.mended is None:
            return (2.0 if approach.runs else 3.0, 0.0, 0.0)
        share = (approach.mended - approach.broken) / approach.of if approach.of else 0.0
        return (0.0 if approach.of else 1.0, -share, approach.cost)

    return sorted(found, key=order)


def _gradient_modes(recorded: Sequence[Recorded]) -> Iterator[Approach]:
    matrix = next((one for one in recorded if any(one.run.of_kind("cell"))), None)
    if matrix is None:
        yield from _of_a_step(recorded)
        return
    cells = [observation.values for _, observation in matrix.run.of_kind("cell")]
    by_mode: dict[str, dict[tuple[str, str], Mapping[str, Any]]] = {}
    for cell in cells:
        by_mode.setdefault(cell["mode"], {})[cell["workload"], cell["scenario"]] = cell
    control = by_mode.get(_CONTROL, {})
    lost = {key for key, cell in control.items() if cell["status"] != "trained"}
    for mode, (name, what) in _MODES.items():
        mine = by_mode.get(mode)
        if not mine:
            yield Approach(name, what, ("not measured: the run was made without this mode",))
            continue
        trained = {key for key, cell in mine.items() if cell["status"] == "trained"}
        evaluations = statistics.median(cell["evaluations"] for cell in mine.values())
        measured = [
            f"{len(trained)} of {len(mine)} cells of the matrix train; without a mode ({_CONTROL}), "
            f"{len(control) - len(lost)} of {len(control)} do",
            f"of the {len(lost)} that fail without, {len(trained & lost)} train with it",
            f"{evaluations:.0f} evaluations of the closure a cell (median)",
            *_falls(mine),
        ]
        worse = [key for key in mine if key in control and key not in lost and key not in trained]
        if worse:
            measured.append(f"{len(worse)} that trained without do not train with it")
        if not control:
            measured.append(f"what it mends can't be told: the run was made without the control, {_CONTROL}")
        yield Approach(
            name,
            what,
            tuple(measured),
            len(trained & lost) if control else None,
            len(lost),
            evaluations,
            (matrix.run.header.run_id,),
            broken=len(worse),
        )


def _falls(cells: Mapping[tuple[str, str], Mapping[str, Any]]) -> Iterator[str]:
    ratios = [
        cell["loss_last"] / cell["loss_first"]
        for cell in cells.values()
        if cell["status"] == "trained" and cell["loss_first"] and cell["loss_last"] is not None
    ]
    if ratios:
        yield f"where it trains, the loss falls to {statistics.median(ratios):.3g} of what it was (median)"


def _of_a_step(recorded: Sequence[Recorded]) -> Iterator[Approach]:
    """Yield the modes where no optimizer class was examined; the mends of a step's own lines are its minimal fix."""
    step = next((one for one in recorded if one.probe.name == "gradients"), None)
    why = "not measured: the examined target is a training step, and this is about an optimizer's own step; "
    why += "bfo-diag gradients FILE.py:YourOptimizer measures it"
    if step is None:
        why = "not measured: the package holds no run of bfo-diag gradients"
    for mode, (name, what) in _MODES.items():
        if mode != "minimal" or step is None:
            yield Approach(name, what, (why,))
            continue
        grave = [finding for finding in step.findings if finding.severity is not Severity.NOTE and finding.fix]
        lines = [f"{step.portable_place(finding)}: {finding.fix}" for finding in grave]
        said = f"{_count(len(grave), 'finding')} with a mend; proposed, and not run: edit src/ and replay to see"
        yield Approach(
            name,
            "Change the lines that the findings name, and nothing else.",
            (said, *lines),
            None if grave else 0,
            runs=(step.run.header.run_id,),
            proposed=f"proposed for {_count(len(grave), 'finding')}, not run",
        )


def _compile(recorded: Sequence[Recorded]) -> Approach:
    name, what = _COMPILE
    found = next((one for one in recorded if one.probe.name == "compile"), None)
    if found is None:
        return Approach(name, what, ("not measured: the package holds no run of bfo-diag compile",))
    runs = [found.run.header.run_id]
    if not found.probe.measured(found.run):
        return Approach(name, what, (f"not measured: {found.probe.verdict(found.run, found.findings)}",))
    summaries = found.summary.get("cases") or {"": found.summary}
    fixes = {key: fix.values["switch"] for _, fix in found.run.of_kind("fix") for key in fix.values["mends"]}
    sites = sum(summary.get("sites" if fixes else "user_sites", 0) for summary in summaries.values())
    measured = [found.probe.verdict(found.run, found.findings)]
    tried = any(found.run.of_kind("fix"))
    if sites:
        measured.append(f"{_count(sites, 'place')} of the examined code break{'s' * (sites == 1)} the graph")
    if tried:
        switches = ", ".join(f"torch._dynamo.config.{name} = True" for name in dict.fromkeys(fixes.values()))
        by = f" ({switches})" if switches else ""
        measured.append(f"{len(fixes)} places mended by a switch of torch's{by}, seen in a run of its own")
    elif sites and found.run.header.options.get("try_fixes"):
        measured.append("no switch of torch's is known to mend them: the lines have to change")
    elif sites:
        measured.append("mends were not tried: bfo-diag compile TARGET --try-fixes does")
    bench = next((one for one in recorded if one.probe.name == "bench"), None)
    if bench is None:
        measured.append("what it would save was not measured: the package holds no run of bfo-diag bench")
    else:
        runs.append(bench.run.header.run_id)
        measured.append(bench.probe.verdict(bench.run, bench.findings))
    mended = len(fixes) if tried else None if sites else 0
    return Approach(
        name,
        what,
        tuple(measured),
        mended,
        sites,
        runs=tuple(runs),
        proposed=f"proposed for {_count(sites, 'place')}, not run",
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
