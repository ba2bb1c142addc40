"""Least squares: dying neurons expressed by the survivors, so that their outgoing weights can be put upon those."""

from __future__ import annotations

import torch
from torch import Tensor

from pytorch_bfo_optimizer.turnover.initialisers import Fold
from pytorch_bfo_optimizer.turnover.view import View


@torch.no_grad()
def folded(view: View, dying_K: Tensor, *, ridge: float) -> tuple[Fold, float]:
    """Return what is to be added to the consumers, and the share of the dying neurons' output that is left over.

    min over C, c of ||H_D - H_S C - 1 c||^2 / N + ridge s ||C||^2, with H_D (N, K) the activations of the dying and
    H_S (N, S) those of the survivors on recent inputs, c (K,) the constant, s the mean square of H_S about its mean.
    A consumer y = W h + b then gets W_S += W_D C^T and b += W_D c; one without a bias gets a C that was found without
    a constant. All in float64.
    """
    assert view.inputs is not None  # the initialiser keeps them
    h_NH = view.activations(view.inputs).double()
    device = h_NH.device
    dying_K, survivors_S = dying_K.to(device), view.survivors(dying_K).to(device)
    dying_NK, survivors_NS = h_NH[:, dying_K], h_NH[:, survivors_S]
    solutions = {
        constant: _least_squares(survivors_NS, dying_NK, ridge=ridge, constant=constant)
        for constant in {consumer.bias is not None for _, consumer in view.layer.consumers}
    }
    weights, biases, left, whole = [], [], 0.0, 0.0
    for _, consumer in view.layer.consumers:
        coefficients_SK, constant_K = solutions[consumer.bias is not None]
        dying_OK = consumer.weight.detach()[:, dying_K].double()
        delta_OH = torch.zeros_like(consumer.weight)
        delta_OH[:, survivors_S] = (dying_OK @ coefficients_SK.T).to(delta_OH.dtype)
        weights.append(delta_OH)
        biases.append(None if consumer.bias is None else (dying_OK @ constant_K).to(delta_OH.dtype))
        missed_NK = dying_NK - survivors_NS @ coefficients_SK - constant_K
        left += float((missed_NK @ dying_OK.T).square().sum())
        whole += float((dying_NK @ dying_OK.T).square().sum())
    return Fold(tuple(weights), tuple(biases)), (left / whole) ** 0.5 if whole else 0.0


def _least_squares(known_NS: Tensor, wanted_NK: Tensor, *, ridge: float, constant: bool) -> tuple[Tensor, Tensor]:
    """Return coefficients (S, K) and constant (K,) of the ridge regression; the constant is not penalized."""
    mean_S, mean_K = known_NS.mean(dim=0), wanted_NK.mean(dim=0)
    if not constant:
        mean_S, mean_K = torch.zeros_like(mean_S), torch.zeros_like(mean_K)
    centred_NS, centred_NK = known_NS - mean_S, wanted_NK - mean_K
    gram_SS = centred_NS.T @ centred_NS / len(known_NS)
    penalty = ridge * gram_SS.diagonal().mean().clamp_min(1e-30)
    gram_SS.diagonal().add_(penalty)
    coefficients_SK = torch.linalg.solve(gram_SS, centred_NS.T @ centred_NK / len(known_NS))
    return coefficients_SK, mean_K - mean_S @ coefficients_SK
