"""The parts of the compile probe, each in a process of its own: survey, calls, fullgraph, and one try of a fix."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from bfo_diag.attempt import Attempt, attempt
from bfo_diag.errors import DiagError
from bfo_diag.probes import Progress, Request
from bfo_diag.probes.compile import compat, coverage
from bfo_diag.probes.compile.events import Listener, break_observation
from bfo_diag.probes.compile.payload import read_break
from bfo_diag.records import Observation, Place
from bfo_diag.subject import Subject, fresh, returned_case
from bfo_diag.targets import Target

_SHOWN_OPERATIONS = 12


def survey(request: Request, *, calls: int, role: str) -> Iterator[Observation | Progress]:
    """Find out what the target is, what explain says of it, and how much of it graphs would cover."""
    target = request.load()
    if role == "target":
        yield Observation("case", target.record.to_json())
    made = attempt(lambda: fresh(target, factory=False))
    if made.value is None:
        yield from _stopped(made, "make")
        return
    subject, factory = made.value, False
    with Listener() as listener:
        first = attempt(lambda: made.value.call(made.value.function, 0))  # type: ignore[union-attr]
    if first.ok and returned_case(target, subject, first.value):
        factory = True
        again = attempt(lambda: fresh(target, factory=True))
        if again.value is None:
            yield from _stopped(again, "make")
            return
        subject = again.value
        with Listener() as listener:
            first = attempt(lambda: subject.call(subject.function, 0))
    if not first.ok:
        yield from _stopped(first, "eager call 1", compiled=True, number=1)
        return
    compiles_itself = any(observation.kind == "compile" for observation in listener.observations())
    calls = max(calls, subject.shapes_given)
    yield Observation(
        "subject",
        {
            "factory": factory,
            "kind": target.kind,
            "compiles_itself": compiles_itself,
            "disabled_by": _disabled_by(subject),
            "calls": calls,
            "name": subject.case.name,
        },
    )
    if not compiles_itself:
        yield _explain(target, factory=factory)
        compat.reset()
    yield Progress(1, None, "counting operations")
    eager = attempt(lambda: coverage.operations(lambda: _eagerly(subject)))
    if eager.value is None:
        yield from _stopped(eager, "eager call 2", compiled=True)
        return
    total = sum((eager.value[0] + eager.value[1]).values())
    yield from _coverage(target, factory=factory, calls=calls, total=total, compiles_itself=compiles_itself)


def _eagerly(subject: Subject) -> Any:
    with torch.compiler.set_stance("force_eager"):
        return subject.call(subject.function, 1)


def _coverage(
    target: Target, *, factory: bool, calls: int, total: int, compiles_itself: bool
) -> Iterator[Observation | Progress]:
    made = attempt(lambda: fresh(target, factory=factory))
    if made.value is None:
        yield Observation("coverage", {"share": None, "why": _why_not(made)})
        return
    subject = made.value
    function = subject.function
    compiled = function if compiles_itself else torch.compile(function, backend=coverage.marking_backend)
    for number in range(calls):
        # A compile in the profiled call would be profiled: the shapes that are counted were seen before.
        done = attempt(lambda number=number: subject.call(compiled, number))  # type: ignore[misc]
        if not done.ok:
            yield Observation("coverage", {"share": None, "why": f"call {number + 1}: {_why_not(done)}"})
            return
    counted = attempt(lambda: coverage.operations(lambda: subject.call(compiled, calls - 1)))
    if counted.value is None:
        yield Observation("coverage", {"share": None, "why": _why_not(counted)})
        return
    inside, outside = counted.value
    share = None if total == 0 else min(1.0, max(0.0, 1 - sum(outside.values()) / total))
    why = "" if share is not None else "no ATen operation runs"
    if compiles_itself and not inside and sum(outside.values()) >= total > 0:
        # Inductor marks its graphs for the profiler; what another backend runs looks like eager operations.
        share, why = None, "the target compiles itself, with a backend that does not mark its graphs"
    yield Observation(
        "coverage",
        {
            "share": share,
            "why": why,
            "eager_operations": total,
            "outside": dict(outside.most_common(_SHOWN_OPERATIONS)),
            "outside_operations": sum(outside.values()),
        },
    )


def _explain(target: Target, *, factory: bool) -> Observation:
    made = attempt(lambda: fresh(target, factory=factory))
    if made.value is None:
        return Observation("explain", {"error": _why_not(made)})
    subject = made.value
    function, arguments = subject.function, subject.arguments(0)
    got = attempt(lambda: torch._dynamo.explain(function)(*arguments))
    if got.value is None:
        return Observation("explain", {"error": _why_not(got)})
    return Observation(
        "explain",
        {
            "graph_break_count": got.value.graph_break_count,
            "graph_count": got.value.graph_count,
            "op_count": got.value.op_count,
        },
    )


def run_calls(
    request: Request,
    *,
    factory: bool,
    compiles_itself: bool,
    calls: int,
    backend: str,
    mode: str | None,
    dynamic: bool | None,
    switch: str | None = None,
) -> Iterator[Observation | Progress]:
    """Make the calls through torch.compile, and write down what the trace says of each.

    With `switch`, that option of torch._dynamo.config is on.
    """
    subject, compiled = _compiled(
        request, factory, compiles_itself, {"backend": backend, "mode": mode, "dynamic": dynamic, "fullgraph": False}
    )
    turned_on = contextlib.nullcontext() if switch is None else compat.switched(switch)
    with turned_on, Listener() as listener:
        for number in range(calls):
            yield Progress(number, calls, f"compiled call {number + 1}")
            listener.call = number + 1
            began = time.perf_counter()
            done = attempt(lambda number=number: subject.call(compiled, number))  # type: ignore[misc]
            call_s = time.perf_counter() - began
            yield from listener.observations()
            yield Observation(
                "call",
                {
                    "number": number + 1,
                    "call_s": call_s,
                    "ok": done.ok,
                    "returned": _fingerprint(done.value),
                    "disabled_by": _disabled_by(subject),
                    "cudagraph_skips": _cudagraph_skips(),
                },
            )
            if not done.ok:
                yield from _stopped(done, f"compiled call {number + 1}", compiled=True, number=number + 1)
                return


def fullgraph(
    request: Request,
    *,
    factory: bool,
    compiles_itself: bool,
    backend: str,
    mode: str | None,
    dynamic: bool | None,
) -> Iterator[Observation | Progress]:
    """Verify `fullgraph=True` with two real calls, backward included."""
    subject, compiled = _compiled(
        request, factory, compiles_itself, {"backend": backend, "mode": mode, "dynamic": dynamic, "fullgraph": True}
    )
    graphs = 0
    error: Observation | None = None
    with Listener() as listener:
        for number in range(2):
            yield Progress(number, 2, f"fullgraph call {number + 1}")
            listener.call = number + 1
            done = attempt(lambda number=number: subject.call(compiled, number))  # type: ignore[misc]
            heard = list(listener.observations())
            graphs += sum(o.kind == "graph" and o.values["direction"] == "captured" for o in heard)
            if done.timed_out:
                yield from _stopped(done, f"fullgraph call {number + 1}")
                return
            if done.raised is not None:
                raised = done.raised
                found = read_break(raised.message, types=compat.break_types())
                common = {"error_type": raised.type, "call": number + 1}
                error = break_observation(found, common, kind="fullgraph_error")
                break
    if error is not None:
        yield error
    yield Observation("fullgraph", {"ok": error is None and graphs > 0, "graphs": graphs, "raised": error is not None})


def _compiled(
    request: Request, factory: bool, compiles_itself: bool, options: dict[str, Any]
) -> tuple[Subject, Callable[..., Any]]:
    target = request.load()
    subject = fresh(target, factory=factory)
    if compiles_itself:
        return subject, subject.function
    try:
        made = torch.compile(subject.function, **{key: value for key, value in options.items() if value is not None})
    except RuntimeError as error:
        raise DiagError(
            f"torch.compile refuses --mode {options['mode']} --backend {options['backend']}: {error}",
            mend="--mode goes with the backend inductor alone: default, reduce-overhead, max-autotune",
        ) from error
    return subject, made


def _disabled_by(subject: Subject) -> str | None:
    reason = compat.disabled_by()
    if reason is None and getattr(subject.function, "_torchdynamo_disable", False):
        reason = "torch.compiler.disable on the target itself"
    return reason


def _stopped(
    result: Attempt[Any], phase: str, *, compiled: bool = False, number: int | None = None
) -> Iterator[Observation]:
    if result.timed_out:
        spot = result.stopped_at
        yield Observation("timed_out", {"phase": phase}, spot.place(step=number) if spot else Place(step=number))
        return
    raised = result.raised
    if raised is None:
        return
    if compiled and compat.is_compile_error(raised):
        # What the compiler raises is about the compiler; it has already run without in the survey.
        found = read_break(raised.message, types=compat.break_types())
        common = {"error_type": raised.type, "call": number, "traceback": raised.traceback}
        yield break_observation(found, common, kind="compile_error")
        return
    yield raised.observation(phase, step=number)


def _why_not(result: Attempt[Any]) -> str:
    if result.raised is None:
        return "it ran out of time"
    return f"{result.raised.type}: {result.raised.message.strip().splitlines()[0] if result.raised.message else ''}"


def _fingerprint(value: object) -> float | None:
    """Return one number that tells two results apart, None where there is none."""
    if isinstance(value, torch.Tensor) and not value.is_complex() and value.numel():
        return float(value.detach().double().sum())
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _cudagraph_skips() -> int:
    from torch._dynamo.utils import counters

    return int(counters["inductor"]["cudagraph_skips"])
