"""The momentum drift: antithetic tumbles around the colony's centre, and a centre that moves with momentum.

Pure functions on tensors; no random draw, no host synchronisation. It costs half a tumble's worth of memory and a
matrix-vector product, and so is for many coordinates; for few see `covariance`.

The members come in pairs m + sigma z, m - sigma z. With the centred ranks u of their losses, from 1/2 for the best to
-1/2 for the worst,

    g <- sum_pairs (u_i+ - u_i-) z_i                        the ranked mean of the tumbles
    v <- clip(mu v + a sigma sqrt(D) g / |g|, 2 a sigma sqrt(D))
    m <- m + v

Antithetic pairs and ranks: Salimans et al. 2017, arXiv:1703.03864, section 2; the normalised, clipped velocity:
Toklu, Liskowski, Srivastava 2020, "ClipUp", PPSN XVI, algorithm 1. Now and then the first pair stays at the centre
itself (zero noise), so that its loss is known.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

MOMENTUM = 0.9
"""mu: share of the velocity that is kept."""
_TINY = 1e-37
"""Keeps a length of zero from being divided by; a float32 too."""
STRIDE = 0.25
"""a: length of one push on the velocity, in lengths of a tumble, sigma sqrt(D)."""


class Drift(NamedTuple):
    """Where the colony is and how it moves."""

    centre: Tensor
    """m (D,), in units of the parameters."""
    velocity: Tensor
    """v (D,), in units of the parameters a generation."""
    scale: Tensor
    """sigma, 0-dim, in units of the parameters."""
    unit: Tensor
    """(D,), dimensionless: sigma of each coordinate over `scale`; the noise comes multiplied by it."""


def begin(centre_D: Tensor, scale: float, unit_D: Tensor) -> Drift:
    """A colony at rest at `centre_D`."""
    return Drift(centre_D, torch.zeros_like(centre_D), centre_D.new_full((), scale), unit_D)


class Pairs(NamedTuple):
    """What a generation of so many members needs beside what it has learnt."""

    ranks: Tensor
    """Centred ranks u (P,), best first: from 1/2 to -1/2."""
    signs: Tensor
    """1 and -1 (2,): the two tumbles of a pair."""


@lru_cache(maxsize=16)
def pairs(count: int, dtype: torch.dtype, device: torch.device) -> Pairs:
    """Of `count` members, an even number."""
    ranks_P = torch.linspace(0.5, -0.5, count, dtype=dtype, device=device)
    return Pairs(ranks_P, torch.tensor([1.0, -1.0], dtype=dtype, device=device))


def spread(drift: Drift, by: Pairs, noise_HD: Tensor) -> Tensor:
    """Where antithetic tumbles lead: m + sigma z_1..H, then m - sigma z_1..H, (2 H, D)."""
    either_way = (drift.scale * by.signs).view(2, 1, 1)
    return torch.addcmul(drift.centre, either_way, noise_HD).flatten(0, 1)


def learn(drift: Drift, by: Pairs, noise_HD: Tensor, loss_P: Tensor) -> Drift:
    """Move the centre along the ranked mean of the tumbles.

    A pair at the centre itself, whose noise is zero, has no say in it.
    """
    order_P = torch.argsort(loss_P)
    rank_2H = by.ranks.scatter(0, order_P, by.ranks).view(2, -1)
    push_D = torch.mv(noise_HD.T, torch.mv(rank_2H.T, by.signs))
    longest = drift.scale * (2 * STRIDE * math.sqrt(noise_HD.shape[1]))
    # were all losses equal, the push would still not be zero: ranks have no ties
    push_D.mul_(longest / torch.linalg.vector_norm(push_D).clamp_min_(_TINY))
    # v / mu, with half of the longest push: the factor mu joins the clipping
    velocity_D = torch.add(drift.velocity, push_D, alpha=0.5 / MOMENTUM)
    shorter = (longest / torch.linalg.vector_norm(velocity_D).clamp_min_(_TINY)).clamp_max_(MOMENTUM)
    velocity_D.mul_(shorter)
    return Drift(drift.centre + velocity_D, velocity_D, drift.scale, drift.unit)
