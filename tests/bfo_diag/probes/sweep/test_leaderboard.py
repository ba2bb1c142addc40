"""Who stands where, and what is said of each arm."""

from __future__ import annotations

import math

import pytest

from bfo_diag.probes.sweep.leaderboard import leaderboard
from bfo_diag.probes.sweep.results import sweep

CONTROL = (2.00, 2.50, 2.20)
BETTER, WORSE, TIE = (1.90, 2.41, 2.09), (2.10, 2.61, 2.29), (1.95, 2.61, 2.09)
SAME = CONTROL


def board(run):
    return leaderboard(sweep(run))


def told(run):
    return [(entry.rank, entry.arm.number, entry.verdict) for entry in board(run).entries]


def test_complete_arms_stand_by_their_mean(sweep_of):
    assert told(sweep_of(CONTROL, WORSE, BETTER, TIE)) == [
        (1, 2, "better"),
        (2, 3, "tie"),
        (3, 0, "control"),
        (4, 1, "worse"),
    ]


def test_of_a_metric_that_is_to_rise_the_highest_stands_first(record, lines):
    figures = ((0.80, 0.84, 0.81), (0.90, 0.95, 0.91), (0.70, 0.73, 0.71))
    rows = [lines.arm(number, {"preset": f"p{number}"}) for number in range(3)]
    rows += [
        lines.trial(number, seed, 1.0, val_accuracy=value)
        for number, own in enumerate(figures)
        for seed, value in enumerate(own)
    ]
    run = record(lines.spec(metric="val_accuracy", direction="maximize"), *rows)
    assert told(run) == [(1, 1, "better"), (2, 0, "control"), (3, 2, "worse")]


def test_arms_with_one_mean_share_their_rank(sweep_of):
    assert [rank for rank, _, _ in told(sweep_of(CONTROL, SAME, WORSE, BETTER))] == [1, 2, 2, 4]


def test_who_failed_ranks_last_and_never_by_a_number(record, lines, sweep_of):
    rows = [
        *(lines.arm(number, {"preset": f"p{number}"}, state) for number, state in enumerate(_STATES)),
        *(lines.trial(0, seed, value) for seed, value in enumerate(CONTROL)),
        lines.trial(1, 0, 0.1, status="failed", why="raised"),
        *(lines.trial(2, seed, value) for seed, value in enumerate((0.1, 0.2))),
        lines.trial(2, 2, None, status="failed", why="raised"),
        *(lines.trial(3, seed, value) for seed, value in enumerate(WORSE)),
        lines.trial(4, 0, 9.0, status="pruned", epochs=1),
        lines.trial(5, 0, 0.3),
        lines.trial(6, 0, 9.0),
        lines.trial(6, 1, 9.0, status="pruned", epochs=1),
        *(lines.trial(7, seed, math.nan) for seed in range(3)),
    ]
    assert told(record(lines.spec(), *rows)) == [
        (1, 0, "control"),
        (2, 3, "worse"),
        (None, 6, "pruned"),
        (None, 4, "pruned"),
        (None, 5, "unfinished"),
        (None, 2, "partly failed"),
        (None, 1, "failed"),
        (None, 7, "failed"),
    ]


_STATES = ("complete", "failed", "failed", "complete", "pruned", "running", "pruned", "complete")


def test_an_arm_that_failed_at_a_seed_is_shown_by_the_others_and_counts_for_nothing(sweep_of):
    found = board(sweep_of(CONTROL, BETTER, (1.0, None, 1.21)))
    partly = found.entries[-1]
    assert (partly.rank, partly.score.count, partly.difference.left_out) == (None, 2, 1)
    assert list(partly.difference.by_seed) == [0, 2]
    assert partly.chance is None
    assert [entry.arm.number for entry in found.compared] == [1]
    # (Alone, its chance is not corrected by one that is not compared.)
    assert found.ranked[0].chance == found.ranked[0].difference.interval.chance


def test_where_the_control_failed_at_a_seed_the_others_are_compared_without_it(sweep_of):
    found = board(sweep_of((2.0, None, 2.2), BETTER))
    (arm,) = found.ranked
    assert list(arm.difference.by_seed) == [0, 2]
    assert (arm.verdict, arm.difference.left_out) == ("better", 1)
    assert [entry.verdict for entry in found.entries] == ["better", "partly failed"]


def test_without_a_control_nothing_is_compared(sweep_of):
    found = board(sweep_of((None, None, None), BETTER, WORSE))
    assert [entry.verdict for entry in found.entries] == ["not measured", "not measured", "failed"]
    assert not found.compared


@pytest.mark.parametrize(("others", "stands"), [(0, True), (8, False)])
def test_a_difference_stands_among_few_and_not_among_many(sweep_of, others, stands):
    # Differences -0.1, -0.09, -0.11: p = 0.0033, and nine times as much for nine arms.
    shaky = (1.90, 2.42, 2.075)
    found = board(sweep_of(CONTROL, shaky, *((TIE),) * others))
    first = next(entry for entry in found.entries if entry.arm.number == 1)
    assert (first.verdict, first.stands) == ("better", stands)
    assert first.chance == pytest.approx((1 + others) * first.difference.interval.chance)
    assert found.better == [first]
