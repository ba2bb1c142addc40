"""Norm and counts of one gradient."""

from __future__ import annotations

import math
from typing import Any

import torch


def gradient_stats(gradient: torch.Tensor) -> dict[str, Any]:
    """Return norm (ord 2, accumulated in float64) and the counts of NaN and Inf of one gradient."""
    if type(gradient).__module__.startswith("torch.distributed"):
        return {"not_measured": f"the gradient is a {type(gradient).__name__}"}
    with torch.no_grad():
        values = gradient.detach()
        if values.layout is not torch.strided:
            values = values.coalesce().values() if values.layout is torch.sparse_coo else values.to_dense()
        if values.is_complex():
            values = torch.view_as_real(values)
        norm = torch.linalg.vector_norm(values, dtype=torch.float64).item()
        nan = inf = 0
        if not math.isfinite(norm):
            nan, inf = int(values.isnan().sum()), int(values.isinf().sum())
            if not nan and not inf:  # float64 values whose squares overflow
                largest = values.abs().max()
                norm = (torch.linalg.vector_norm(values / largest) * largest).item()
    return {"grad_norm": norm, "nan_count": nan, "inf_count": inf}
