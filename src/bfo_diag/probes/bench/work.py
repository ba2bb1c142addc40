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
from bfo_diag.probes import Progress, Request
from bfo_diag.probes.bench.arms import CONTROL, EAGER, REFERENCE, compile_options, uses_cuda_graphs
from bfo_diag.probes.bench.reference import InFloat64, arrays, state_of, widen
from bfo_diag.records import Observation
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
    made = attempt(lambda: as_it_is(target))
    if made.value is None:
        yield from made.observations("make")
        return
    subject, factory = made.value
    if arm == EAGER:
        yield Observation("subject", {"factory": factory, "name": subject.case.name, "kind": target.kind})
    state = state_of(subject.case)
    before = _frames()
    call, undo = _step_of(subject, arm, same_stream)
    if arm == REFERENCE:
        widen(state)
    times: list[float] = []
    frames: list[int] = []
    returned: list[Any] = []
    rng = torch.get_rng_state()
    result: Attempt[Any] = Attempt()
    with undo:
        while len(times) < _MOST_WARM_UP:
            seen, began = _frames(), time.perf_counter()
            number = len(times)
            result = attempt(lambda number=number: call(number))  # type: ignore[misc]
            _synchronize(request.device)
            times.append(time.perf_counter() - began)
            frames.append(_frames() - seen)
            if not result.ok:
                break
            if number == 0:
                rng_used = not torch.equal(rng, torch.get_rng_state())
            if len(times) <= CHECKED_STEPS:
                returned.append(_kept(result.value))
            if len(times) == CHECKED_STEPS:
                _save(state_file, arrays(state, returned))
            if len(times) >= CHECKED_STEPS and not any(frames[-_QUIET:]):
                break
    if not result.ok:
        error = result.raised
        yield Observation(
            "mode_failed",
            {
                "arm": arm,
                "cache": cache,
                "step": len(times),
                "error": "out of time" if error is None else f"{error.type}: {error.message[:2000]}",
            },
        )
        if arm == EAGER or result.timed_out:
            yield from result.observations(f"{arm}, step {len(times)}", step=len(times))
        return
    yield Observation(
        "first",
        {
            "arm": arm,
            "cache": cache,
            "calls_s": times,
            "frames": frames,
            "compiled": _frames() > before,
            "rng_used": rng_used,
            "same_stream": same_stream,
            "state": len(state),
            **_cache_events(),
            **_memory(request.device),
        },
    )


def measure(
    request: Request, *, arms: list[str], process: int, seconds: float, factory: bool
) -> Iterator[Observation | Progress]:
    """Time the arms in interleaved blocks: A C A' B, then B A' C A, and so on; A' is the A/A control."""
    target = request.load()
    steps: dict[str, Callable[[int], Any]] = {}
    for arm in (*arms, CONTROL):
        made = attempt(lambda: fresh(target, factory=factory))
        if made.value is None:
            yield from made.observations("make")
            return
        steps[arm], _ = _step_of(made.value, arm, False)
    timer = _Timer(steps, request.device)
    for arm in steps:
        yield Progress(0, None, f"warming up {arm}")
        done = attempt(lambda arm=arm: timer.warm_up(arm))  # type: ignore[misc]
        if not done.ok:
            yield from done.observations(f"warm-up of {arm}")
            return
        if done.value is False:
            yield Observation("never_settled", {"arm": arm, "process": process})
    done_all = attempt(lambda: timer.run(seconds, seed=process))
    if done_all.raised is not None:
        yield from done_all.observations("timed blocks")
        return
    yield Observation(
        "measured",
        {
            "process": process,
            "step_s": timer.times,
            "events_s": timer.event_times,
            "thrown_away": timer.thrown_away,
            "steps_per_block": timer.steps_per_block,
            "threads": torch.get_num_threads(),
            "device": request.device,
            "cudagraph_skips": _cudagraph_skips(),
        },
    )
    if done_all.timed_out:
        yield from done_all.observations("timed blocks")


