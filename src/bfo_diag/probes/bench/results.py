"""What follows from the timings of one case: speed-up, break-even, memory, correctness, advice. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from bfo_diag.probes.bench import statistics as st
from bfo_diag.probes.bench.arms import CONTROL, EAGER, uses_cuda_graphs
from bfo_diag.records import JSONValue, Observation, Run

Numbered = tuple[int, Observation]


@dataclass(frozen=True)
class Mode:
    """What was found of one mode of torch.compile."""

    name: str
    ratio: st.Interval | None
    verdict: str
    step_s: float | None
    saved: st.Interval | None
    cost_s: Mapping[str, float]
    """Seconds that the first calls took beyond steady ones, by state of the cache: cold, as it is, warm."""
    compile_s: Mapping[str, float]
    """Seconds of the first calls, by state of the cache."""

    @property
    def first_cache(self) -> str:
        """The state of the cache in which the person's first run finds it."""
        return next((cache for cache in ("cold", "as it is") if cache in self.compile_s), "warm")

    def break_even(self, cache: str) -> st.BreakEven:
        """Return after how many steps, the first included, the compile has paid for itself."""
        if cache not in self.cost_s:
            return st.BreakEven(None, "the compile time was not measured")
        if self.saved is None:
            return st.BreakEven(None, "no step was timed")
        return st.break_even(self.cost_s[cache], self.saved, self.verdict == "faster")


