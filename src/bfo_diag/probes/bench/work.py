"""The parts of the bench probe, each in a process of its own: the first steps of one mode, and interleaved timing."""

from __future__ import annotations

import contextlib
import gc
import math
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bfo_diag.attempt import Attempt, attempt
from bfo_diag.errors import DiagError
from bfo_diag.probes import Request
from bfo_diag.probes.bench.arms import AS_IT_IS, CONTROL, EAGER, REFERENCE, compile_options, uses_cuda_graphs
from bfo_diag.probes.bench.reference import InFloat64, arrays, kept, optimizers_of, state_of, widen
from bfo_diag.records import Observation
from bfo_diag.shown import Progress
from bfo_diag.subject import Subject, as_it_is, fresh

BLOCK_S = 0.010
"""Least length of a timed block, in seconds."""
_QUIET = 3
_MOST_WARM_UP = 30
_LEAST_ROUNDS, _MOST_ROUNDS = 6, 200
CHECKED_STEPS = 5
"""Steps after which the state is compared."""


def first(
    request: Request, *, arm: str, cache: str, state_file: str, role: str, same_stream: bool = False
) -> Iterator[Observation | Progress]:
    """Run the first steps of one mode: what they take, what they need, and what state they end in."""
    target = request.load()
    if role == "target" and arm == EAGER:
        yield Observation("case", target.record.to_json())
    graphs = _graphs()
    made = attempt(lambda: as_it_is(target))
    if made.value is None:
        yield from made.observations("make")
        return
    subject, factory = made.value
    compiles_itself = _graphs() > graphs
    if arm == EAGER:
        yield Observation("subject", {"factory": factory, "compiles_itself": compiles_itself})
    reasons = _cudagraph_reasons() if uses_cuda_graphs(arm) else []
    if arm == AS_IT_IS:
        torch.compiler.reset()  # its first steps are to compile
    compiled_before = _graphs()
    steps = _FirstSteps(subject, arm, same_stream=same_stream, compiles_itself=compiles_itself)
    result = steps.run(state_file)
    common = {"arm": arm, "cache": cache, "same_stream": same_stream}
    if not result.ok:
        error = result.raised
        text = "out of time" if error is None else f"{error.type}: {error.message[:2000]}"
        yield Observation("mode_failed", {**common, "step": len(steps.times), "error": text})
        if arm == EAGER or result.timed_out:
            yield from result.observations(f"{arm}, step {len(steps.times)}", step=len(steps.times))
        return
    yield Observation(
        "first",
        {
            **common,
            "calls_s": steps.times,
            "compile_events": steps.events,
            "graphs": _graphs() - compiled_before,
            "rng_used": steps.rng_used,
            "cudagraph_reasons": reasons,
            **_cache_events(),
            **_memory(),
        },
    )


class _FirstSteps:
    """The first steps of one mode, until several in a row compile nothing, and the state after a few of them."""

    def __init__(self, subject: Subject, arm: str, **how: bool) -> None:
        self._subject = subject
        self._state = state_of(subject.case)
        self._call, self._holding = _step_of(subject, arm, **how)
        if arm == REFERENCE:
            widen(self._state, optimizers_of(subject.case))
        self.times: list[float] = []
        self.events: list[int] = []
        self.rng_used = False

    def run(self, state_file: str) -> Attempt[Any]:
        """Run them, and return what came of the last."""
        returned: list[Any] = []
        rng = _random_state()
        result: Attempt[Any] = Attempt()
        least = max(CHECKED_STEPS, self._subject.shapes_given)
        with self._holding:
            while len(self.times) < max(_MOST_WARM_UP, 2 * least):
                before, began = _compile_events(), time.perf_counter()
                number = len(self.times)
                result = attempt(lambda number=number: self._call(number))  # type: ignore[misc]
                _synchronize()
                self.times.append(time.perf_counter() - began)
                self.events.append(_compile_events() - before)
                if not result.ok:
                    return result
                if len(self.times) <= CHECKED_STEPS:
                    returned.append(kept(result.value))
                if len(self.times) == CHECKED_STEPS:
                    self.rng_used = rng != _random_state()
                    _save(state_file, arrays(self._state, returned))
                quiet = max(_QUIET, self._subject.shapes_given)
                if len(self.times) >= least and len(self.times) > quiet and not any(self.events[-quiet:]):
                    break
            if torch.cuda.is_initialized():  # the peak of steps, not of compiling
                torch.cuda.reset_peak_memory_stats()
                result = attempt(lambda: self._call(len(self.times)))
                _synchronize()
        return result


