"""Intervals and verdicts on figures whose truth is known, and against scipy."""

from __future__ import annotations

import math
import random
import statistics as standard

import pytest
import scipy.stats

from bfo_diag.probes.sweep import statistics as st


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8, 9, 30, 99])
@pytest.mark.parametrize("within", [0.5, 0.9, 0.95, 0.999])
def test_quantiles_of_student_are_those_of_scipy(freedom, within):
    expected = scipy.stats.t.ppf((1 + within) / 2, freedom)
    assert st.student_quantile(within, freedom) == pytest.approx(expected, rel=1e-9)
    assert st.student_within(expected, freedom) == pytest.approx(within, rel=1e-12)


def test_the_chance_of_a_paired_difference_is_that_of_scipy():
    arm, control = [2.11, 1.97, 2.31, 2.04], [2.05, 1.99, 2.2, 2.0]
    found = st.paired(dict(enumerate(arm)), dict(enumerate(control)), range(4)).interval
    expected = scipy.stats.ttest_rel(arm, control)
    low, high = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.chance == pytest.approx(expected.pvalue)


def test_the_interval_is_the_textbook_one():
    # Differences 1, 2, 3: mean 2, standard deviation 1, t(0.975, 2) = 4.302653.
    difference = st.paired({0: 11.0, 1: 12.0, 2: 13.0}, {0: 10.0, 1: 10.0, 2: 10.0}, (0, 1, 2))
    assert difference.by_seed == {0: 1.0, 1: 2.0, 2: 3.0}
    assert difference.left_out == 0
    half = 4.302652729911275 / math.sqrt(3)
    assert (difference.interval.value, difference.interval.low, difference.interval.high) == pytest.approx(
        (2.0, 2.0 - half, 2.0 + half)
    )


@pytest.mark.parametrize(("higher_is_better", "expected"), [(False, "worse"), (True, "better")])
def test_which_side_is_better_is_the_metrics_to_say(higher_is_better, expected):
    above = st.paired({0: 1.1, 1: 1.2, 2: 1.31}, {0: 1.0, 1: 1.1, 2: 1.2}, (0, 1, 2))
    assert st.verdict(above, higher_is_better=higher_is_better) == expected
    below = st.paired({0: 1.0, 1: 1.1, 2: 1.2}, {0: 1.1, 1: 1.2, 2: 1.31}, (0, 1, 2))
    assert st.verdict(below, higher_is_better=not higher_is_better) == expected


def test_an_interval_that_holds_0_is_a_tie_even_by_its_end():
    assert st.verdict(st.Difference({}, 0, st.Interval(1.0, 0.0, 2.0, 0.05)), higher_is_better=True) == "tie"
    assert st.verdict(st.Difference({}, 0, st.Interval(-1.0, -2.0, 0.0, 0.05)), higher_is_better=True) == "tie"
    assert st.verdict(st.Difference({}, 0, st.Interval(1.0, 1e-9, 2.0, 0.04)), higher_is_better=True) == "better"


def test_pairing_sees_what_means_apart_do_not():
    seeds = range(5)
    control = {seed: 2.0 + 0.5 * seed for seed in seeds}
    arm = {seed: control[seed] - 0.1 + 0.001 * seed for seed in seeds}
    assert st.verdict(st.paired(arm, control, seeds), higher_is_better=False) == "better"
    apart = scipy.stats.ttest_ind(list(arm.values()), list(control.values()))
    assert apart.pvalue > 0.5


def test_seeds_at_which_either_has_no_figure_are_left_out_and_counted():
    arm = {0: 1.0, 1: math.nan, 2: 1.2, 3: 1.4, 4: None}
    control = {0: 1.5, 1: 1.5, 2: 1.5, 3: 1.6, 5: 1.0}
    found = st.paired(arm, control, range(6))
    assert list(found.by_seed) == [0, 2, 3]
    assert found.left_out == 3
    assert found.interval.value == pytest.approx(-1.0 / 3)


@pytest.mark.parametrize(
    ("arm", "control", "why"),
    [
        ({}, {0: 1.0, 1: 1.0}, "0 of 2 seeds have a figure for both"),
        ({0: 1.0, 1: math.inf}, {0: 1.0, 1: 1.0}, "1 of 2 seeds have a figure for both"),
        ({0: 1.01, 1: 1.01}, {0: 1.0, 1: 1.0}, "the same difference at every seed tells no spread"),
        ({0: 0.81, 1: 0.91}, {0: 0.8, 1: 0.9}, "the same difference at every seed tells no spread"),
    ],
)
def test_what_can_not_be_told_says_why(arm, control, why):
    found = st.paired(arm, control, (0, 1))
    assert (found.interval, found.why) == (None, why)
    assert st.verdict(found, higher_is_better=True) == "not measured"


def test_the_same_figures_tie():
    found = st.paired({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}, (0, 1))
    assert found.interval == st.Interval(0.0, 0.0, 0.0, 1.0)
    assert st.verdict(found, higher_is_better=True) == "tie"


def test_a_small_difference_of_small_figures_is_measured():
    found = st.paired({0: 2e-14, 1: 3.1e-14, 2: 4e-14}, {0: 1e-14, 1: 2e-14, 2: 3e-14}, (0, 1, 2))
    assert found.interval.value == pytest.approx(1.0333e-14, rel=1e-3)


@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_hold_the_truth_as_often_as_they_say(seeds):
    draw, truth, held, repeats = random.Random(seeds), -0.02, 0, 3000
    for _ in range(repeats):
        of_seed = [draw.gauss(2.0, 0.5) for _ in range(seeds)]
        control = {seed: value + draw.gauss(0, 0.01) for seed, value in enumerate(of_seed)}
        arm = {seed: value + truth + draw.gauss(0, 0.02) for seed, value in enumerate(of_seed)}
        held += st.paired(arm, control, range(seeds)).interval.holds(truth)
    # Four standard deviations of a share of 0.95 over so many repeats.
    assert abs(held / repeats - 0.95) < 4 * math.sqrt(0.95 * 0.05 / repeats)


def test_a_sweep_of_arms_that_do_nothing_has_a_winner_once_in_twenty():
    draw, sweeps, alone, among_all = random.Random(0), 1000, 0, 0
    for _ in range(sweeps):
        control = {seed: draw.gauss(2.0, 0.01) for seed in range(3)}
        found = {}
        for arm in range(8):
            figures = {seed: draw.gauss(2.0, 0.01) for seed in range(3)}
            found[arm] = st.paired(figures, control, range(3)).interval
        alone += any(not interval.holds(0.0) for interval in found.values())
        among_all += min(st.holm({arm: interval.chance for arm, interval in found.items()}).values()) <= 0.05
    assert alone / sweeps > 0.2
    assert among_all / sweeps < 0.05 + 3 * math.sqrt(0.05 * 0.95 / sweeps)


def test_holm_multiplies_by_how_many_are_left_and_never_falls():
    assert st.holm({1: 0.01, 2: 0.04, 3: 0.03}) == pytest.approx({1: 0.03, 3: 0.06, 2: 0.06})
    assert st.holm({1: 0.9, 2: 0.6}) == {2: 1.0, 1: 1.0}
    assert st.holm({}) == {}


def test_a_spread_is_over_what_was_measured():
    values = [1.0, None, 2.0, math.nan, 4.0, math.inf]
    found = st.Spread.of(values)
    assert (found.mean, found.deviation, found.count) == (7 / 3, standard.stdev([1.0, 2.0, 4.0]), 3)
    assert st.Spread.of([3.0]) == st.Spread(3.0, None, 1)
    assert st.Spread.of([None, math.nan]) is None
