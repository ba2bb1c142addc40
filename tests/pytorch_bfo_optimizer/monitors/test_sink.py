from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytorch_bfo_optimizer import StepRecord, TelemetryError
from pytorch_bfo_optimizer.monitors import StepSink, sink

Make = Callable[..., StepRecord]


class Clock:
    """Stands in for `time`."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Noting(StepSink):
    """Notes the generations that it is to write, which takes half a second by the clock."""

    def __init__(self, *, every: int | None, clock: Clock | None = None) -> None:
        super().__init__("noted", every=every)
        self.clock = clock or Clock()
        self.written: list[int] = []
        self.ended = 0

    def _write(self, record: StepRecord) -> None:
        self.written.append(record.generation)
        self.clock.now += 0.5

    def _end(self) -> None:
        self.ended += 1


@pytest.mark.parametrize(("every", "expected"), [(1, [1, 2, 3, 4, 5, 6]), (2, [1, 3, 5, 6]), (5, [1, 6])])
def test_every_nth_step_is_written_and_the_last(record: Make, every: int, expected: list[int]) -> None:
    with Noting(every=every) as noting:
        for generation in range(1, 7):
            noting(record(generation))
        before_the_end = list(noting.written)
    assert noting.written == expected
    assert before_the_end == [generation for generation in expected if (generation - 1) % every == 0]
    assert noting.ended == 1


def test_a_resumed_run_writes_the_steps_that_the_whole_one_would_have(record: Make) -> None:
    noting = Noting(every=10)
    for generation in range(48, 75):
        noting(record(generation))
    assert noting.written == [51, 61, 71]


@pytest.mark.parametrize(("share", "expected"), [(0.01, [1, 4]), (0.005, [1, 6])])
def test_without_every_it_takes_a_share_of_the_time(
    record: Make, monkeypatch: pytest.MonkeyPatch, share: float, expected: list[int]
) -> None:
    clock = Clock()
    monkeypatch.setattr(sink, "time", clock)
    monkeypatch.setattr(Noting, "share", share)
    noting = Noting(every=None, clock=clock)  # a write takes 0.5 seconds: the next begins 50 or 100 seconds later
    for generation, now in enumerate([10.0, 60.0, 60.4, 60.5, 110.4, 110.5, 110.9], start=1):
        clock.now = max(clock.now, now)
        noting(record(generation))
    assert noting.written == expected
    monkeypatch.undo()
    noting.close()
    assert noting.written == [*expected, 7]


def test_after_close_a_step_is_refused(record: Make) -> None:
    noting = Noting(every=1)
    noting(record(1))
    noting.close()
    noting.close()
    with pytest.raises(TelemetryError, match=r"this Noting is closed and a step was made.*optimizer\.on_step"):
        noting(record(2))
    assert noting.written == [1]
    assert noting.ended == 1


def test_an_exception_in_the_block_closes_too(record: Make) -> None:
    noting = Noting(every=10)

    def train() -> None:
        with noting:
            noting(record(2))
            raise KeyError

    with pytest.raises(KeyError):
        train()
    assert (noting.written, noting.ended) == ([2], 1)


def test_what_is_open_is_let_go_of_if_the_last_write_fails(record: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    noting = Noting(every=10)
    noting(record(2))

    def full(record: StepRecord) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(noting, "_write", full)
    with pytest.raises(OSError, match="no space"):
        noting.close()
    assert noting.ended == 1


@pytest.mark.parametrize("every", [0, -1, 2.0, True, "often"])
def test_what_is_no_count_is_refused(every: Any) -> None:
    with pytest.raises(TelemetryError, match="every is"):
        Noting(every=every)