def measure(
    request: Request, *, arms: list[str], process: int, seconds: float, factory: bool, compiles_itself: bool
) -> Iterator[Observation | Progress]:
    """Time the arms in interleaved blocks: A C A' B, then B A' C A, and so on; A' is the A/A control."""
    # All arms compile the same functions here: torch's limit of compiles is for one of them.
    for name in ("recompile_limit", "cache_size_limit", "accumulated_recompile_limit", "accumulated_cache_size_limit"):
        if hasattr(torch._dynamo.config, name):
            setattr(torch._dynamo.config, name, getattr(torch._dynamo.config, name) * (len(arms) + 1))
    target = request.load()
    steps: dict[str, Callable[[int], Any]] = {}
    shapes = 1
    for arm in (*arms, CONTROL):
        made = attempt(lambda: fresh(target, factory=factory))
        if made.value is None:
            yield from made.observations("make")
            return
        steps[arm], holding = _step_of(made.value, arm)
        holding.close()
        shapes = made.value.shapes_given
    eagerly = (EAGER, CONTROL) if compiles_itself else ()
    timer = _Timer(steps, shapes=shapes, eagerly=eagerly)
    for arm in list(steps):
        yield Progress(0, None, f"warming up {arm}")
        done = attempt(lambda arm=arm: timer.warm_up(arm))  # type: ignore[misc]
        if done.raised is not None and arm not in (EAGER, CONTROL):
            timer.drop(arm)
            text = f"{done.raised.type}: {done.raised.message[:2000]}"
            failed = {"arm": arm, "cache": "timing", "same_stream": False, "step": 0, "error": text}
            yield Observation("mode_failed", failed)
        elif not done.ok:
            yield from done.observations(f"warm-up of {arm}")
            return
        elif done.value is False:
            yield Observation("never_settled", {"arm": arm, "process": process})
    timer.equalise()
    done_all = attempt(lambda: timer.run(seconds, seed=process))
    if done_all.raised is not None:
        yield from done_all.observations("timed blocks")
        return
    yield Observation(
        "measured",
        {
            "process": process,
            "step_s": timer.times,
            "cuda_step_s": timer.event_times,
            "thrown_away": timer.thrown_away,
            "steps_per_block": timer.steps_per_block,
            "threads": torch.get_num_threads(),
            "device": _device_seen(),
        },
    )
    if done_all.timed_out:
        yield from done_all.observations("timed blocks")


class _Timer:
    """Times blocks of steps; `times[arm]` has the seconds a step of each round, None where a compile fell in it.

    Every block runs the same calls, a whole number of times through the `shapes` different ones of the target.
    The arms in `eagerly` run with torch.compile switched off: what the target compiles itself is no eager step.
    """

    def __init__(
        self, steps: dict[str, Callable[[int], Any]], *, shapes: int = 1, eagerly: tuple[str, ...] = ()
    ) -> None:
        self._steps = steps
        self._eagerly = eagerly
        self._shapes = shapes
        self.times: dict[str, list[float | None]] = {arm: [] for arm in steps}
        self.event_times: dict[str, list[float | None]] = {arm: [] for arm in steps}
        self.thrown_away = dict.fromkeys(steps, 0)
        self.steps_per_block = dict.fromkeys(steps, shapes)

    def warm_up(self, arm: str) -> bool:
        """Run the arm until several calls in a row compile nothing, and return whether that came."""
        quiet = 0
        for number in range(max(_MOST_WARM_UP, 3 * self._shapes)):
            before = _compile_events()
            with self._stance(arm):
                self._steps[arm](number)
            quiet = quiet + 1 if _compile_events() == before else 0
            if quiet >= max(_QUIET, self._shapes):
                break
        took = min(self._block(arm, self._shapes)[0] for _ in range(3))
        rounds = math.ceil(BLOCK_S / max(took * self._shapes, 1e-7))
        self.steps_per_block[arm] = max(1, rounds) * self._shapes
        return quiet >= max(_QUIET, self._shapes)

    def _stance(self, arm: str) -> contextlib.AbstractContextManager[Any]:
        eager = arm in self._eagerly
        return torch.compiler.set_stance("force_eager") if eager else contextlib.nullcontext()

    def drop(self, arm: str) -> None:
        """Leave an arm out that failed."""
        for of_arm in (self._steps, self.times, self.event_times, self.thrown_away, self.steps_per_block):
            del of_arm[arm]

    def equalise(self) -> None:
        """Give all arms blocks of as many steps, so that a pair has done the same."""
        most = max(self.steps_per_block.values())
        self.steps_per_block = dict.fromkeys(self._steps, most)

    def run(self, seconds: float, *, seed: int) -> None:
        """Run rounds for about so many seconds, at least a few.

        Each second round is the one before it backwards, and each pair of rounds has an order of its own: what runs
        right after an arm that sleeps, or that fills the caches, would else be told apart by its neighbour.
        """
        order, shuffle = list(self._steps), random.Random(seed).shuffle
        gc.collect()
        collecting = gc.isenabled()
        gc.disable()
        began = time.perf_counter()
        rounds = 0
        try:
            while rounds < _MOST_ROUNDS and (rounds < _LEAST_ROUNDS or time.perf_counter() - began < seconds):
                row: dict[str, tuple[float | None, float | None]] = {}
                if rounds % 2 == 0:
                    shuffle(order)
                else:
                    order.reverse()
                for arm in order:
                    before = _compile_events()
                    wall, event = self._block(arm, self.steps_per_block[arm])
                    if _compile_events() == before:
                        row[arm] = (wall, event)
                    else:
                        row[arm] = (None, None)
                        self.thrown_away[arm] += 1
                for arm, (wall_s, event_s) in row.items():
                    self.times[arm].append(wall_s)
                    self.event_times[arm].append(event_s)
                rounds += 1
                gc.collect(0)
        finally:
            if collecting:
                gc.enable()

    def _block(self, arm: str, count: int) -> tuple[float, float | None]:
        """Return the seconds a step, by the wall clock (synchronised) and by CUDA events."""
        step = self._steps[arm]
        cuda = torch.cuda.is_initialized()
        start = torch.cuda.Event(enable_timing=True) if cuda else None
        stop = torch.cuda.Event(enable_timing=True) if cuda else None
        with self._stance(arm):
            _synchronize()
            if start is not None:
                start.record()
            began = time.perf_counter()
            for number in range(count):
                step(number)
            if stop is not None:
                stop.record()
            _synchronize()
            wall = (time.perf_counter() - began) / count
        event = start.elapsed_time(stop) / 1e3 / count if start is not None and stop is not None else None
        return wall, event


