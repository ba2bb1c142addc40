"""What is known of one case of a compile run, and what follows from it. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bfo_diag.probes.compile.builtin import BUILTINS, Builtin
from bfo_diag.probes.compile.sites import YOURS, Numbered, Site, group
from bfo_diag.records import JSONValue, Observation, Place, Run

APPLIED, PARTIAL, NOT_APPLIED = "APPLIED", "PARTIAL", "NOT APPLIED"
QUIET_CALLS = 2
"""Calls without a compile at the end, after which recompiles count as settled."""
_LIMIT = ("recompile limit exceeded", "recompilelimitexceeded", "recompile_limit", "cache_size_limit")
_FULL_SHARE = 0.995


@dataclass(frozen=True)
class Analysis:
    """What is known of one case: its observations, and what follows from them."""

    name: str
    numbered: tuple[Numbered, ...]

    def of(self, *kinds: str, part: str | None = None) -> list[Numbered]:
        """Return the observations of these kinds, of one part or of all."""
        return [
            (number, observation)
            for number, observation in self.numbered
            if observation.kind in kinds and (part is None or observation.values.get("part") == part)
        ]

    def one(self, kind: str, part: str | None = None) -> Mapping[str, Any] | None:
        """Return the values of the last observation of a kind."""
        found = self.of(kind, part=part)
        return found[-1][1].values if found else None

    @cached_property
    def builtin(self) -> Builtin | None:
        """What is right for it, where it is a built-in case."""
        return next((case for case in BUILTINS if case.name == self.name), None)

    @cached_property
    def sites(self) -> list[Site]:
        """The places that break the graph in the real calls."""
        raised = frozenset(
            o.place.step for _, o in self.of("raised") if o.place is not None and o.place.step is not None
        )
        return group(self.of("break", part="calls"), raised_in=raised)

    @cached_property
    def calls(self) -> list[Mapping[str, Any]]:
        """The calls that were made, in their order."""
        return [observation.values for _, observation in self.of("call", part="calls")]

    @cached_property
    def graphs(self) -> dict[str, int]:
        """How many graphs were compiled, by direction; `captured` counts them before autograd splits them."""
        count = {"forward": 0, "backward": 0, "inference": 0, "captured": 0}
        for _, observation in self.of("graph", part="calls"):
            count[observation.values["direction"]] += 1
        if not count["forward"] + count["inference"]:
            count["forward"] = count["captured"]  # a backend without AOTAutograd
        return count

    @cached_property
    def compiles(self) -> list[int]:
        """Compiles at each call."""
        started = [o.values for _, o in self.of("compile", part="calls")]
        return [len({s["compile_id"] for s in started if s["call"] == call["number"]}) for call in self.calls]

    @cached_property
    def recompiles(self) -> list[Numbered]:
        """The guard failures that led to another compile (the one that met the limit led to none)."""
        started = {o.values["compile_id"] for _, o in self.of("compile", part="calls")}
        return [(n, o) for n, o in self.of("recompile", part="calls") if o.values["compile_id"] in started]

    @cached_property
    def frames(self) -> dict[str, tuple[str, str]]:
        """The function and file of each frame, by the first half of its compile ids."""
        return {
            o.values["compile_id"].split("/")[0]: (o.values["function"], o.values["file"] or "")
            for _, o in self.of("compile", part="calls")
        }

    def function_of(self, observation: Observation) -> str:
        """Return the name of the function that an observation of a compile is about."""
        return self.frames.get(observation.values["compile_id"].split("/")[0], ("a function", ""))[0]

    @cached_property
    def limits(self) -> list[Numbered]:
        """The functions that met the recompile limit, once each."""
        found: dict[str, Numbered] = {}
        for number, observation in self.of("compiled", part="calls"):
            reason = f"{observation.values['fail_type']} {observation.values['fail_reason']}".lower()
            if any(mark in reason for mark in _LIMIT):
                found.setdefault(observation.values["compile_id"].split("/")[0], (number, observation))
        return list(found.values())

    @cached_property
    def skipped(self) -> list[Numbered]:
        """The functions of the user's and of libraries that torch left eager as a whole, once each."""
        failed = {call["number"] for call in self.calls if not call["ok"]}
        found: dict[tuple[str, int], Numbered] = {}
        for number, observation in self.of("compiled", part="calls"):
            if _skipped(observation, failed):
                found.setdefault((observation.values["file"], observation.values["line"]), (number, observation))
        return list(found.values())

    @property
    def settled(self) -> bool:
        """Whether the last calls compiled nothing, and no limit was hit."""
        return not self.limits and not any(self.compiles[-QUIET_CALLS:])

    @property
    def subject(self) -> Mapping[str, Any]:
        """What the survey found the target to be."""
        return self.one("subject") or {}

    @property
    def disabled_by(self) -> str | None:
        """What kept torch.compile from doing anything."""
        if any(self.graphs.values()):
            return None
        return next((c["disabled_by"] for c in self.calls if c["disabled_by"]), self.subject.get("disabled_by"))

    @property
    def coverage(self) -> float | None:
        """The share of the eager ATen operations that run inside captured graphs."""
        found = self.one("coverage")
        share = None if found is None else found["share"]
        return 0.0 if share is not None and self.calls and not any(self.graphs.values()) else share

    @cached_property
    def applied(self) -> tuple[str, str]:
        """Whether compile is really applied, and the reason."""
        if self.of("compile_error"):
            return NOT_APPLIED, "torch.compile raised"
        if not self.calls:
            return NOT_APPLIED, "no call was made"
        if self.disabled_by is not None:
            return NOT_APPLIED, f"disabled by {self.disabled_by}"
        if not any(self.graphs.values()):
            return NOT_APPLIED, self._why_nothing()
        why: list[str] = []
        if self.limits:
            names = ", ".join(sorted({self.function_of(o) for _, o in self.limits}))
            why.append(
                f"the recompile limit was hit: {names} runs eagerly since call {self.limits[0][1].values['call']}"
            )
        share = self.coverage
        if share is not None and share < _FULL_SHARE:
            coverage = self.one("coverage") or {}
            names = ", ".join(list(coverage.get("outside", {}))[:4])
            why.append(f"{percent(1 - share)} of the operations run outside of graphs ({names})")
        skipped = sorted({observation.values["function"] for _, observation in self.skipped})
        if skipped:
            why.append(f"skipped as a whole: {', '.join(skipped[:3])}")
        if share is None:
            unknown = (self.one("coverage") or {}).get("why") or "the survey ended before"
            why.append(f"graphs run, and what they cover was not measured ({unknown})")
        if why:
            return PARTIAL, "; ".join(why)
        if share == 1:
            return APPLIED, "every operation runs in a compiled graph"
        return APPLIED, f"{percent(share or 0.0)} of the operations run in compiled graphs"

    def _why_nothing(self) -> str:
        coverage = self.one("coverage") or {}
        if coverage.get("eager_operations") == 0:
            return "nothing to compile: the target runs no ATen operation"
        if self.sites:
            skipped = "; ".join(f"{s.code} at {near(s.place)}" for s in self.sites[:2])
            return f"the function was skipped after a graph break ({skipped})"
        if not self.of("compile", part="calls"):
            return "no function of the target came before torch.compile (it is marked as skipped, or runs in C)"
        return "nothing of it was captured in a graph"

    @property
    def fullgraph(self) -> Mapping[str, Any] | None:
        """What came of fullgraph=True, where it was asked for."""
        return self.one("fullgraph", part="fullgraph")

    @property
    def seconds(self) -> dict[str, float]:
        """Compile time by phase, in seconds."""
        total = backend = inductor = backward = logging = 0.0
        for _, observation in self.of("compiled", part="calls"):
            seconds = observation.values["seconds"]
            logging += observation.values["logging_s"]
            if observation.values["backward"]:
                backward += seconds.get("total", 0.0)
                continue
            total += seconds.get("total", 0.0)
            backend += seconds.get("backend", 0.0)
            inductor += seconds.get("inductor", 0.0)
        return {
            "total": total + backward,
            "dynamo": max(0.0, total - backend),
            "aot": max(0.0, backend - inductor),
            "inductor": inductor,
            "backward": backward,
            "of_it_logging": logging,
        }

    def summary(self) -> dict[str, JSONValue]:
        """Return what stands under `summary` in the --json document."""
        explain = self.one("explain")
        full = self.fullgraph
        errors = self.of("fullgraph_error")
        applied, reason = self.applied
        return {
            "applied": applied,
            "reason": reason,
            "fullgraph": None
            if full is None
            else {"ok": full["ok"], "error": _fullgraph_error(errors[0][1]) if errors else _death(full)},
            "graphs": {key: self.graphs[key] for key in ("forward", "backward", "inference")},
            "captured_graphs": self.graphs["captured"],
            "sites": len(self.sites),
            "user_sites": sum(site.owner == YOURS for site in self.sites),
            "events": sum(site.events for site in self.sites),
            "explain": None
            if explain is None
            else {key: explain[key] for key in ("graph_break_count", "graph_count") if key in explain}
            or {"error": explain.get("error")},
            "calls": len(self.calls),
            "compiles": self.compiles,
            "recompiles": len(self.recompiles),
            "settled": self.settled if self.calls else None,
            "limit_hit": bool(self.limits),
            "coverage": self.coverage,
            "compile_s": self.seconds,
            "cache": {
                word: sum(o.values["event"].endswith(word) for _, o in self.of("cache", part="calls"))
                for word in ("hit", "miss", "bypass")
            },
        }


