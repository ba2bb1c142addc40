"""The run of a bacterium that feels the slope: Adam's direction, and a length that the slope ahead corrects.

Pure functions of tensors. Who calls the closure is in `hybrid`; when a run no longer pays is in `search`.

Symbols::

    g        gradient at the present place (D,)
    m, v     its first and second moments (D,); beta_1 is `momentum`, beta_2 `SECOND_MOMENT`
    u        direction (D,), unit length
    s        length of a move, in units of lr C
    C        `step_size_max`, in units of the parameters

    m <- beta_1 m + (1 - beta_1) g,    v <- beta_2 v + (1 - beta_2) g^2           (Kingma & Ba 2015, algorithm 1)
    u  = (m / (sqrt(v) + eps)) / |m / (sqrt(v) + eps)|
    theta' = clamp(theta - lr C s u)
    s <- s exp(q_n (c - DAMPING c^2)),  q_n = min(1, max(QUICKENING, 3 / n))               the n-th move of the run
    c  = cos(g', theta - theta')                                                          g': gradient at theta'

The last lines lengthen the run where the slope still points the way that it came, and shorten it where it points
back: the gradient of the loss by the length of the last move, made multiplicative (Almeida et al. 1998; Baydin et al.
2018, arXiv:1703.04782) and, by the cosine, free of units. The length is that of the whole move, so neither the scale of
the loss nor Adam's bias correction has any say in it. Without the damping, a run on a bowl may circle around the
minimum at one length for ever: it is as often on its way there as away from there. Mini-batch noise makes c small and
c^2 vanish.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SECOND_MOMENT = 0.999
"""beta_2, as in Adam."""

QUICKENING = 0.3
"""Logarithm of the most by which a length changes in one move, once a run has found its length."""

DAMPING = 0.2
"""Share of the squared cosine by which a length shrinks."""

EPSILON = 1e-12
"""Added to sqrt(v), in units of the largest element of the first gradient."""


@dataclass(frozen=True)
class Run:
    """Where a run is, and what it remembers of the slope; at least float32."""

    position: Tensor
    """(D,), in units of the parameters."""
    momentum: Tensor
    """(D,), m / scale."""
    square: Tensor
    """(D,), v / scale^2."""
    scale: float
    """Largest element of the first gradient, so that no square overflows or vanishes; 0 before there is one."""

    @classmethod
    def at(cls, place_D: Tensor) -> Run:
        """A run that begins at `place_D`."""
        wide_D = place_D.to(torch.promote_types(place_D.dtype, torch.float32))
        nothing_D = torch.zeros_like(wide_D)
        return cls(wide_D, nothing_D, nothing_D, 0.0)

    @property
    def feels(self) -> bool:
        """Whether it knows a slope."""
        return self.scale > 0

    def direction(self) -> Tensor:
        """The unit vector u (D,), uphill; zero where no slope is known."""
        steered_D, norm = self._steered()
        return steered_D / norm

    def move(self, length: Tensor) -> Tensor:
        """The next place (D,), `length` (lr C s, (1,) or (D,)) further down."""
        steered_D, norm = self._steered()
        return torch.addcmul(self.position, steered_D, length / norm, value=-1)

    def _steered(self) -> tuple[Tensor, Tensor]:
        """Adam's direction (D,), uphill, and its Euclidean norm."""
        steered_D = self.momentum / self.square.sqrt().add_(EPSILON)
        return steered_D, torch.linalg.vector_norm(steered_D).clamp_min(torch.finfo(steered_D.dtype).tiny)


def arrive(run: Run, place_D: Tensor, gradient_D: Tensor, *, momentum: float) -> tuple[Run, float, float]:
    """Take up the gradient (D,) at `place_D`, where the run has moved to or where it stands.

    Returns:
        the run there, the gradient in its moments; the cosine of the angle between the gradient and the way back, 0
        where there was no move; and |g|^2 in units of `scale`: 0 at a stationary point, not finite where the gradient
        is not.
    """
    gradient_D = gradient_D.to(run.position.dtype)
    scale = run.scale or float(gradient_D.abs().max()) or 1.0
    gradient_D, back_D = gradient_D / scale, run.position - place_D
    across, slope, way = torch.stack(  # at one wait
        [torch.dot(gradient_D, back_D), torch.dot(gradient_D, gradient_D), torch.dot(back_D, back_D)]
    ).tolist()
    length = math.sqrt(slope * way) if slope < math.inf else 0.0
    cosine = max(-1.0, min(1.0, across / length)) if 0 < length < math.inf else 0.0
    momentum_D = torch.lerp(gradient_D, run.momentum, momentum)
    square_D = torch.lerp(gradient_D.square(), run.square, SECOND_MOMENT)
    return Run(place_D, momentum_D, square_D, scale if slope else run.scale), cosine, slope


def quickening(cosine: float, moves: int) -> float:
    """The factor on s after the n-th move of a run, n from 1."""
    return math.exp(min(1.0, max(QUICKENING, 3 / max(moves, 1))) * (cosine - DAMPING * cosine * cosine))