@dataclass(frozen=True)
class Case:
    """The observations of one case, and what follows from them."""

    name: str
    numbered: tuple[Numbered, ...]
    options: Mapping[str, JSONValue]

    def of(self, kind: str) -> list[Mapping[str, Any]]:
        """Return the values of the observations of a kind."""
        return [observation.values for _, observation in self.numbered if observation.kind == kind]

    def line(self, kind: str, **wanted: Any) -> tuple[int, ...]:
        """Return the lines of the observations that hold these values."""
        return tuple(
            number
            for number, observation in self.numbered
            if observation.kind == kind and all(observation.values.get(k) == v for k, v in wanted.items())
        )

    @cached_property
    def processes(self) -> list[Mapping[str, Any]]:
        """The timing processes that came to an end."""
        return self.of("measured")

    @property
    def arms(self) -> list[str]:
        """The modes that were asked for and ran at least their first steps, or failed."""
        seen = [first["arm"] for first in (*self.of("first"), *self.of("mode_failed"))]
        return [arm for arm in dict.fromkeys(seen) if arm != EAGER and "reference" not in arm]

    def pairs(self, arm: str, baseline: str = EAGER) -> st.Pairs:
        """Return for each process the times of eager and of the arm, in the rounds that count for both."""
        found: list[tuple[st.Floats, st.Floats]] = []
        for process in self.processes:
            if arm not in process["step_s"]:
                continue
            rows = [
                (eager, other)
                for eager, other in zip(process["step_s"][baseline], process["step_s"][arm], strict=True)
                if eager is not None and other is not None
            ]
            if rows:
                found.append((np.array([row[0] for row in rows]), np.array([row[1] for row in rows])))
        return found

    @cached_property
    def control(self) -> st.Interval | None:
        """Eager against itself: how far apart two names of the same step are here."""
        pairs = self.pairs(CONTROL)
        return st.speed_up(pairs) if pairs else None

    @property
    def noisy(self) -> bool:
        """Whether the machine was too noisy to believe the rest."""
        return self.control is not None and st.noisy(self.control)

    def cuda_median_s(self, arm: str) -> float | None:
        """Return the median step time by CUDA events, None off CUDA."""
        times = [t for process in self.processes for t in process["cuda_step_s"].get(arm, ()) if t is not None]
        return float(np.median(times)) if times else None

    def median_s(self, arm: str) -> float | None:
        """Return the median over processes of the median step time."""
        medians = [
            float(np.median([time for time in process["step_s"][arm] if time is not None]))
            for process in self.processes
            if any(time is not None for time in process["step_s"].get(arm, ()))
        ]
        return float(np.median(medians)) if medians else None

    @cached_property
    def modes(self) -> list[Mode]:
        """What was found of each mode."""
        return [self._mode(arm) for arm in self.arms]

    def _mode(self, arm: str) -> Mode:
        pairs = self.pairs(arm)
        ratio = st.speed_up(pairs) if pairs else None
        over_twin = self.pairs(arm, CONTROL)
        step_s = self.median_s(arm)
        compile_s: dict[str, float] = {}
        cost_s: dict[str, float] = {}
        for first in self.of("first"):
            if first["arm"] == arm and not first["same_stream"]:
                count = _compiling(first["compile_events"])
                compile_s[first["cache"]] = sum(first["calls_s"][:count])
                if step_s is not None:
                    cost_s[first["cache"]] = compile_s[first["cache"]] - count * step_s
        return Mode(
            name=arm,
            ratio=ratio,
            verdict="not measured" if ratio is None else st.verdict(ratio, st.speed_up(over_twin)),
            step_s=step_s,
            saved=st.saved(pairs) if pairs else None,
            cost_s=cost_s,
            compile_s=compile_s,
        )

    def correctness(self, arm: str) -> tuple[str, Mapping[str, Any] | None]:
        """Return whether the mode comes to the same state: the word for it, and the comparison."""
        found = [c for c in self.of("correctness") if c["arm"] == arm]
        if len(found) > 1 and found[-1]["ok"] is not True:
            found = found[:1]  # the run with eager's stream told nothing new
        if not found:
            return "not measured", None
        if found[-1]["ok"] is None:
            return f"not measured: {found[-1]['why']}", None
        if found[-1]["ok"]:
            return ("different random stream" if found[-1]["same_stream"] else "same"), found[-1]
        return "differs", found[-1]

    def cudagraphs(self, arm: str) -> str:
        """Return what is known of CUDA graphs in a mode that asks for them."""
        if not uses_cuda_graphs(arm):
            return ""
        firsts = [first for first in self.of("first") if first["arm"] == arm]
        skips = max((first["cudagraph_skips"] for first in firsts), default=0)
        reasons = list(dict.fromkeys(reason for first in firsts for reason in first["cudagraph_reasons"]))
        on_cuda = any(str(process["device"]).startswith("cuda") for process in self.processes)
        if not on_cuda:
            return "CUDA graphs not applied: the device is a CPU"
        return f"CUDA graphs not applied ({skips} skipped: {'; '.join(reasons) or 'no reason given'})" if skips else ""

    def memory(self, arm: str) -> dict[str, float]:
        """Return the peak memory of the mode's first steps, in MiB (with a warm cache, where there is a choice)."""
        firsts = [first for first in self.of("first") if first["arm"] == arm and first["cache"] in ("warm", "none")]
        if not firsts:
            return {}
        keys = ("peak_rss_mib", "cuda_allocated_mib", "cuda_reserved_mib")
        return {key: firsts[0][key] for key in keys if firsts[0].get(key) is not None}

    @cached_property
    def advice(self) -> Advice | None:
        """What to do for as many steps as the person will train."""
        eager_s = self.median_s(EAGER)
        if not self.options.get("steps") or eager_s is None:
            return None
        runs = int(self.options.get("folds") or 1) * int(self.options.get("trials") or 1)
        steps = int(self.options["steps"])
        eager_total = runs * steps * eager_s
        best, best_total = EAGER, eager_total
        totals = {EAGER: eager_total}
        for mode in self.modes:
            if mode.step_s is None or not mode.cost_s or self.correctness(mode.name)[0] == "differs":
                continue
            at_first = max(0.0, mode.cost_s[mode.first_cache])
            again = max(0.0, mode.cost_s.get("warm", at_first))
            total = at_first + (runs - 1) * again + runs * steps * mode.step_s
            totals[mode.name] = total
            if mode.verdict == "faster" and total < best_total:
                best, best_total = mode.name, total
        return Advice(steps, runs, best, eager_total, best_total, totals)


@dataclass(frozen=True)
class Advice:
    """Compile or not, and what it saves, for `runs` trainings of `steps` steps; times in seconds."""

    steps: int
    runs: int
    best: str
    eager_s: float
    best_s: float
    totals_s: Mapping[str, float]


def _compiling(events: list[int]) -> int:
    """Return how many calls there were up to the last with a compile in it."""
    last = max((index for index, count in enumerate(events) if count), default=0)
    return last + 1


def cases(run: Run) -> list[Case]:
    """Return the cases of a run, in their order."""
    found: dict[str, list[Numbered]] = {}
    for number, observation in enumerate(run.observations, 1):
        if "part" in observation.values:
            found.setdefault(str(observation.values.get("case", "")), []).append((number, observation))
    options = run.header.options
    return [Case(name or run.header.case.name, tuple(numbered), options) for name, numbered in found.items()]
