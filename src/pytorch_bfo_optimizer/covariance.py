"""The covariance drift: a colony that drifts along the ranked mean of its tumbles and learns which tumbles pay.

Pure functions on tensors; no random draw, no host synchronisation. For many coordinates see `momentum`.

This is the (mu/mu_w, lambda)-CMA-ES with active covariance update, in Hansen 2016, "The CMA evolution strategy: a
tutorial", arXiv:1604.00772 (equation numbers below are its), with changes: the tumbles come from the Cholesky
factor A A^T = C in place of an eigendecomposition, and the path of the step size is kept in the coordinates of the
noise, where no inverse of C^(1/2) is needed (Krause, Arbones, Igel 2016, NeurIPS 29). Left out is the correction of
C by delta(h_sigma), below eq. 46: what C loses there comes back through the step size. Which grows e-fold in a
generation at most.

====================  ===============  ==========================================================
z_i ~ N(0, I)         ``noise_PD``     what a member tumbles by, before it is shaped
y_i = A z_i           ``tumble_PD``    its tumble, in units of the step size sigma
m                     ``centre``       where the colony is, in units of the parameters
sigma                 ``scale``        step size, in units of the parameters
p_sigma, p_c          ``path``,        discounted sums of the drifts, in noise coordinates and in
                      ``velocity``     those of the parameters over sigma
====================  ===============  ==========================================================
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

MOST_COORDINATES = 64
"""Above this many coordinates a matrix learns slower than it costs; `momentum` takes over."""


class Drift(NamedTuple):
    """What the colony has learnt of the slope, dtype at least that of the vector."""

    centre: Tensor
    """m (D,)."""
    path: Tensor
    """p_sigma (D,)."""
    velocity: Tensor
    """p_c (D,)."""
    scale: Tensor
    """sigma, 0-dim."""
    covariance: Tensor
    """C (D, D)."""
    factor: Tensor
    """A (D, D), lower triangular, of a C that may be `Rates.refactor_every` generations old."""


@dataclass(frozen=True)
class Rates:
    """Weights and learning rates of a colony of P members in D coordinates; equations 49 to 58."""

    weights: Tensor
    """(3, P), best first: w_1..P, summing to 1 over the better half, 0 after it; c_mu times that; and c_mu D w_1..P of
    the worse half, negative, for a tumble of squared length D."""
    shrinking: Tensor
    """-c_sigma / d_sigma, 0-dim."""
    dimension: int
    total: float
    """Sum of the weights."""
    effective: float
    """mu_w = 1 / sum w_i^2."""
    path_rate: float
    """c_sigma."""
    damping: float
    """d_sigma."""
    velocity_rate: float
    """c_c."""
    rank_one: float
    """c_1."""
    rank_many: float
    """c_mu."""
    expected_norm: float
    """E|N(0, I)|."""
    refactor_every: int
    """Generations between two factorisations of C."""

    def longest_path(self, age: int) -> float:
        """|p_sigma| after `age` generations above which chance alone does not explain it; beside eq. 45."""
        stationary = math.sqrt(1 - (1 - self.path_rate) ** (2 * age)) * self.expected_norm
        return (1.4 + 2 / (self.dimension + 1)) * stationary


@lru_cache(maxsize=64)
def rates(population_size: int, dimension: int, dtype: torch.dtype, device: torch.device) -> Rates:
    """Weights and rates as in Hansen 2016, table 1; at least two members."""
    count, dim = population_size, dimension
    parents = max(count // 2, 1)
    raw = [math.log((count + 1) / 2) - math.log(rank) for rank in range(1, count + 1)]
    better, worse = raw[:parents], [min(weight, 0.0) for weight in raw[parents:]]
    effective = sum(better) ** 2 / sum(weight**2 for weight in better)
    total_worse, squares_worse = sum(worse), sum(weight**2 for weight in worse)
    effective_worse = total_worse**2 / squares_worse if squares_worse else 0.0
    rank_one = 2 / ((dim + 1.3) ** 2 + effective)
    rank_many = min(1 - rank_one, 2 * (0.25 + effective + 1 / effective - 2) / ((dim + 2) ** 2 + effective))
    against = min(
        1 + rank_one / rank_many,
        1 + 2 * effective_worse / (effective + 2),
        (1 - rank_one - rank_many) / (dim * rank_many),
    )
    weights = [weight / sum(better) for weight in better]
    weights += [against * weight / abs(total_worse) if total_worse else 0.0 for weight in worse]
    positive = [max(weight, 0.0) for weight in weights]
    shares = [rank_many * weight for weight in positive]
    failed = [rank_many * min(weight, 0.0) * dim for weight in weights]
    path_rate = (effective + 2) / (dim + effective + 5)
    damping = 1 + 2 * max(0.0, math.sqrt((effective - 1) / (dim + 1)) - 1) + path_rate
    return Rates(
        weights=torch.tensor([positive, shares, failed], dtype=dtype, device=device),
        shrinking=torch.tensor(-path_rate / damping, dtype=dtype, device=device),
        dimension=dim,
        total=sum(weights),
        effective=effective,
        path_rate=path_rate,
        damping=damping,
        velocity_rate=(4 + effective / dim) / (dim + 4 + 2 * effective / dim),
        rank_one=rank_one,
        rank_many=rank_many,
        expected_norm=math.sqrt(dim) * (1 - 1 / (4 * dim) + 1 / (21 * dim**2)),
        refactor_every=max(1, int(1 / (10 * dim * (rank_one + rank_many))), count * dim // 160),
    )


def begin(centre_D: Tensor, scale: float, dtype: torch.dtype) -> Drift:
    """A colony at `centre_D` that has learnt nothing yet: C = I."""
    dimension, device = centre_D.shape[0], centre_D.device
    zeros_D = torch.zeros(dimension, dtype=dtype, device=device)
    identity_DD = torch.eye(dimension, dtype=dtype, device=device)
    return Drift(
        centre=centre_D.to(dtype),
        path=zeros_D,
        velocity=zeros_D.clone(),
        scale=torch.tensor(scale, dtype=dtype, device=device),
        covariance=identity_DD,
        factor=identity_DD.clone(),
    )


def spread(drift: Drift, noise_PD: Tensor) -> tuple[Tensor, Tensor]:
    """Tumbles y_i = A z_i, and where they lead, m + sigma y_i: both (P, D); equations 38 to 40."""
    tumble_PD = torch.mm(noise_PD, drift.factor.T)
    return tumble_PD, torch.addcmul(drift.centre, drift.scale, tumble_PD)


def repaired(drift: Drift, position_PD: Tensor) -> tuple[Tensor, Tensor]:
    """Noise and tumbles that would have led to these positions: where bounds have held members back."""
    tumble_PD = (position_PD - drift.centre).div_(drift.scale)
    return torch.linalg.solve_triangular(drift.factor.mT, tumble_PD, upper=True, left=False), tumble_PD


def learn(drift: Drift, by: Rates, noise_PD: Tensor, tumble_PD: Tensor, loss_P: Tensor, *, age: int) -> Drift:
    """Drift along the ranked mean, and learn step size and covariance from it; equations 41 to 47.

    Args:
        drift: as the generation began.
        by: weights and rates.
        noise_PD, tumble_PD: z_i and y_i of the members.
        loss_P: their losses; +inf where not finite.
        age: generations that the drift has made, this one included.
    """
    order_P = torch.argsort(loss_P)
    # the weights go to the members: cheaper than the members in order
    positive_P, shares_P, failed_P = by.weights.index_copy(1, order_P, by.weights).unbind(0)
    mean_tumble_D = torch.mv(tumble_PD.T, positive_P)
    centre_D = torch.addcmul(drift.centre, drift.scale, mean_tumble_D)

    path_gain = math.sqrt(by.path_rate * (2 - by.path_rate) * by.effective)
    path_D = torch.addmv(drift.path, noise_PD.T, positive_P, beta=1 - by.path_rate, alpha=path_gain)
    length = torch.linalg.vector_norm(path_D)
    growth = torch.add(by.shrinking, length, alpha=by.path_rate / by.damping / by.expected_norm).clamp_max_(1.0)
    # while the path is longer than chance makes it, p_c would only repeat what the step size says
    moderate = length.lt_(by.longest_path(age))
    velocity_gain = math.sqrt(by.velocity_rate * (2 - by.velocity_rate) * by.effective)
    velocity_D = (1 - by.velocity_rate) * drift.velocity
    velocity_D = velocity_D.addcmul_(moderate, mean_tumble_D, value=velocity_gain)

    # a tumble that failed counts by its direction: at full length it could make C indefinite
    squared_P = torch.linalg.vecdot(noise_PD, noise_PD).clamp_min_(1e-12)
    shares_P = torch.addcdiv(shares_P, failed_P, squared_P)
    covariance_DD = torch.addmm(
        drift.covariance,
        tumble_PD.T * shares_P,
        tumble_PD,
        beta=1 - by.rank_one - by.rank_many * by.total,
    )
    covariance_DD = covariance_DD.addr_(velocity_D, velocity_D, alpha=by.rank_one)
    factor_DD = drift.factor
    if age % by.refactor_every == 0:
        found_DD, failed = torch.linalg.cholesky_ex(covariance_DD)
        factor_DD = torch.where(failed == 0, found_DD, factor_DD)
    return Drift(
        centre=centre_D,
        path=path_D,
        velocity=velocity_D,
        scale=drift.scale * growth.exp_(),
        covariance=covariance_DD,
        factor=factor_DD,
    )
