"""Listens to torch's structured trace while calls run, and turns what it says into observations."""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

from bfo_diag import frames
from bfo_diag.probes.compile import compat
from bfo_diag.probes.compile.payload import Break, Frame, plain_function, read_break, read_guards
from bfo_diag.records import Observation, Place

_GRAPHS = {"aot_forward_graph": "forward", "aot_backward_graph": "backward", "aot_inference_graph": "inference"}
_METRICS = ("compilation_metrics", "bwd_compilation_metrics")
_SECONDS = {
    "entire_frame_compile_time_s": "total",
    "backend_compile_time_s": "backend",
    "inductor_compile_time_s": "inductor",
}
_LONGEST_RAW = 20_000


@dataclass(frozen=True)
class _Event:
    call: int
    metadata: dict[str, Any]
    payload: str


class Listener(logging.Handler):
    """Collects the trace's events between `with` and its end; `call` is the number that they get."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.call = 0
        self._events: list[_Event] = []
        self._files: dict[int, str] = {}
        self._before: tuple[int, bool] = (logging.NOTSET, True)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what will be needed; the rest of the trace is large."""
        metadata = getattr(record, "metadata", None)
        if not isinstance(metadata, dict):
            return
        if "str" in metadata:
            text, number = metadata["str"]
            self._files[number] = text
            return
        name = _kind(metadata)
        if name is not None:
            payload = getattr(record, "payload", None)
            # The text of a graph is long, and only that there is one counts.
            wanted = isinstance(payload, str) and name not in _GRAPHS
            self._events.append(_Event(self.call, metadata, str(payload) if wanted else ""))

    def __enter__(self) -> Listener:
        """Begin to listen."""
        logger = logging.getLogger(compat.TRACE_LOGGER)
        self._files.update(compat.interned_files())
        self._before = (logger.level, logger.propagate)
        logger.addHandler(self)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the logger as it was."""
        logger = logging.getLogger(compat.TRACE_LOGGER)
        logger.removeHandler(self)
        logger.setLevel(self._before[0])
        logger.propagate = self._before[1]

    def observations(self) -> Iterator[Observation]:
        """Yield what was heard since the last time, in its order."""
        events, self._events = self._events, []
        for event in events:
            yield from self._observations(event)

    def _observations(self, event: _Event) -> Iterator[Observation]:
        name = _kind(event.metadata)
        common = {"call": event.call, "compile_id": _compile_id(event.metadata)}
        if name == "dynamo_graph_break_reason":
            yield break_observation(read_break(event.payload, types=compat.break_types()), common)
        elif name == "recompile_reasons":
            guards = read_guards(event.payload)
            newest = guards[0] if guards else None
            if newest is not None:
                place = None if newest.file is None else self._guard_place(newest.file, newest.line or 0)
                values: dict[str, Any] = {
                    "guard": newest.text,
                    "name": newest.name,
                    "source": newest.source,
                    "hint": newest.hint,
                }
                others = [guard.text for guard in guards[1:]]
                yield Observation("recompile", {**common, **values, "others": others}, place)
        elif name == "dynamo_start":
            yield Observation("compile", {**common, **self._started(event.metadata["dynamo_start"])})
        elif name in _GRAPHS:
            yield Observation("graph", {**common, "direction": _GRAPHS[name]})
        elif name == "dynamo_output_graph":
            yield Observation("graph", {**common, "direction": "captured"})
        elif name in _METRICS:
            metrics = event.metadata[name]
            seconds = {short: metrics[key] for key, short in _SECONDS.items() if isinstance(metrics.get(key), float)}
            if name.startswith("bwd"):
                seconds["total"] = (metrics.get("duration_us") or 0) / 1e6
            values = {
                "backward": name.startswith("bwd"),
                "function": plain_function(metrics.get("co_name") or ""),
                "file": metrics.get("co_filename"),
                "owner": frames.owner_of_file(metrics.get("co_filename") or "<unknown>").value,
                "line": metrics.get("co_firstlineno"),
                "operations": metrics.get("graph_op_count") or 0,
                "fail_type": metrics.get("fail_type"),
                "fail_reason": metrics.get("fail_reason"),
                "seconds": seconds,
                "logging_s": metrics.get("structured_logging_overhead_s") or 0.0,
            }
            yield Observation("compiled", {**common, **values})
        elif name is not None:
            yield Observation("cache", {**common, "event": name})

    def _guard_place(self, file: str, line: int) -> Place | None:
        if not Path(file).is_absolute():  # older versions of torch write the last two parts alone
            file = next((known for known in self._files.values() if known.endswith(f"/{file}")), "")
        if not file or frames.owner_of_file(file) in (frames.Owner.TORCH, frames.Owner.OURS):
            return None  # where torch made the guard says nothing to its reader
        source = frames.Spot(file, line, "", frames.Owner.USER).source
        return Place(file=file, line=line, source=source or None)

    def _started(self, start: dict[str, Any]) -> dict[str, Any]:
        stack = [entry for entry in start.get("stack") or () if isinstance(entry, dict)]
        innermost = stack[-1] if stack else {}
        return {
            "function": plain_function(str(innermost.get("name", ""))),
            "file": self._files.get(innermost.get("filename", -1)),
            "line": innermost.get("line"),
        }


def _kind(metadata: dict[str, Any]) -> str | None:
    artifact = metadata.get("artifact")
    if isinstance(artifact, dict):
        name = str(artifact.get("name"))
        if name in ("dynamo_graph_break_reason", "recompile_reasons") or name.startswith("fx_graph_cache_"):
            return name
        return None
    for name in (*_GRAPHS, *_METRICS, "dynamo_start", "dynamo_output_graph", "dynamo_graph_break_reason"):
        if name in metadata:
            return name
    return "recompile_reasons" if "recompile_reasons" in metadata else None


def _compile_id(metadata: dict[str, Any]) -> str:
    frame, again = metadata.get("frame_id"), metadata.get("frame_compile_id")
    return "" if frame is None else f"{frame}/{again}"


def break_observation(found: Break, common: dict[str, Any], *, kind: str = "break") -> Observation:
    """Return a break for the record: its frames with their owners, without ours, and the site it belongs to."""
    stack = [_with_owner(frame) for frame in found.frames]
    ours = [index for index, frame in enumerate(stack) if frame["owner"] == frames.Owner.OURS.value]
    kept = stack[ours[-1] + 1 :] if ours else stack  # what is outside of us called us, and not the target
    innermost = kept[-1] if kept else None
    user = next((frame for frame in reversed(kept) if frame["owner"] == frames.Owner.USER.value), None)
    shown = innermost if innermost is None or innermost["owner"] == frames.Owner.USER.value else user or innermost
    values = {
        **common,
        "code": found.code,
        "type": found.type,
        "explanation": found.explanation,
        "hints": list(found.hints),
        "context": found.context,
        "url": found.url,
        "cascade": [list(pair) for pair in found.cascade],
        "frames": kept,
        "raw": found.raw[:_LONGEST_RAW],
    }
    place = None
    if shown is not None:
        place = Place(
            file=shown["file"], line=shown["line"], source=shown["source"] or None, function=shown["function"]
        )
    return Observation(kind, values, place)


def _with_owner(frame: Frame) -> dict[str, Any]:
    # The payload's text of a line may span several; the file's own line is what the reader sees in an editor.
    source = frames.Spot(frame.file, frame.line, frame.function, frames.Owner.USER).source or frame.source
    return {
        "file": frame.file,
        "line": frame.line,
        "function": qualified_name(frame.file, frame.line) or frame.function,
        "source": source,
        "owner": frames.owner_of_file(frame.file).value,
    }


@lru_cache(maxsize=256)
def _definitions(file: str) -> tuple[tuple[int, int, str], ...]:
    try:
        tree = ast.parse(Path(file).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return ()
    found: list[tuple[int, int, str]] = []

    def walk(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                name = f"{prefix}{child.name}"
                found.append((child.lineno, child.end_lineno or child.lineno, name))
                walk(child, f"{name}.")
            else:
                walk(child, prefix)

    walk(tree, "")
    return tuple(found)


def qualified_name(file: str, line: int) -> str:
    """Return the name of the innermost function or class around a line, with those around it; empty where none is."""
    around = [(first, name) for first, last, name in _definitions(file) if first <= line <= last]
    return max(around)[1] if around else ""
