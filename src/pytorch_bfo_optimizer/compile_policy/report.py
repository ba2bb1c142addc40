"""What a policy reports: values only, as text and as a mapping for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pytorch_bfo_optimizer.compile_policy.calls import Fallback
from pytorch_bfo_optimizer.compile_policy.decision import Decision

Status = Literal["APPLIED", "PARTIAL", "NOT APPLIED"]


@dataclass(frozen=True, slots=True)
class CompileReport:
    """Whether a target really runs compiled, and what stood in the way. Counts, not intentions."""

    target: str
    status: Status
    """APPLIED: every call ran compiled, whole. PARTIAL: some did, or with breaks. NOT APPLIED: see `reason`."""
    reason: str
    """Why it is not APPLIED; empty where it is."""
    mode: str
    backend: str
    graphs: int = 0
    """Different compiled graphs that ran."""
    breaks: tuple[str, ...] = ()
    """Graph breaks: reason and place, with the times it was met."""
    recompiles: tuple[str, ...] = ()
    """Why dynamo compiled again what it had compiled: the guard that failed."""
    limit_hits: tuple[str, ...] = ()
    """Where dynamo gave up at its recompile limit, with the guard that failed last; eager ever after."""
    cudagraph_skips: int = 0
    """Graphs that the mode was to make CUDA graphs of and did not: on a CPU all, elsewhere TORCH_LOGS=perf_hints says
    why."""
    calls: int = 0
    """Calls of the target since `apply` returned."""
    calls_compiled: int = 0
    """Those in which a compiled graph ran."""
    fallbacks: tuple[Fallback, ...] = ()
    proved: tuple[str, ...] = ()
    """What the probe showed compiled code to do: forward, backward, optimizer step."""
    notes: tuple[str, ...] = ()
    """What the probe may have changed and nobody can put back."""
    decision: Decision | None = None
    """What `enabled="auto"` decided."""
    parts: tuple[CompileReport, ...] = ()
    """The reports of the single targets, in a report of several."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, fit for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        if self.parts:
            head = f"{self.status}: {self.target}" + (f" ({self.reason})" if self.reason else "")
            return "\n".join((head, *(str(part) for part in self.parts)))
        lines = [f"{self.status}: {self.target}, mode {self.mode}, backend {self.backend}"]
        lines += [f"reason: {self.reason}"] if self.reason else []
        lines.append(f"calls: {self.calls_compiled} of {self.calls} ran compiled, {_count(self.graphs, 'graph')}")
        lines += [f"proved: {', '.join(self.proved)}"] if self.proved else []
        lines += [f"decided: {self.decision.why}"] if self.decision else []
        lines += [f"break: {text}" for text in self.breaks]
        lines += [f"recompile: {text}" for text in self.recompiles]
        lines += [f"recompile limit: {text}" for text in self.limit_hits]
        lines += [f"fallback: {_fallback(found)}" for found in self.fallbacks]
        lines += [f"not put back: {text}" for text in self.notes]
        return "\n  ".join(lines)


def _fallback(found: Fallback) -> str:
    when = f"call {found.call}" if found.call else "while it was proved"
    inputs = f", inputs {', '.join(found.shapes)}" if found.shapes else ""
    return f"{found.where}, {when}{inputs}: {found.error}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def judged(
    *, calls: int, calls_compiled: int, proved: bool, troubles: Sequence[tuple[int, str]], why_none: str
) -> tuple[Status, str]:
    """Return status and reason of a target that is switched on.

    Args:
        calls: since `apply`.
        calls_compiled: those in which a graph ran.
        proved: whether graphs ran in the probe.
        troubles: count and name of each kind of thing that is not meant to happen.
        why_none: why no graph runs, as far as is known.
    """
    if not calls_compiled and (calls or not proved):
        return "NOT APPLIED", f"no graph ran in {_count(calls, 'call')}: {why_none}" if calls else why_none
    said = [_count(number, noun) for number, noun in troubles if number]
    if calls > calls_compiled:
        said.append(f"{_count(calls - calls_compiled, 'call')} of {calls} ran no graph ({why_none})")
    if said:
        return "PARTIAL", "; ".join(said)
    return "APPLIED", "" if calls else "proved, and not called since"


def combined(reports: Sequence[CompileReport], *, mode: str, backend: str) -> CompileReport:
    """Return one report of several targets."""
    if len(reports) == 1:
        return reports[0]
    if not reports:
        return CompileReport("nothing", "NOT APPLIED", "apply() was not called", mode, backend)
    kinds = {report.status for report in reports}
    status: Status = next(iter(kinds)) if len(kinds) == 1 else "PARTIAL"
    counted = [
        (sum(report.status == kind for report in reports), kind) for kind in ("APPLIED", "PARTIAL", "NOT APPLIED")
    ]
    reasons = dict.fromkeys(report.reason for report in reports if report.reason)
    said = ", ".join(f"{number} {kind}" for number, kind in counted if number)
    return CompileReport(
        target=f"{len(reports)} targets",
        status=status,
        reason="" if status == "APPLIED" else "; ".join((said, *reasons)),
        mode=mode,
        backend=backend,
        graphs=sum(report.graphs for report in reports),
        breaks=_all(report.breaks for report in reports),
        recompiles=_all(report.recompiles for report in reports),
        limit_hits=_all(report.limit_hits for report in reports),
        cudagraph_skips=sum(report.cudagraph_skips for report in reports),
        calls=sum(report.calls for report in reports),
        calls_compiled=sum(report.calls_compiled for report in reports),
        fallbacks=tuple(found for report in reports for found in report.fallbacks),
        parts=tuple(reports),
    )


def _all(texts: Any) -> tuple[str, ...]:
    return tuple(text for each in texts for text in each)
