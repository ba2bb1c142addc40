"""Differential tumbles: a member tumbles along the differences between other members, towards one of the best.

Pure functions on tensors; noise comes in as tensors, no host synchronisation. The colony shrinks over its budget:
who leaves is decided by `shrink`, which changes shapes, and so stands apart from `generation`.

This is L-SHADE (Tanabe, Fukunaga 2014, "Improving the search performance of SHADE using linear population size
reduction", CEC 2014; equation numbers below are its), whose parts in the words of this package are

    tumble   v_i = x_i + F_i (x_pbest - x_i) + F_i (x_r1 - x_r2)     current-to-pbest/1, eq. 6
    mix      u_ij = v_ij where a uniform number <= CR_i or j is drawn, else x_ij       eq. 4
    keep     x_i <- u_i where f(u_i) <= f(x_i)                        eq. 5
    learn    M_F, M_CR <- weighted Lehmer means of what paid          eq. 7 to 9
    shrink   P <- round(P_first + (4 - P_first) spent / allotted)     eq. 10

with three changes: F is drawn from its Cauchy law cut at 0 in closed form in place of drawing until it is positive;
the archive of members that were replaced is a ring of P places in place of 2.6 P from which chance removes; a
drawn index that collides moves on by one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

HISTORY = 6
"""H, entries of the success history."""
BEST_SHARE = 0.11
"""p, share of the colony that counts as best; two members at least."""
FEWEST = 4
"""Members left when the budget is spent."""
WIDTH = 0.1
"""Scale of the laws of F and CR around their history."""
UNIFORM_COLUMNS = 6
"""Uniform numbers that each member takes in a generation, beside D for the mix."""


class Swarm(NamedTuple):
    """What is known of the members beside where they are: their losses, those they replaced, and what has paid."""

    loss: Tensor
    """(P,); +inf where not finite or unknown."""
    archive: Tensor
    """(A, D): members that were replaced; the first `archived` rows are filled."""
    archived: Tensor
    """0-dim, int64: members ever put into the ring."""
    history: Tensor
    """(2, H): M_F and M_CR; NaN in M_CR: only single coordinates have paid (the paper's terminal value)."""
    written: Tensor
    """0-dim, int64: entries ever written to the history."""


def begin(position_PD: Tensor, dtype: torch.dtype) -> Swarm:
    """A colony of members that have not been evaluated, without a history: M_F = M_CR = 1/2."""
    device = position_PD.device
    zero = torch.zeros((), dtype=torch.int64, device=device)
    return Swarm(
        loss=torch.full(position_PD.shape[:1], math.inf, dtype=dtype, device=device),
        archive=torch.zeros_like(position_PD),
        archived=zero,
        history=torch.full((2, HISTORY), 0.5, dtype=dtype, device=device),
        written=zero.clone(),
    )


class Moves(NamedTuple):
    """Where the members would go, and by which settings."""

    position: Tensor
    """u_i (P, D)."""
    weight: Tensor
    """F_i (P,)."""
    rate: Tensor
    """CR_i (P,)."""


def moves(
    swarm: Swarm,
    position_PD: Tensor,
    uniform_PK: Tensor,
    normal_P: Tensor,
    mix_PD: Tensor,
    lower: Tensor,
    upper: Tensor,
) -> Moves:
    """Draw F and CR around the history, tumble, and mix.

    Args:
        swarm: what is known of the members, P >= 4.
        position_PD: where they are.
        uniform_PK: uniform numbers in [0, 1), (P, `UNIFORM_COLUMNS`).
        normal_P: standard normal numbers (P,), for CR.
        mix_PD: uniform numbers in [0, 1), (P, D).
        lower, upper: bounds, (D,) or (1,). A coordinate that would leave them goes half of the way (eq. 3 of
            Zhang, Sanderson 2009, JADE).
    """
    count, dimension = position_PD.shape
    device, dtype = position_PD.device, swarm.loss.dtype
    draws = uniform_PK.to(dtype).unbind(1)
    entry_P = _index(draws[0], HISTORY)
    mean_weight_P, mean_rate_P = swarm.history[:, entry_P]
    at_zero_P = 0.5 + torch.atan(-mean_weight_P / WIDTH) / math.pi
    quantile_P = at_zero_P + (1 - at_zero_P) * draws[1]
    weight_P = (mean_weight_P + WIDTH * torch.tan(math.pi * (quantile_P - 0.5))).clamp(0.0, 1.0)
    drawn_rate_P = (mean_rate_P + WIDTH * normal_P.to(dtype)).clamp(0.0, 1.0)
    rate_P = torch.where(torch.isnan(mean_rate_P), 0.0, drawn_rate_P)

    members_P = torch.arange(count, device=device)
    order_P = torch.argsort(swarm.loss)
    best_P = order_P[_index(draws[2], max(2, round(BEST_SHARE * count)))]
    first_P = (members_P + 1 + _index(draws[3], count - 1)) % count
    archived = swarm.archived.clamp_max(swarm.archive.shape[0])
    pool = count + archived
    second_P = (draws[4] * pool.to(dtype)).to(torch.int64)
    low_P, high_P = torch.minimum(members_P, first_P), torch.maximum(members_P, first_P)
    second_P = torch.where(second_P == low_P, second_P + 1, second_P)
    second_P = torch.where(second_P == high_P, second_P + 1, second_P) % pool
    second_P = torch.where(second_P == low_P, second_P + 1, second_P)
    second_PD = torch.cat([position_PD, swarm.archive])[second_P]

    wide_P1 = weight_P.to(position_PD.dtype).unsqueeze(1)
    step_PD = position_PD[best_P] - position_PD + position_PD[first_P] - second_PD
    tumbled_PD = torch.addcmul(position_PD, wide_P1, step_PD)
    tumbled_PD = torch.where(tumbled_PD < lower, (position_PD + lower) / 2, tumbled_PD)
    tumbled_PD = torch.where(tumbled_PD > upper, (position_PD + upper) / 2, tumbled_PD)
    drawn_P1 = _index(draws[5], dimension).unsqueeze(1)
    mixed_PD = mix_PD.to(dtype) < rate_P.unsqueeze(1)
    mixed_PD = mixed_PD | (torch.arange(dimension, device=device) == drawn_P1)
    return Moves(torch.where(mixed_PD, tumbled_PD, position_PD), weight_P, rate_P)


def learn(swarm: Swarm, position_PD: Tensor, made: Moves, loss_P: Tensor) -> tuple[Swarm, Tensor]:
    """Keep the moves that are no worse, archive those they replace, and note which settings paid.

    Returns: what is known then, and where the members are.
    """
    better_P, kept_P = loss_P < swarm.loss, loss_P <= swarm.loss
    places = swarm.archive.shape[0]
    turn_P = swarm.archived + torch.cumsum(better_P, 0) - 1
    # one place more than there is takes what is not archived
    target_P = torch.where(better_P, turn_P % places, places)
    roomy_PD = torch.cat([swarm.archive, swarm.archive[:1]])
    archive_PD = roomy_PD.index_copy(0, target_P, position_PD)[:places]

    gain_P = torch.where(better_P, swarm.loss - loss_P, 0.0).clamp_max(torch.finfo(loss_P.dtype).max)
    share_P = gain_P / gain_P.max().clamp_min(torch.finfo(loss_P.dtype).tiny)  # scaled: a sum of gains may overflow
    paid = torch.stack([made.weight, made.rate])
    mean = (share_P * paid.square()).sum(1) / (share_P * paid).sum(1)
    mean_weight, mean_rate = mean.unbind(0)
    column = swarm.written % HISTORY
    was_weight, was_rate = swarm.history[:, column.unsqueeze(0)].squeeze(1).unbind(0)
    terminal = torch.isnan(was_rate) | (torch.where(better_P, made.rate, 0.0).max() <= 0)
    entry = torch.stack([mean_weight, torch.where(terminal, math.nan, mean_rate)])
    any_paid = better_P.any()
    entry = torch.where(any_paid, entry, torch.stack([was_weight, was_rate]))
    learnt = Swarm(
        loss=torch.where(kept_P, loss_P, swarm.loss),
        archive=archive_PD,
        archived=swarm.archived + better_P.sum(),
        history=swarm.history.index_copy(1, column.unsqueeze(0), entry.unsqueeze(1)),
        written=swarm.written + any_paid,
    )
    return learnt, torch.where(kept_P.unsqueeze(1), made.position, position_PD)


def size_after(first: int, spent: int, allotted: int) -> int:
    """Members left when `spent` of `allotted` evaluations are gone, of `first` at the start; eq. 10."""
    share = min(max(spent / allotted, 0.0), 1.0)
    return max(min(first, FEWEST), round(first + (min(first, FEWEST) - first) * share))


def shrink(swarm: Swarm, position_PD: Tensor, count: int) -> tuple[Swarm, Tensor]:
    """The best `count` members stay, and as many of the archive."""
    order = torch.argsort(swarm.loss)[:count]
    left = Swarm(
        loss=swarm.loss[order],
        archive=swarm.archive[:count],
        archived=swarm.archived.clamp_max(count),
        history=swarm.history,
        written=swarm.written,
    )
    return left, position_PD[order]


def _index(uniform: Tensor, count: int) -> Tensor:
    """Uniform numbers in [0, 1) as indices below `count`; float rounding may reach it."""
    return (uniform * count).to(torch.int64).clamp_max(count - 1)