def _skipped(observation: Observation, failed: set[int]) -> bool:
    values = observation.values
    if values["call"] in failed or values["owner"] not in ("user", "library"):
        return False
    reason = f"{values['fail_type']} {values['fail_reason']}".lower()
    return bool(values["fail_type"]) and not any(mark in reason for mark in _LIMIT) and bool(values["function"])


def percent(share: float) -> str:
    """Return a share in percent, never rounded to none or all where it is neither."""
    text = f"{share:.0%}"
    if text == "100%" and share < 1:
        return "more than 99%"
    return "less than 1%" if text == "0%" and share > 0 else text


def near(place: Place | None) -> str:
    """Return `file.py:line`, without its folders."""
    return "an unknown line" if place is None else f"{(place.file or '').rpartition('/')[2]}:{place.line}"


def _fullgraph_error(observation: Observation) -> str:
    values = observation.values
    return f"{values['error_type']}: {values['code']} {values['type']} at {observation.place or 'an unknown line'}"


def _death(full: Mapping[str, Any]) -> str | None:
    return None if full["died"] is None else f"the process died: {full['died']}"


def analyses(run: Run) -> list[Analysis]:
    """Return one analysis for each case of the run, in their order."""
    cases: dict[str, list[Numbered]] = {}
    for number, observation in enumerate(run.observations, 1):
        if "part" in observation.values:
            cases.setdefault(str(observation.values.get("case", "")), []).append((number, observation))
    return [Analysis(name or run.header.case.name, tuple(numbered)) for name, numbered in cases.items()]
