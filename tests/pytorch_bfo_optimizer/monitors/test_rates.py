from __future__ import annotations

import math

import pytest

from pytorch_bfo_optimizer.monitors.rates import convergence_rates


@pytest.mark.parametrize(("window", "stride"), [(1, 1), (5, 1), (3, 4)])
@pytest.mark.parametrize("optimum", [0.0, -2.0, 7.0])
def test_a_loss_that_falls_as_a_power_of_q_has_the_rate_1_minus_q(window: int, stride: int, optimum: float) -> None:
    losses = [optimum + 3 * 0.98**step for step in range(0, 60 * stride, stride)]
    rates = convergence_rates(losses, window=window, stride=stride, optimum=optimum)
    assert len(rates) == 60
    assert all(map(math.isnan, rates[: 2 * window - 1]))
    assert rates[2 * window - 1 :] == pytest.approx([0.02] * (61 - 2 * window))


def test_a_loss_that_stays_has_none_and_one_that_rises_less() -> None:
    assert convergence_rates([2.0] * 6, window=2)[3:] == [0.0] * 3
    assert convergence_rates([2.0, 3.0], window=1)[1] == pytest.approx(-0.5)


@pytest.mark.parametrize(
    "losses", [[1.0, 0.0], [0.0, 1.0], [1.0, -1.0], [-2.0, -3.0], [math.inf, 1.0], [math.nan, 1.0], [1.0, math.inf]]
)
def test_there_is_none_where_a_mean_is_not_above_the_optimum_or_not_finite(losses: list[float]) -> None:
    assert len(convergence_rates(losses, window=1)) == 2
    assert all(map(math.isnan, convergence_rates(losses, window=1)))


def test_a_loss_that_is_not_finite_spoils_only_the_blocks_it_is_in() -> None:
    rates = convergence_rates([math.inf, *[2.0] * 9], window=2)
    assert all(map(math.isnan, rates[:4]))
    assert rates[4:] == [0.0] * 6


def test_few_losses_have_no_rate() -> None:
    assert convergence_rates([], window=3) == []
    assert len(convergence_rates([1.0, 2.0], window=3)) == 2