def _step_of(
    subject: Subject, arm: str, *, same_stream: bool = False, compiles_itself: bool = False
) -> tuple[Callable[[int], Any], contextlib.ExitStack]:
    """Return one step of an arm, and what must hold while it runs."""
    function = subject.function
    holding = contextlib.ExitStack()
    if same_stream:
        from torch._inductor import config

        config.fallback_random = True
    if arm == REFERENCE:
        holding.enter_context(InFloat64())
        dtype = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        holding.callback(torch.set_default_dtype, dtype)
    elif arm not in (EAGER, CONTROL, AS_IT_IS):
        options = compile_options(arm)
        try:
            function = torch.compile(function, **options)
        except RuntimeError as error:
            raise DiagError(f"torch.compile refuses the mode {arm}: {error}", mend="see --modes") from error
    marks = uses_cuda_graphs(arm) and torch.cuda.is_available()
    plainly = arm in (EAGER, CONTROL, REFERENCE)

    def step(number: int) -> Any:
        if marks:
            torch.compiler.cudagraph_mark_step_begin()
        return subject.call(function, number)

    if plainly and compiles_itself:  # what the target compiles itself is no eager step
        holding.enter_context(torch.compiler.set_stance("force_eager"))
    return step, holding


def _compile_events() -> int:
    """Return a number that grows whenever something is compiled, a backward pass at its first run too."""
    from torch._dynamo.utils import compilation_time_metrics, counters

    return int(counters["frames"]["total"]) + sum(map(len, compilation_time_metrics.values()))


def _graphs() -> int:
    """Return how many graphs were captured so far in this process."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def _random_state() -> tuple[bytes, ...]:
    states = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [])]
    return tuple(state.numpy().tobytes() for state in states)


def _cudagraph_reasons() -> list[str]:
    """Have Inductor's words on skipped CUDA graphs collected from now on, and return the list they go to."""
    from torch._inductor import cudagraph_utils

    reasons: list[str] = []
    for name in ("cudagraphs_log", "perf_hint_log"):
        log = getattr(cudagraph_utils, name, None)
        if log is None:
            continue

        def warning(message: object, *args: object, original: Callable[..., Any] = log.warning, **kwargs: Any) -> None:
            text = str(message)
            if "cudagraph" in text and text not in reasons:
                reasons.append(text)
            original(message, *args, **kwargs)

        log.warning = warning
    return reasons


def _device_seen() -> str:
    return f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_initialized() else "cpu"


def _cache_events() -> dict[str, Any]:
    from torch._dynamo.utils import counters

    inductor = counters["inductor"]
    return {
        "cache_hits": int(inductor["fxgraph_cache_hit"]) + int(counters["aot_autograd"]["autograd_cache_hit"]),
        "cache_misses": int(inductor["fxgraph_cache_miss"]),
        "cudagraph_skips": int(inductor["cudagraph_skips"]),
    }


def _memory() -> dict[str, Any]:
    found: dict[str, Any] = {"peak_rss_mib": None}
    if sys.platform != "win32":
        import resource

        unit = 2**20 if sys.platform == "darwin" else 2**10
        found["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    if torch.cuda.is_initialized():
        found["cuda_allocated_mib"] = torch.cuda.max_memory_allocated() / 2**20
        found["cuda_reserved_mib"] = torch.cuda.max_memory_reserved() / 2**20
    return found


def _synchronize() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _save(path: str, state: dict[str, np.ndarray[Any, Any]]) -> None:
    with Path(path).open("wb") as file:
        np.savez(file, **state)  # type: ignore[arg-type]
