"""The account of one target while it is used: what was decided, proved, compiled and run. Becomes a report."""

from __future__ import annotations

import weakref
from typing import Any

from pytorch_bfo_optimizer.compile_policy.calls import Call, Fallback, described
from pytorch_bfo_optimizer.compile_policy.decision import Decision
from pytorch_bfo_optimizer.compile_policy.events import Events
from pytorch_bfo_optimizer.compile_policy.preflight import disabled_by
from pytorch_bfo_optimizer.compile_policy.report import CompileReport, judged

_limited: weakref.WeakSet[Any] = weakref.WeakSet()
"""Code that dynamo stopped compiling at its recompile limit: other targets of that code run in eager, unannounced."""


class Audit:
    """Filled by every call of a target."""

    def __init__(self, name: str, *, mode: str, backend: str, code: Any) -> None:
        self.name, self.mode, self.backend = name, mode, backend
        self.on = False
        self.why_off = "it was not compiled"
        self.proving = False
        self.training = False
        """Whether calls count; before that they are the policy's own."""
        self.decision: Decision | None = None
        self.proved: tuple[str, ...] = ()
        self.notes: tuple[str, ...] = ()
        self.calls = self.calls_compiled = 0
        self.graphs: set[int] = set()
        self.breaks: dict[str, int] = {}
        self.recompiles: list[str] = []
        self.limit_hits: list[str] = []
        self.fallbacks: list[Fallback] = []
        self.cudagraph_skips = 0
        self.target_calls = 0
        """All calls, the policy's own with them."""
        self.times_compiled = 0
        """Calls in which dynamo looked at code that it had not compiled for this."""
        self.backward_seen = False
        self._code = code

    def add(self, call: Call, events: Events | None) -> None:
        """Count one call, and what dynamo did in it."""
        self.target_calls += 1
        if self.training:
            self.calls += 1
            if call.graphs:
                self.calls_compiled += 1
        self.graphs.update(call.graphs)
        if call.fallbacks:
            self._add_fallbacks(call)
        if events is not None:
            self.times_compiled += 1
            self._add_events(events)

    def saw_backward(self, _: Any) -> None:
        """Note that a backward pass went through a compiled graph."""
        self.backward_seen = True

    def _add_fallbacks(self, call: Call) -> None:
        number = self.calls if self.training else 0
        for where, error, shapes in call.fallbacks:
            self.fallbacks.append(Fallback(where, described(error), shapes, number))

    def _add_events(self, events: Events) -> None:
        for text in events.breaks:
            self.breaks[text] = self.breaks.get(text, 0) + 1
        self.recompiles += events.recompiles
        self.limit_hits += events.limit_hits
        self.cudagraph_skips += events.cudagraph_skips
        if events.limit_hits:
            _limited.add(self._code)
        number = self.calls if self.training else 0
        self.fallbacks += [Fallback("dynamo", text, (), number) for text in events.errors]

    def why_no_graph(self) -> str:
        """Return why no graph runs, as far as is known."""
        off = disabled_by()
        if off is not None:
            return off
        if self.limit_hits or (self._code in _limited and not self.graphs):
            return (
                "dynamo's recompile limit was reached for this code, and what it has not compiled by then runs in "
                "eager (torch._dynamo.config.recompile_limit; cache_size_limit in torch 2.6)"
            )
        if self.fallbacks:
            return self.fallbacks[0].error
        if self.breaks:
            return f"dynamo skipped it: {next(iter(self.breaks))}"
        return "dynamo found no tensor operation to compile" if self.target_calls else "it was not called yet"

    def report(self) -> CompileReport:
        """Return what is known now."""
        if self.on:
            troubles = (
                (sum(self.breaks.values()), "graph break"),
                (len(self.fallbacks), "fallback"),
                (len(self.limit_hits), "recompile limit hit"),
                (self.cudagraph_skips, "skipped CUDA graph"),
            )
            status, reason = judged(
                calls=self.calls,
                calls_compiled=self.calls_compiled,
                proved=bool(self.proved),
                troubles=troubles,
                why_none=self.why_no_graph(),
            )
        else:
            status, reason = "NOT APPLIED", self.why_off
        return CompileReport(
            target=self.name,
            status=status,
            reason=reason,
            mode=self.mode,
            backend=self.backend,
            graphs=len(self.graphs),
            breaks=tuple(text if count == 1 else f"{text} ({count} times)" for text, count in self.breaks.items()),
            recompiles=tuple(self.recompiles),
            limit_hits=tuple(self.limit_hits),
            cudagraph_skips=self.cudagraph_skips,
            calls=self.calls,
            calls_compiled=self.calls_compiled,
            fallbacks=tuple(self.fallbacks),
            proved=self.proved,
            notes=self.notes,
            decision=self.decision,
        )
