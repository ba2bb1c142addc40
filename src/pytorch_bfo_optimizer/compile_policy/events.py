"""What dynamo did while a call ran: graph breaks, recompiles, the recompile limit, errors it kept to itself.

Read from dynamo's own counters and metrics; their texts have no version, so they are shortened and not interpreted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pytorch_bfo_optimizer.compile_policy.calls import shortened

_TORCH = str(Path(torch.__file__).parent)


@dataclass(frozen=True, slots=True)
class Events:
    """What was seen of one call, or of several; each text holds its place where torch tells it."""

    breaks: tuple[str, ...] = ()
    recompiles: tuple[str, ...] = ()
    limit_hits: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    """Errors of the compiler itself, after which torch runs a frame in eager."""
    cudagraph_skips: int = 0
    """Graphs that were to become CUDA graphs and did not, on a CPU for one."""


class Watch:
    """Compares dynamo's records before and after a call.

    Whatever dynamo does begins with a frame, and it counts frames: where that number stands still there is nothing
    to look for, so a call that compiles nothing costs two look-ups. The records are the process's: what another
    thread compiles meanwhile is taken for the call's.
    """

    def __init__(self) -> None:
        import torch._dynamo.utils as dynamo  # here: it takes over a second to import

        self._dynamo = dynamo
        self._frames = -1
        self._skips: Mapping[str, int] = {}
        self._last: Any = None
        self._last_break: Any = None
        self._cudagraph_skips = 0

    def begin(self) -> None:
        """Note where the records stand, if anybody compiled since they were last read."""
        if self._dynamo.counters["frames"]["total"] != self._frames:
            self._note()

    def happened(self) -> bool:
        """Whether dynamo looked at any frame since `begin`."""
        return bool(self._dynamo.counters["frames"]["total"] != self._frames)

    def end(self) -> Events:
        """Return what came in since `begin`, and begin anew."""
        metrics = _since(self._dynamo.get_compilation_metrics(), self._last)
        skips = [
            text for text, count in self._dynamo.counters["unimplemented"].items() if count > self._skips.get(text, 0)
        ]
        breaks = _since(self._dynamo.graph_break_reasons, self._last_break)
        cudagraph_skips = -self._cudagraph_skips
        self._note()
        return Events(
            breaks=_breaks(breaks, skips, metrics),
            recompiles=tuple(_recompile(metric) for metric in metrics if _again(metric) and not _limit(metric)),
            limit_hits=tuple(_recompile(metric) for metric in metrics if _limit(metric)),
            errors=tuple(_failure(metric) for metric in metrics if _kept_to_itself(metric)),
            cudagraph_skips=cudagraph_skips + self._cudagraph_skips,
        )

    def _note(self) -> None:
        self._frames = self._dynamo.counters["frames"]["total"]
        self._skips = dict(self._dynamo.counters["unimplemented"])
        self._cudagraph_skips = self._dynamo.counters["inductor"]["cudagraph_skips"]
        metrics, breaks = self._dynamo.get_compilation_metrics(), self._dynamo.graph_break_reasons
        self._last = metrics[-1] if metrics else None
        self._last_break = breaks[-1] if breaks else None


def _since(records: list[Any], last: Any) -> list[Any]:
    """Return the records after `last`; torch drops the oldest metrics, and at a reset all breaks."""
    for index in range(len(records) - 1, -1, -1):
        if records[index] is last:
            return records[index + 1 :]
    return list(records)


def _breaks(reasons: Iterable[Any], skips: list[str], metrics: list[Any]) -> tuple[str, ...]:
    """Return the breaks that ended a graph, and those for which dynamo gave a whole frame up.

    The second kind has no entry among the reasons. The metrics have it; 2.6 has it in the counters alone, which also
    hold most of the first kind.
    """
    found = [_at(reason.reason, *_place(reason.user_stack)) for reason in reasons]
    given_up = [_failure(metric) for metric in metrics if metric.fail_type == "Unsupported" and not _limit(metric)]
    if not found and not given_up:
        given_up = [_at(text, None, None) for text in skips if not _is_limit(text)]
    return tuple(found + given_up)


def _place(stack: list[Any]) -> tuple[str | None, int | None]:
    """Return the innermost place that is not torch's own code, if any is not."""
    found = [frame for frame in stack if not frame.filename.startswith(_TORCH)] or stack
    return (found[-1].filename, found[-1].lineno) if found else (None, None)


def _at(reason: str, file: str | None, line: int | None) -> str:
    shown = shortened(reason) or "no reason given"
    return f"{shown} at {file}:{line}" if file else shown


def _failure(metric: Any) -> str:
    return _at(
        metric.fail_reason or metric.fail_type,
        getattr(metric, "fail_user_frame_filename", None),
        getattr(metric, "fail_user_frame_lineno", None),
    )


def _recompile(metric: Any) -> str:
    reason = getattr(metric, "recompile_reason", None)  # not on torch 2.6
    return " ".join(reason.split()) if reason else f"{metric.compile_id}: this torch does not tell why"


def _again(metric: Any) -> bool:
    """Whether a frame was compiled that had been compiled before; the id is `frame/time`, `frame/time_attempt`."""
    _, _, time = str(metric.compile_id).partition("/")
    return _of_a_frame(metric) and time.partition("_")[0] not in ("", "0")


def _of_a_frame(metric: Any) -> bool:
    """Whether it tells of dynamo's own work: not of a backward compiled later, which belongs to a graph."""
    return getattr(metric, "is_forward", True) is not False and not getattr(metric, "is_runtime", False)


def _limit(metric: Any) -> bool:
    return metric.fail_type == "RecompileLimitExceeded" or _is_limit(metric.fail_reason or "")


def _is_limit(text: str) -> bool:
    return "recompile limit" in text.lower() or "cache_size_limit" in text


def _kept_to_itself(metric: Any) -> bool:
    soft = metric.fail_type in (None, "Unsupported", "RecompileLimitExceeded") or _limit(metric)
    return not soft and _of_a_frame(metric)
