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

One departure from the paper, on purpose: there a tumble is made whatever it costs; here a move that does not
lower the cost is taken back. The colony then always holds the best position it ever found, a noisy objective
can be re-evaluated without evaluations beyond the bound, and no separate record of the best can go stale.
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
    return torch.minimum(torch.maximum(position_PD + displacement_PD, lower), upper)


def generation(
    colony: Colony,
    displacement_PD: Tensor,
    lower: Tensor,
    upper: Tensor,
    evaluate: Evaluate,
    *,
    swim_length: int,
    swarming: SwarmingParams | None = None,
) -> GenerationResult:
    """One chemotactic generation: each member senses if it must, tumbles, and swims on while that lowers its cost.

    The generation has 1 + N_s slots, and a member spends at most one evaluation in each. In slot 0 a member
    whose loss is unknown senses where it stands; the others tumble. In every later slot the members whose last
    move lowered the cost (or that have only sensed) make one more move, the rest have stopped. Sensing thus takes
    the place of one swim, and the cost is at most P (1 + N_s) evaluations, always.

    A move is kept if it lowers the cost, J + J_cc with swarming and J without, or if it finds a loss below the
    colony's best; the member that holds the best loss moves only for a lower loss. So min(loss_P) never rises
    within or between generations unless the losses are sensed anew. A loss that is not finite loses every
    comparison (it is held as +inf) and is counted.

    Args:
        colony: state at the start; `loss_P` is +inf where `known_P` is False.
        displacement_PD: C phi, one move of each member (P, D), in units of the parameters.
        lower, upper: bounds, (D,) or (1,), infinite where there are none.
        evaluate: losses of (P, D) positions for the active members (P,).
        swim_length: N_s.
        swarming: (d_attract, w_attract, h_repellant, w_repellant), or None for no signal.
    """
    start_PD = colony.position
    position_PD, loss_P = start_PD, colony.loss
    cost_P = loss_P
    if swarming is not None:
        cost_P = loss_P + swarm_cost(start_PD, start_PD, swarming).to(loss_P.dtype)
    running_P = torch.ones_like(colony.known)
    improved_P = torch.zeros_like(colony.known)
    members_P = torch.arange(loss_P.shape[0], device=loss_P.device)
    finite_count = torch.zeros((), dtype=torch.int64, device=loss_P.device)
    nonfinite_count = torch.zeros((), dtype=torch.int64, device=loss_P.device)
    sensing_P = ~colony.known

    for _ in range(1 + swim_length):
        moved_PD = swim(position_PD, displacement_PD, lower, upper)
        candidate_PD = torch.where(sensing_P.unsqueeze(1), position_PD, moved_PD)
        value_P = evaluate(candidate_PD, running_P).to(loss_P.dtype)
        finite_P = torch.isfinite(value_P)
        finite_count = finite_count + (running_P & finite_P).sum()
        nonfinite_count = nonfinite_count + (running_P & ~finite_P).sum()
        value_P = torch.where(finite_P, value_P, math.inf)
        value_cost_P = value_P
        if swarming is not None:
            value_cost_P = value_P + swarm_cost(candidate_PD, start_PD, swarming).to(loss_P.dtype)

        holds_best_P = members_P == torch.argmin(loss_P)
        better_P = (value_P < loss_P.min()) | ((value_cost_P < cost_P) & ~holds_best_P)
        move_P = running_P & better_P & ~sensing_P
        keep_P = move_P | (running_P & sensing_P)
        position_PD = torch.where(move_P.unsqueeze(1), candidate_PD, position_PD)
        loss_P = torch.where(keep_P, value_P, loss_P)
        cost_P = torch.where(keep_P, value_cost_P, cost_P)
        improved_P = improved_P | move_P
        running_P = keep_P
        sensing_P = torch.zeros_like(sensing_P)

    moved_on = Colony(
        position=position_PD,
        loss=loss_P,
        known=torch.ones_like(colony.known),
        health=colony.health + cost_P,
        scale=colony.scale,
    )
    return GenerationResult(moved_on, improved_P, finite_count, nonfinite_count)


def reproduce(colony: Colony) -> Colony:
    """The healthiest half splits, the other half dies; health starts again at zero.

    Members are ordered by accumulated cost (least first). The best P // 2 split in two, each child at its
    parent's place; of an odd colony the middle member survives unsplit; a colony of one is left alone.
    The member with the best loss is put first, so reproduction never loses the best position.
    """
    count = colony.loss.shape[0]
    fresh_health_P = torch.zeros_like(colony.health)
    half = count // 2
    members_P = torch.arange(count, device=colony.loss.device)
    holds_best_P = members_P == torch.argmin(colony.loss)
    order_P = torch.argsort(torch.where(holds_best_P, -math.inf, colony.health), stable=True)
    parents_P = torch.cat([order_P[:half], order_P[: count - half]])
    return Colony(
        position=colony.position[parents_P],
        loss=colony.loss[parents_P],
        known=colony.known[parents_P],
        health=fresh_health_P,
        scale=colony.scale[parents_P],
    )


def disperse(colony: Colony, chosen_P: Tensor, fresh_PD: Tensor) -> Colony:
    """Put the chosen members down at `fresh_PD`, their loss unknown; the holder of the best loss always stays."""
    members_P = torch.arange(colony.loss.shape[0], device=colony.loss.device)
    gone_P = chosen_P & (members_P != torch.argmin(colony.loss))
    return Colony(
        position=torch.where(gone_P.unsqueeze(1), fresh_PD, colony.position),
        loss=torch.where(gone_P, math.inf, colony.loss),
        known=colony.known & ~gone_P,
        health=torch.where(gone_P, 0.0, colony.health),
        scale=torch.where(gone_P, 1.0, colony.scale),
    )


def forget(colony: Colony, stale_P: Tensor) -> Colony:
    """The colony with some members' losses unknown, so that they sense again where they stand."""
    return replace(colony, loss=torch.where(stale_P, math.inf, colony.loss), known=colony.known & ~stale_P)


def diversity(position_PD: Tensor) -> Tensor:
    """Mean Euclidean distance of the members from their centroid, in units of the parameters (0-dim)."""
    wide_PD = position_PD.to(torch.promote_types(position_PD.dtype, torch.float32))
    distance_P: Tensor = torch.linalg.vector_norm(wide_PD - wide_PD.mean(dim=0), dim=1)
    return distance_P.mean()
