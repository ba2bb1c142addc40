"""Bacterial foraging as pure functions on (P, D) tensors: tumble, swim, swarm, reproduce, disperse.

No state, no random draw, no host synchronisation: noise comes in as a tensor, so that a whole generation is
one graph for `torch.compile(fullgraph=True)`. Who evaluates a position, and how, is the `evaluate` argument.

Symbols (Passino 2002, "Biomimicry of bacterial foraging for distributed optimization and control",
IEEE Control Systems Magazine 22(3), 52-67):

====================  ================  ====================================================
theta^i(j, k, l)      ``position_PD``   place of bacterium i, in units of the parameters
J(i, j, k, l)         ``loss_P``        what the closure returned there; +inf: not finite
C(i)                  ``length``        length of one move, in units of the parameters
phi(j)                ``direction_PD``  unit tumble direction
N_s                   ``swim_length``   most swims after a tumble
J_cc(theta, P)        swarm_cost        attraction and repulsion between the cells
J_health              ``health_P``      loss accumulated over the chemotactic generations
P                     members of the colony (S in the paper); D: coordinates (p in the paper)
====================  ================  ====================================================

What is the paper's (p. 60-61, "Bacterial Foraging Optimization Algorithm"): the tumble is made whatever it costs;
a swim goes on while the cost falls, and each of its moves is kept, the last, failing one too; J_cc; health is the
sum of the costs at the ends of the chemotactic steps, J(i, j) for j = 1 to N_c + 1; the sicker half dies and the
healthier splits; each member is dispersed with a probability of its own.

What is ours: the best position ever evaluated is kept apart, because members leave good places; tumbles are
isotropic; all members feel the colony as it was when the generation began (the paper's move one after the other);
a member whose loss is unknown senses in place of one swim, so that the cost of a generation has a bound; losses that
are not finite count as +inf; bounds. And `greedy` moves, for `HybridBFO`: a move that does not pay is taken back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from pytorch_bfo_optimizer.state import Colony, GenerationResult, SwarmingParams

Evaluate = Callable[[Tensor, Tensor], Tensor]
"""`evaluate(position_PD, active_P) -> loss_P`: losses of the active members; the other entries are ignored."""

LEVY_CUTOFF = 100.0
"""Longest Lévy flight, in steps. The law has infinite variance: one flight in about 10**4 is cut at alpha = 1.5."""


def mantegna_sigma(alpha: float) -> float:
    """Scale of the numerator in Mantegna's generator of Lévy-stable steps.

    sigma(alpha) = [Gamma(1 + alpha) sin(pi alpha / 2) / (Gamma((1 + alpha) / 2) alpha 2^((alpha - 1) / 2))]^(1/alpha)

    Mantegna 1994, Phys. Rev. E 49, 4677, eq. (12); alpha in (0, 2), and 1.5 gives 0.6966.
    """
    numerator = math.gamma(1 + alpha) * math.sin(math.pi * alpha / 2)
    denominator = math.gamma((1 + alpha) / 2) * alpha * 2 ** ((alpha - 1) / 2)
    return float((numerator / denominator) ** (1 / alpha))


def levy_length(noise_P2: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Lengths of Lévy flights |v| = sigma |x| / |y|^(1/alpha), in steps, cut at `LEVY_CUTOFF`.

    Mantegna 1994, eq. (6), with x and y standard normal: the columns of `noise_P2` (P, 2). `alpha` and `sigma`
    are (D,) or (1,): one pair of draws a member, so that coordinates of one group stretch together and the
    tumble keeps its direction there. Where alpha is NaN, flights are off and the length is 1.

    Returns: (P, D) or (P, 1).
    """
    x_P1 = noise_P2[:, :1].abs()
    y_P1 = noise_P2[:, 1:].abs().clamp_min(torch.finfo(noise_P2.dtype).tiny)
    length = (sigma * x_P1 / y_P1 ** (1.0 / alpha)).clamp_max(LEVY_CUTOFF)
    return torch.where(torch.isnan(alpha), torch.ones_like(length), length)


def unit(vector: Tensor) -> Tensor:
    """`vector` divided by its Euclidean norm along the last dimension; a zero vector stays zero.

    Squares are summed as they are: scale a vector whose elements may leave about 1e-19 to 1e19 (float32) first.
    """
    norm = vector.square().sum(dim=-1, keepdim=True).sqrt()
    return vector / norm.clamp_min(torch.finfo(vector.dtype).tiny)


def tumble(noise_PD: Tensor) -> Tensor:
    """Unit directions phi = Delta / sqrt(Delta^T Delta) from standard normal noise (P, D).

    The paper draws Delta uniformly from [-1, 1]^p, which prefers the diagonals; normal noise is isotropic.
    """
    return unit(noise_PD)


