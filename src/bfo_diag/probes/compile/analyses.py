"""The parts of the compile probe, each in a process of its own: survey, calls, fullgraph, and one try of a fix."""

from __future__ import annotations

import contextlib
import functools
import gc
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from bfo_diag.attempt import Attempt, attempt
from bfo_diag.errors import DiagError
from bfo_diag.probes import Request
from bfo_diag.probes.compile import compat, coverage
from bfo_diag.probes.compile.events import Listener, break_observation
from bfo_diag.probes.compile.payload import read_break
from bfo_diag.records import Observation
from bfo_diag.shown import Progress
from bfo_diag.subject import Subject, as_it_is, compiled_names, fresh
from bfo_diag.targets import Target

_SHOWN_OPERATIONS = 12
_COUNTED_CALLS = 16


def survey(request: Request, *, calls: int, backend: str, role: str) -> Iterator[Observation | Progress]:
    """Find out what the target is, what explain says of it, and how much of it graphs would cover."""
    if backend not in compat.backends():
        raise DiagError(
            f"--backend {backend!r} is no backend of this torch", mend=f"choose from {', '.join(compat.backends())}"
        )
    target = request.load()
    if role == "target":
        yield Observation("case", target.record.to_json())
    with Listener() as listener:
        found = attempt(lambda: as_it_is(target))
    if found.value is None:
        yield from _stopped(found, "eager call 1", number=1)
        return
    subject, factory = found.value
    compiles_itself = any(observation.kind == "compile" for observation in listener.observations())
    calls = calls if subject.shapes_given == 1 else max(calls, subject.shapes_given + 2)
    yield Observation(
        "subject",
        {
            "factory": factory,
            "kind": target.kind,
            "compiled": subject.part,
            "compiles_itself": compiles_itself,
            "bypassed": [] if compiles_itself else compiled_names(subject.case),
            "disabled_by": _disabled_by(subject),
            "calls": calls,
            "switches": compat.switches(),
        },
    )
    if not compiles_itself:
        explained = list(_explain(target, factory=factory))
        yield from explained
        if any(observation.kind == "timed_out" for observation in explained):
            return
    compat.reset()
    yield Progress(1, None, "counting operations")
    yield from _coverage(target, factory=factory, calls=calls, compiles_itself=compiles_itself)


def _coverage(target: Target, *, factory: bool, calls: int, compiles_itself: bool) -> Iterator[Observation | Progress]:
    """Count the operations of each different call, eagerly and compiled; each graph's runs are marked meanwhile."""
    different = 1
    eager: Counter[str] = Counter()
    outside: Counter[str] = Counter()

    def counted_eagerly() -> int:
        subject = fresh(target, factory=factory)
        with torch.compiler.set_stance("force_eager"):
            subject.call_part(subject.function, 0)  # what an optimizer sets up at its first step is not counted
            for number in range(min(subject.shapes_given, _COUNTED_CALLS)):
                inside, around = coverage.outermost(functools.partial(subject.call_part, subject.function, number))
                eager.update(inside + around)
        return min(subject.shapes_given, _COUNTED_CALLS)

    def counted_compiled() -> None:
        subject = fresh(target, factory=factory)
        function = subject.function
        compiled = function if compiles_itself else torch.compile(function, backend="aot_eager")
        for number in range(calls):
            subject.call_part(compiled, number)
        for number in range(different):
            outside.update(coverage.outermost(functools.partial(subject.call_part, compiled, number))[1])

    done: Attempt[Any] = attempt(counted_eagerly)
    if done.value is not None:
        different = done.value
        with compat.graphs_wrapped(coverage.marked):
            done = attempt(counted_compiled)
    if done.timed_out:
        yield from _stopped(done, "counting operations (compiling)")
        return
    left = coverage.uncovered(eager, outside)
    total = sum(eager.values())
    share = None if not done.ok or total == 0 else 1 - sum(left.values()) / total
    why = _why_not(done) if not done.ok else "no ATen operation runs" if total == 0 else ""
    yield Observation(
        "coverage",
        {
            "share": share,
            "why": why,
            "eager_operations": total if done.ok else None,
            "outside": dict(left.most_common(_SHOWN_OPERATIONS)),
            "calls": different,
        },
    )


def _explain(target: Target, *, factory: bool) -> Iterator[Observation]:
    made = attempt(lambda: fresh(target, factory=factory))
    if made.value is None:
        yield Observation("explain", {"error": _why_not(made)})
        return
    subject = made.value
    function, arguments = subject.function, subject.arguments(0)
    got = attempt(lambda: torch._dynamo.explain(function)(*arguments))
    if got.timed_out:
        yield from _stopped(got, "torch._dynamo.explain (compiling)")
    elif got.value is None:
        yield Observation("explain", {"error": _why_not(got)})
    else:
        counts = {name: getattr(got.value, name) for name in ("graph_break_count", "graph_count", "op_count")}
        yield Observation("explain", counts)


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
    others = _parameters()  # of what else is in this process
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
                    "parameters": _parameter_sum(others) if number == calls - 1 else None,
                    "disabled_by": _disabled_by(subject),
                    "cudagraph_skips": _cudagraph_skips(),
                },
            )
            if not done.ok:
                yield from _stopped(done, f"compiled call {number + 1}", number=number + 1)
                return


def _parameters() -> list[torch.nn.Parameter]:
    """Return all parameters of this process."""
    return [thing for thing in gc.get_objects() if type(thing) is torch.nn.Parameter]


def _parameter_sum(others: list[torch.nn.Parameter]) -> float | None:
    """Return one number of the target's parameters (all but `others`): a step that trains otherwise has another."""
    known = {id(parameter) for parameter in others}
    held = [parameter for parameter in _parameters() if id(parameter) not in known]
    with torch.no_grad():
        sums = [float(p.double().abs().sum()) for p in held if p.is_floating_point() and p.layout is torch.strided]
    return math.fsum(sums) if sums else None


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
    # A target that compiles itself is asked for one graph where it calls torch.compile, on import or later.
    holding = contextlib.ExitStack()
    if compiles_itself:
        holding.enter_context(compat.compile_called_with(fullgraph=True))
    options = {"backend": backend, "mode": mode, "dynamic": dynamic, "fullgraph": True}
    with holding:
        yield from _verified(*_compiled(request, factory, compiles_itself, options))


def _verified(subject: Subject, compiled: Callable[..., Any]) -> Iterator[Observation | Progress]:
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
    ok = error is None and graphs > 0
    yield Observation("fullgraph", {"ok": ok, "graphs": graphs, "raised": error is not None, "died": None})


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


def _stopped(result: Attempt[Any], phase: str, *, number: int | None = None) -> Iterator[Observation]:
    raised = result.raised
    if raised is None or not compat.is_compile_error(raised):
        yield from result.observations(phase, step=number)
        return
    # What the compiler raises is about the compiler: without it the target has run.
    found = read_break(raised.message, types=compat.break_types())
    common = {"error_type": raised.type, "call": number, "traceback": raised.traceback}
    observation = break_observation(found, common, kind="compile_error")
    seen_by_compiler = any(frame["owner"] == "user" for frame in observation.values["frames"])
    if raised.spot is not None and not seen_by_compiler:
        observation = replace(observation, place=raised.spot.place(step=number))
    yield observation


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
