"""Intervals and verdicts on made-up timings whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from bfo_diag.probes.bench import statistics as st


def timings(seed: int, ratio: float, *, processes: int = 5, rounds: int = 40, spread: float = 0.02):
    """Processes that differ by `spread`, rounds with rare long delays, as on a busy machine; arm = baseline / ratio."""
    draw = np.random.default_rng(seed)
    pairs = []
    for _ in range(processes):
        bias = 1 + spread * draw.standard_normal()
        baseline = 0.01 * (1 + 0.05 * draw.random(rounds)) * np.where(draw.random(rounds) < 0.2, 2.0, 1.0)
        arm = 0.01 / ratio * bias * (1 + 0.05 * draw.random(rounds)) * np.where(draw.random(rounds) < 0.2, 2.0, 1.0)
        pairs.append((baseline, arm))
    return pairs


def twins(seed: int, ratio: float):
    """The speed-up over eager and over its A/A twin."""
    return st.speed_up(timings(seed, ratio)), st.speed_up(timings(seed + 1000, ratio))


def test_the_same_step_under_two_names_is_no_difference():
    verdicts = [st.verdict(*twins(seed, 1.0)) for seed in range(20)]
    assert verdicts.count("no difference") >= 19


@pytest.mark.parametrize(("ratio", "expected"), [(1.2, "faster"), (0.88, "slower")])
def test_a_real_difference_is_found(ratio, expected):
    verdicts = [st.verdict(*twins(seed, ratio)) for seed in range(20)]
    assert verdicts.count(expected) >= 19


def test_the_interval_is_as_wide_as_the_processes_are_apart():
    draw = np.random.default_rng(0)
    steady = [
        (np.full(50, 0.01), 0.01 / factor * (1 + 1e-4 * draw.random(50))) for factor in (1.06, 2.75, 1.1, 1.9, 1.2)
    ]
    found = st.speed_up(steady)
    assert found.low < 1.1
    assert found.high > 1.8


def test_one_name_alone_makes_no_difference():
    clear, unclear = st.Interval(1.2, 1.1, 1.3), st.Interval(1.05, 0.98, 1.1)
    assert st.verdict(clear, clear) == "faster"
    assert st.verdict(clear, unclear) == "no difference"
    assert st.verdict(st.Interval(0.8, 0.7, 0.9), clear) == "no difference"


def test_break_even_is_the_cost_over_what_a_step_saves():
    found = st.break_even(10.0, st.Interval(0.002, 0.001, 0.004), faster=True)
    assert (found.steps.value, found.steps.low, found.steps.high) == (5000, 2500, 10000)
    assert st.break_even(10.0, st.Interval(0.002, -0.001, 0.004), faster=True).steps is None
    assert st.break_even(10.0, st.Interval(0.002, 0.001, 0.004), faster=False).steps is None
    assert st.break_even(-1.0, st.Interval(0.002, 0.001, 0.004), faster=True).steps.value == 0


def test_a_control_that_is_off_by_more_than_a_twentieth_is_noise():
    assert st.noisy(st.Interval(1.06, 0.9, 1.2))
    assert st.noisy(st.Interval(0.94, 0.9, 1.2))
    assert not st.noisy(st.Interval(1.04, 0.9, 1.2))
