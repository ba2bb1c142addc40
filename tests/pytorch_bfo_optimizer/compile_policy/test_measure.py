from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytorch_bfo_optimizer.compile_policy.applied import Applied
from pytorch_bfo_optimizer.compile_policy.audit import Audit
from pytorch_bfo_optimizer.compile_policy.measure import MOST_STEPS, PAIRS, SETTLE, Stopwatch, eager_time, timings
from pytorch_bfo_optimizer.compile_policy.peers import Peers


class Bench:
    """A target whose step advances a clock, by what it takes in the state it is switched to."""

    def __init__(self, eager_s: float, compiled_s: float, *, compiles: tuple[int, ...] = ()) -> None:
        self.now, self.turns = 0.0, []
        self.eager_s, self.compiled_s, self.compiles = eager_s, compiled_s, compiles
        audit = Audit("target", mode="default", backend="eager", code=Bench)
        self.applied = Applied(lambda: None, audit)
        self.applied.switch(on=True)
        self.watch = Stopwatch(lambda: self.now, Peers())

    def step(self) -> None:
        on = self.applied.audit.on
        self.turns.append(on)
        if on and self.turns.count(True) in self.compiles:
            self.now += 5.0
            self.applied.audit.times_compiled += 1
        self.now += self.compiled_s if on else self.eager_s

    def timings(self, t_eager: float, first_s: float = 7.0) -> Any:
        return timings(self.applied, self.step, self.watch, first_s=first_s, t_eager=t_eager)


def test_eager_time_is_a_median_after_warming_up_and_leaves_the_switch() -> None:
    bench = Bench(0.5, 0.1)
    assert eager_time(bench.applied, bench.step, bench.watch) == 0.5
    assert set(bench.turns) == {False}
    assert bench.applied.audit.on


def test_pairs_take_turns_and_turn_about() -> None:
    bench = Bench(1.0, 0.5)
    found = bench.timings(1.0)
    assert (found.eager, found.compiled) == ((1.0,) * PAIRS, (0.5,) * PAIRS)
    assert bench.turns[2:10] == [False, True, True, False, False, True, True, False]
    assert bench.applied.audit.on


@pytest.mark.parametrize(("t_eager", "count"), [(0.001, 10), (1.0, 1), (1e-9, MOST_STEPS), (0.0, MOST_STEPS)])
def test_a_block_is_ten_milliseconds_or_a_step(t_eager: float, count: int) -> None:
    bench = Bench(0.001, 0.001)
    bench.timings(t_eager)
    assert bench.turns.count(False) == PAIRS * count


@pytest.mark.parametrize(
    ("compiles", "first_s", "first_calls"),
    [((), 7.0, 1), ((1,), 7 + 5.5, 2), ((2,), 7 + 0.5 + 5.5, 3), ((1, 2), 7 + 5.5 + 5.5, 3)],
)
def test_the_cost_runs_to_the_last_call_that_compiled(
    compiles: tuple[int, ...], first_s: float, first_calls: int
) -> None:
    found = Bench(1.0, 0.5, compiles=compiles).timings(1.0)
    assert (found.first_s, found.first_calls) == (pytest.approx(first_s), first_calls)


def test_what_never_settles_is_not_waited_for() -> None:
    bench = Bench(1.0, 0.5, compiles=tuple(range(1000)))
    assert bench.timings(1.0).first_calls == SETTLE + 1


def test_alone_every_process_agrees_with_itself() -> None:
    assert Peers().first(3) == 3
    assert (Peers().all(True), Peers().all(False)) == (True, False)
    assert Peers.of([SimpleNamespace()]) == Peers()