def swarm_cost(at_PD: Tensor, colony_PD: Tensor, params: SwarmingParams) -> Tensor:
    """Cell-to-cell signal J_cc (P,) felt at `at_PD` from cells at `colony_PD`, in units of the loss.

    J_cc(theta) = sum_i [ h_repellant exp(-w_repellant r_i^2) - d_attract exp(-w_attract r_i^2) ],
    r_i = |theta - theta^i|

    (Passino 2002, p. 60). All members feel the colony as it was when the generation began.
    """
    d_attract, w_attract, h_repellant, w_repellant = params
    wide = torch.promote_types(at_PD.dtype, torch.float32)
    squared_PP = torch.cdist(at_PD.to(wide), colony_PD.to(wide)).square()
    signal_PP = h_repellant * torch.exp(-w_repellant * squared_PP) - d_attract * torch.exp(-w_attract * squared_PP)
    return signal_PP.sum(dim=1)


def swim(position_PD: Tensor, displacement_PD: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """The place one move further on, theta + C phi, clamped into the bounds before anything is evaluated there."""
    return torch.clamp(position_PD + displacement_PD, lower, upper)


def holds_best(colony: Colony) -> Tensor:
    """(P,) bool: the member whose present loss is the lowest, the first of several."""
    members_P = torch.arange(colony.loss.shape[0], device=colony.loss.device)
    return members_P == torch.argmin(colony.loss)


def generation(
    colony: Colony,
    displacement_PD: Tensor,
    lower: Tensor,
    upper: Tensor,
    evaluate: Evaluate,
    *,
    swim_length: int,
    swarming: SwarmingParams | None = None,
    greedy: bool = False,
) -> GenerationResult[Colony]:
    """One chemotactic generation: each member senses if it must, tumbles, and swims on while that lowers its cost.

    The generation has 1 + N_s slots, and a member spends at most one evaluation in each. In slot 0 a member
    whose loss is unknown senses where it stands; the others tumble. In every later slot the members whose last
    move lowered the cost (or that have only sensed) make one more move, the rest have stopped. Sensing thus takes
    the place of one swim, and the cost is at most P (1 + N_s) evaluations, always.

    A move is kept, whatever it costs: J + J_cc with swarming and J without. With `greedy` it is taken back unless it
    lowers the cost, or finds a loss below all others in the colony; the member with the lowest loss then moves
    only for a lower one, so that min(loss_P) never rises unless the losses are sensed anew.
    A loss that is not finite loses every comparison (it is held as +inf) and is counted. `best` and `best_loss` are
    those of the best position evaluated, the first of several, here or before.

    Args:
        colony: state at the start; `loss_P` is +inf where `known_P` is False.
        displacement_PD: C phi, one move of each member (P, D), in units of the parameters.
        lower, upper: bounds, (D,) or (1,), infinite where there are none.
        evaluate: losses of (P, D) positions for the active members (P,).
        swim_length: N_s.
        swarming: (d_attract, w_attract, h_repellant, w_repellant), or None for no signal.
        greedy: whether moves that do not pay are taken back.
    """
    start_PD, sensing_P = colony.position, ~colony.known

    def cost_of(at_PD: Tensor, loss_P: Tensor) -> Tensor:
        return loss_P if swarming is None else loss_P + swarm_cost(at_PD, start_PD, swarming).to(loss_P.dtype)

    position_PD, loss_P = start_PD, colony.loss
    cost_P = cost_of(start_PD, loss_P)
    best_D, best_loss = colony.best, colony.best_loss
    running_P = torch.ones_like(sensing_P)
    finite_count = spent_count = torch.zeros_like(best_loss)

    for slot in range(1 + swim_length):
        candidate_PD = swim(position_PD, displacement_PD, lower, upper)
        if slot == 0:
            candidate_PD = torch.where(sensing_P.unsqueeze(1), position_PD, candidate_PD)
        value_P = evaluate(candidate_PD, running_P).to(loss_P.dtype)
        finite_P = (value_P.abs() < math.inf) & running_P
        value_P = torch.where(finite_P, value_P, math.inf)
        value_cost_P = cost_of(candidate_PD, value_P)
        finite_count = finite_count + finite_P.sum()
        spent_count = spent_count + running_P.sum()

        least_loss, least = value_P.min(dim=0, keepdim=True)
        best_D = torch.where(least_loss < best_loss, candidate_PD.index_select(0, least), best_D)
        best_loss = torch.minimum(best_loss, least_loss)

        lower_P = value_cost_P < cost_P
        if greedy:
            members_P = torch.arange(loss_P.shape[0], device=loss_P.device)
            lower_P = (lower_P & (members_P != torch.argmin(loss_P))) | (value_P < loss_P.min())
        if slot == 0:
            first_cost_P = torch.where(sensing_P, value_cost_P, cost_P)
            improved_P, going_on_P = lower_P & ~sensing_P, lower_P | sensing_P
        else:
            improved_P, going_on_P = improved_P | lower_P, lower_P
        if greedy or slot > 0:
            kept_P = going_on_P if greedy else running_P
            candidate_PD = torch.where(kept_P.unsqueeze(1), candidate_PD, position_PD)
            value_P = torch.where(kept_P, value_P, loss_P)
            value_cost_P = value_P if swarming is None else torch.where(kept_P, value_cost_P, cost_P)
        position_PD, loss_P, cost_P = candidate_PD, value_P, value_cost_P
        running_P = going_on_P

    moved_on = Colony(
        position=position_PD,
        best=best_D.reshape(colony.best.shape),
        best_loss=best_loss.reshape(()),
        loss=loss_P,
        known=torch.ones_like(colony.known),
        health=torch.where(torch.isnan(colony.health), first_cost_P, colony.health) + cost_P,
    )
    return GenerationResult(moved_on, improved_P, finite_count, spent_count - finite_count)


def reproduce(colony: Colony, first_P: Tensor | None = None) -> Colony:
    """The healthier half splits, the other half dies; health is accumulated anew.

    Members are ordered by accumulated cost (least first). The best P // 2 split in two, each child at its
    parent's place; of an odd colony the middle member survives unsplit; a colony of one is left alone.
    Those in `first_P` (P,), if any, come first whatever their health.
    """
    count = colony.loss.shape[0]
    half = count // 2
    health_P = colony.health if first_P is None else torch.where(first_P, -math.inf, colony.health)
    order_P = torch.argsort(health_P, stable=True)
    parents_P = torch.cat([order_P[:half], order_P[: count - half]])
    return replace(
        colony,
        position=colony.position[parents_P],
        loss=colony.loss[parents_P],
        known=colony.known[parents_P],
        health=torch.full_like(colony.health, math.nan),
    )


def disperse(colony: Colony, chosen_P: Tensor, fresh_PD: Tensor) -> Colony:
    """Put the chosen members down at `fresh_PD`, their loss unknown."""
    return replace(
        colony,
        position=torch.where(chosen_P.unsqueeze(1), fresh_PD, colony.position),
        loss=torch.where(chosen_P, math.inf, colony.loss),
        known=colony.known & ~chosen_P,
        health=torch.where(chosen_P, math.nan, colony.health),
    )


def forget(colony: Colony, stale_P: Tensor) -> Colony:
    """The colony with some members' losses unknown, so that they sense again where they stand."""
    return replace(colony, loss=torch.where(stale_P, math.inf, colony.loss), known=colony.known & ~stale_P)


def forget_all(colony: Colony) -> Colony:
    """The colony with no loss known, the best one's neither: the next generation finds its own best."""
    return replace(
        colony,
        loss=torch.full_like(colony.loss, math.inf),
        known=torch.zeros_like(colony.known),
        best_loss=torch.full_like(colony.best_loss, math.inf),
    )


def confine(colony: Colony, lower: Tensor, upper: Tensor) -> Colony:
    """Members moved to the nearest place in the bounds, their losses unknown there; a best outside is forgotten."""
    inside_PD = torch.clamp(colony.position, lower, upper)
    outside = (torch.clamp(colony.best, lower, upper) != colony.best).any()
    moved = forget(colony, (inside_PD != colony.position).any(dim=1))
    return replace(moved, position=inside_PD, best_loss=torch.where(outside, math.inf, colony.best_loss))


def adopt(colony: Colony, place_D: Tensor) -> Colony:
    """Put the member with the highest loss down at `place_D`, its loss unknown."""
    members_P = torch.arange(colony.loss.shape[0], device=colony.loss.device)
    worst_P = members_P == torch.argmax(colony.loss)
    return forget(replace(colony, position=torch.where(worst_P.unsqueeze(1), place_D, colony.position)), worst_P)


def diversity(position_PD: Tensor) -> Tensor:
    """Mean Euclidean distance of the members from their centroid, in units of the parameters (0-dim)."""
    wide_PD = position_PD.to(torch.promote_types(position_PD.dtype, torch.float32))
    distance_P: Tensor = torch.linalg.vector_norm(wide_PD - wide_PD.mean(dim=0), dim=1)
    return distance_P.mean()
