"""What losses change on the clock of a season."""

import math

import torch

from pytorch_bfo_optimizer.seasons import MOMENTUM, Clock
from pytorch_bfo_optimizer.succession import PLATEAU, WINDOW, told


def after(clock: Clock, generations: list[list[float]]) -> Clock:
    for losses in generations:
        clock = clock._replace(age=clock.age + 1, **told(clock, losses, torch.float32))
    return clock


def falling(start: float) -> list[list[float]]:
    return [[start - step, start - step + 0.5] for step in range(WINDOW)]


def test_a_momentum_drift_shrinks_where_the_mean_of_a_window_has_not_fallen() -> None:
    clock = after(Clock(MOMENTUM, 2), falling(30.0) + falling(20.0))
    assert clock.shrunk == 1.0
    assert after(clock, falling(20.0)).shrunk == PLATEAU


def test_a_loss_that_is_not_finite_does_not_hide_that_the_others_fall() -> None:
    one_overflows = falling(20.0)
    one_overflows[3] = [one_overflows[3][0], math.inf]
    clock = after(Clock(MOMENTUM, 2), falling(30.0) + one_overflows)
    assert clock.shrunk == 1.0
    assert 15.0 < clock.level < 16.0


def test_a_generation_of_which_no_loss_is_finite_counts_as_no_better_and_no_worse() -> None:
    none_finite = falling(20.0)
    none_finite[3] = [math.inf, math.inf]
    clock = after(Clock(MOMENTUM, 2), falling(30.0) + none_finite)
    assert clock.shrunk == 1.0
    assert math.isfinite(clock.level)