class _Timer:
    """Times blocks of steps; `times[arm]` has the seconds a step of each round, None where a compile fell in it."""

    def __init__(self, steps: dict[str, Callable[[int], Any]], device: str) -> None:
        self._steps = steps
        self._device = device
        self._number = dict.fromkeys(steps, 0)
        self.times: dict[str, list[float | None]] = {arm: [] for arm in steps}
        self.event_times: dict[str, list[float | None]] = {arm: [] for arm in steps}
        self.thrown_away = dict.fromkeys(steps, 0)
        self.steps_per_block = dict.fromkeys(steps, 1)

    def warm_up(self, arm: str) -> bool:
        """Run the arm until several calls in a row compile nothing, and return whether that came."""
        quiet = 0
        for _ in range(_MOST_WARM_UP):
            before = _frames()
            self._run(arm, 1)
            quiet = quiet + 1 if _frames() == before else 0
            if quiet >= _QUIET:
                break
        took = min(self._block(arm, 1)[0] for _ in range(3))
        self.steps_per_block[arm] = max(1, math.ceil(BLOCK_S / max(took, 1e-7)))
        return quiet >= _QUIET

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
                    before = _frames()
                    wall, event = self._block(arm, self.steps_per_block[arm])
                    if _frames() == before:
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
        cuda = self._device.startswith("cuda")
        start = stop = None
        _synchronize(self._device)
        if cuda:
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
        began = time.perf_counter()
        self._run(arm, count)
        if start is not None and stop is not None:
            stop.record()
        _synchronize(self._device)
        wall = (time.perf_counter() - began) / count
        event = start.elapsed_time(stop) / 1e3 / count if start is not None and stop is not None else None
        return wall, event

    def _run(self, arm: str, count: int) -> None:
        step = self._steps[arm]
        for _ in range(count):
            step(self._number[arm])
            self._number[arm] += 1


def _step_of(
    subject: Subject, arm: str, same_stream: bool
) -> tuple[Callable[[int], Any], contextlib.AbstractContextManager[Any]]:
    """Return one step of an arm, and what must hold while it runs."""
    function = subject.function
    holding = contextlib.ExitStack()
    if arm == REFERENCE:
        holding.enter_context(InFloat64())
        dtype = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        holding.callback(torch.set_default_dtype, dtype)
    elif arm not in (EAGER, CONTROL):
        options = compile_options(arm)
        if same_stream:
            from torch._inductor import config

            config.fallback_random = True
        try:
            function = torch.compile(function, **options)
        except RuntimeError as error:
            raise DiagError(f"torch.compile refuses the mode {arm}: {error}", mend="see --modes") from error
    marks = uses_cuda_graphs(arm) and torch.cuda.is_available()

    def step(number: int) -> Any:
        if marks:
            torch.compiler.cudagraph_mark_step_begin()
        return subject.call(function, number)

    return step, holding


def _frames() -> int:
    """Return how many frames torch.compile has looked at so far in this process."""
    from torch._dynamo.utils import counters

    return int(counters["frames"]["total"])


def _cudagraph_skips() -> int:
    from torch._dynamo.utils import counters

    return int(counters["inductor"]["cudagraph_skips"])


def _cache_events() -> dict[str, Any]:
    from torch._dynamo.utils import counters

    inductor = counters["inductor"]
    return {
        "cache_hits": int(inductor["fxgraph_cache_hit"]) + int(counters["aot_autograd"]["autograd_cache_hit"]),
        "cache_misses": int(inductor["fxgraph_cache_miss"]),
        "cudagraph_skips": int(inductor["cudagraph_skips"]),
    }


def _memory(device: str) -> dict[str, Any]:
    found: dict[str, Any] = {"peak_rss_mib": None}
    if sys.platform != "win32":
        import resource

        unit = 2**20 if sys.platform == "darwin" else 2**10
        found["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    if device.startswith("cuda"):
        found["cuda_allocated_mib"] = torch.cuda.max_memory_allocated() / 2**20
        found["cuda_reserved_mib"] = torch.cuda.max_memory_reserved() / 2**20
    return found


def _synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _kept(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def _save(path: str, state: dict[str, np.ndarray[Any, Any]]) -> None:
    with Path(path).open("wb") as file:
        np.savez(file, **state)  # type: ignore[arg-type]
