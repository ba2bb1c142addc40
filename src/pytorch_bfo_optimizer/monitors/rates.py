"""How fast a loss falls, by step. Plain numbers only."""

from __future__ import annotations

import math
from collections.abc import Sequence


def convergence_rates(losses: Sequence[float], *, window: int, stride: int = 1, optimum: float = 0.0) -> list[float]:
    """The share of the way from the loss to its optimum that one step covers, at each of the losses.

    ::

        R = 1 - ((b - f) / (a - f))^(1 / delta)

    a and b are the means of the last two blocks of `window` losses each, delta = window * stride the steps in a block,
    and f is the optimum: the average convergence rate of He & Lin (2016, arXiv:1504.08117), a geometric mean of the
    ratios by which the distance to the optimum shrinks, over a block in place of the whole course, and of means because
    losses are noisy. Where a loss falls as f + c q^t, R is 1 - q.

    It is 0 where the loss stays, and below 0 where it rises; NaN before there are two blocks, and where a mean is not
    finite or not above the optimum.

    Args:
        losses: one every `stride` steps.
        window: losses in a block.
        stride: steps from one loss to the next.
        optimum: the least that the loss can be, in its units.
    """
    above = [sum(losses[end - window : end]) / window - optimum for end in range(window, len(losses) + 1)]
    rates = [math.nan] * min(2 * window - 1, len(losses))
    for a, b in zip(above, above[window:], strict=False):
        known = 0 < a < math.inf and 0 < b < math.inf
        rates.append(1 - (b / a) ** (1 / (window * stride)) if known else math.nan)
    return rates
