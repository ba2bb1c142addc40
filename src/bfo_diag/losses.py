"""The loss in what a step returned."""

from __future__ import annotations

import torch


def loss_in(value: object) -> torch.Tensor | None:
    """Return the loss in what a step returned: a tensor, its "loss" item or attribute, or the first scalar in it."""
    if isinstance(value, torch.Tensor):
        return value
    named = value.get("loss") if isinstance(value, dict) else getattr(value, "loss", None)
    if isinstance(named, torch.Tensor):
        return named
    if isinstance(value, (list, tuple)):
        scalars = [item for item in value if isinstance(item, torch.Tensor) and item.numel() == 1]
        return next((item for item in scalars if item.requires_grad), scalars[0] if scalars else None)
    return None


def number_of(value: object) -> float | None:
    """Return the number that a step's loss is, None where it returned none."""
    value = value if (loss := loss_in(value)) is None else loss
    if isinstance(value, torch.Tensor) and value.numel() == 1 and not value.is_complex():
        return float(value.detach())
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
