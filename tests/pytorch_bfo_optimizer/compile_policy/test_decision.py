from __future__ import annotations

import pytest

from pytorch_bfo_optimizer.compile_policy.decision import (
    Plan,
    Recorded,
    Timings,
    by_least,
    by_length,
    by_record,
    by_timings,
)


def test_a_plan_is_all_its_trainings() -> None:
    plan = Plan(50_000, folds=5, trials=3)
    assert (plan.runs, plan.total, str(plan)) == (15, 750_000, "15 x 50,000 steps")
    assert str(Plan(1000)) == "1,000 steps"


@pytest.mark.parametrize(("least", "wanted"), [(749_999, True), (750_000, True), (750_001, False)])
def test_min_steps_counts_every_training(least: int, wanted: bool) -> None:
    found = by_least(Plan(50_000, 5, 3), least)
    assert (found.use_compile, found.source, found.planned_steps) == (wanted, "plan", 750_000)
    assert f"{least:,}" in found.why


@pytest.mark.parametrize(("steps", "wanted"), [(1000, True), (999, False)])
def test_a_plan_shorter_than_any_compile_is_not_tried(steps: int, wanted: bool) -> None:
    found = by_length(Plan(steps), 0.003, 3.0)
    assert (found.use_compile, found.t_eager, found.pays) == (wanted, 0.003, None if wanted else False)


@pytest.mark.parametrize(
    ("plan", "wanted", "needed"),
    [
        (Plan(10_001), True, 10_000),
        (Plan(10_000), False, 10_000),
        (Plan(4_001, folds=3), True, 12_000),  # 10,000 cold, and two times 1,000 warm
        (Plan(4_000, trials=3), False, 12_000),
    ],
)
def test_a_record_decides_by_its_cold_and_its_warm_break_even(plan: Plan, wanted: bool, needed: int) -> None:
    found = by_record(plan, Recorded(cold=10_000, warm=1_000, t_eager=0.01, t_compiled=0.008, compile_s=20.0))
    assert (found.use_compile, found.pays, found.break_even_steps) == (wanted, wanted, needed)
    assert (found.source, found.t_eager, found.t_compiled, found.compile_s) == ("record", 0.01, 0.008, 20.0)
    assert f"{needed:,}" in found.why


def test_a_record_without_a_warm_figure_takes_every_compile_for_cold() -> None:
    assert by_record(Plan(100, folds=2), Recorded(cold=60, warm=None)).break_even_steps == 120


@pytest.mark.parametrize(
    "recorded", [Recorded(cold=None, warm=None), Recorded(cold=1, warm=1, why_not="the results differ from eager's")]
)
def test_a_record_that_speaks_against_it_is_heard_whatever_the_plan(recorded: Recorded) -> None:
    found = by_record(Plan(10**9), recorded)
    assert (found.use_compile, found.pays) == (False, False)
    assert "never pays" in found.why or "differ" in found.why


def test_the_break_even_of_timings() -> None:
    """N = k + (S_k - k t_eager) / (t_eager - t_compiled) = 3 + (12 - 3 * 0.01) / 0.002."""
    found = by_timings(Plan(5_989), Timings((0.01,) * 5, (0.008,) * 5, first_s=12.0, first_calls=3))
    assert found.break_even_steps == 5_988
    assert (found.use_compile, found.pays) == (True, True)
    assert (found.t_eager, found.t_compiled, found.compile_s) == (0.01, 0.008, 12.0)


def test_once_compiled_a_plan_that_is_too_short_is_no_reason_to_go_back() -> None:
    found = by_timings(Plan(100), Timings((0.01,) * 5, (0.008,) * 5, first_s=12.0, first_calls=3))
    assert (found.use_compile, found.pays) == (True, False)
    assert "spent" in found.why


@pytest.mark.parametrize(
    ("compiled", "wanted"),
    [
        ((0.0095, 0.0094, 0.0096, 0.0095, 0.0095), True),
        ((0.0085, 0.0105, 0.0090, 0.0099, 0.0111), False),  # 0.1 ms faster, in a spread of 1.5
        ((0.01,) * 5, False),
        ((0.011,) * 5, False),
    ],
)
def test_faster_means_faster_beyond_the_spread(compiled: tuple[float, ...], wanted: bool) -> None:
    found = by_timings(Plan(10**9), Timings((0.01,) * 5, compiled, first_s=1.0, first_calls=1))
    assert found.use_compile is wanted
    assert (found.break_even_steps is None) == (not wanted)


def test_a_drift_that_both_share_hides_nothing() -> None:
    eager = tuple(0.01 * (1 + 0.2 * turn) for turn in range(5))
    found = by_timings(Plan(10**9), Timings(eager, tuple(t - 0.001 for t in eager), first_s=1.0, first_calls=1))
    assert found.use_compile


def test_a_compile_that_cost_nothing_has_paid_at_once() -> None:
    assert by_timings(Plan(2), Timings((0.01,) * 3, (0.001,) * 3, 0.001, 1)).break_even_steps == 1
