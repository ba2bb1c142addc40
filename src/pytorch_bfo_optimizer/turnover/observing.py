"""What forward passes of training show of a layer: activity since the last step, and a few recent inputs.

The hooks only write to tensors in place, so torch.compile takes them into its graphs. It does so when it first compiles
a module; hooks that come later it never sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pytorch_bfo_optimizer.turnover.layers import Layer
from pytorch_bfo_optimizer.turnover.module_hooks import ModuleHook, given_to, is_recomputed

_FORWARDS_KEPT = 8
"""The recorded inputs are from at least so many forward passes."""


@dataclass(frozen=True)
class Activity:
    """What forward passes of training showed of a layer since the last optimizer step."""

    total: Tensor
    """Sum of |h| over the rows (H,), h being what the consumers read, before dropout."""
    rows: Tensor
    """How many rows that were, 0-dim: (B, H) has B of them, (B, T, H) has B T."""


class Observer:
    """Watches one layer while its modules train and gradients are on: never an evaluation.

    Args:
        layer: what is watched.
        activity: whether |h| is added up.
        kept_rows: how many rows of the producer's inputs are kept, the latest ones; 0 for none.
    """

    def __init__(self, layer: Layer, *, activity: bool, kept_rows: int) -> None:
        weight = layer.producer.weight
        self._activity, self._kept_rows = activity, kept_rows
        like = torch.empty(0, device=weight.device, dtype=torch.promote_types(weight.dtype, torch.float32))
        self._total_H = like.new_zeros(layer.producer.out_features if activity else 0)
        self._rows = like.new_zeros(())
        self._inputs_NI = like.new_zeros(kept_rows, layer.producer.in_features if kept_rows else 0)
        self._written = torch.zeros((), dtype=torch.int64, device=weight.device)
        self._hooks: list[RemovableHandle] = []
        if activity:
            self._hooks.append(layer.tap.register_forward_pre_hook(ModuleHook(self._see_activity), with_kwargs=True))
        if kept_rows:
            self._hooks.append(layer.producer.register_forward_pre_hook(ModuleHook(self._see_input), with_kwargs=True))

    def _see_activity(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not module.training or not torch.is_grad_enabled() or is_recomputed():
            return
        h_NH = given_to(args, kwargs).detach()
        h_NH = h_NH.reshape(-1, h_NH.shape[-1])
        if self._total_H.device != h_NH.device:
            self._move(h_NH.device)
        self._total_H.add_(h_NH.abs().sum(dim=0, dtype=self._total_H.dtype))
        self._rows.add_(h_NH.shape[0])

    def _see_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not module.training or not torch.is_grad_enabled() or is_recomputed():
            return
        x_NI = given_to(args, kwargs).detach()
        x_NI = x_NI.reshape(-1, x_NI.shape[-1])
        if self._inputs_NI.device != x_NI.device:
            self._move(x_NI.device)
        # Rows from all over the batch: neighbours in a sequence are alike.
        most = max(1, self._kept_rows // _FORWARDS_KEPT)
        x_NI = x_NI[:: max(1, -(-x_NI.shape[0] // most))]
        places_N = (self._written + torch.arange(x_NI.shape[0], device=x_NI.device)) % self._kept_rows
        self._inputs_NI.index_copy_(0, places_N, x_NI.to(self._inputs_NI.dtype))
        self._written.add_(x_NI.shape[0])

    def _move(self, device: torch.device) -> None:
        """The model went to another device after this was made."""
        self._total_H, self._rows = self._total_H.to(device), self._rows.to(device)
        self._inputs_NI, self._written = self._inputs_NI.to(device), self._written.to(device)

    def taken(self) -> Activity | None:
        """Return the activity since the last call, and begin anew; None where none is watched."""
        if not self._activity:
            return None
        activity = Activity(self._total_H.clone(), self._rows.clone())
        self._total_H.zero_()
        self._rows.zero_()
        return activity

    def inputs(self) -> Tensor | None:
        """Return the kept inputs (N, I) that are finite, in no order; None where none are kept."""
        if not self._kept_rows:
            return None
        kept_NI = self._inputs_NI[: min(int(self._written), self._kept_rows)]
        finite_NI: Tensor = kept_NI[kept_NI.isfinite().all(dim=1)]
        return finite_NI

    @property
    def has_seen_inputs(self) -> bool:
        """Whether any were recorded, finite or not."""
        return bool(self._written)

    def fit(self, layer: Layer) -> None:
        """Follow a change of widths: activity has room for the newborn, and inputs of another width are forgotten."""
        height, width = layer.producer.out_features, layer.producer.in_features
        if self._activity and height != len(self._total_H):
            self._total_H = self._total_H.new_zeros(height)
            self._rows = torch.zeros_like(self._rows)
        if self._kept_rows and width != self._inputs_NI.shape[1]:
            self._inputs_NI = self._inputs_NI.new_zeros(self._kept_rows, width)
            self._written = torch.zeros_like(self._written)

    @contextmanager
    def off(self) -> Iterator[None]:
        """Let forward passes leave no trace while the context lasts."""
        before = self.state_dict()
        try:
            yield
        finally:
            self.load_state_dict(before)

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of all tensors."""
        named = {"total": self._total_H, "rows": self._rows, "inputs": self._inputs_NI, "written": self._written}
        return {name: tensor.clone() for name, tensor in named.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Put back what `state_dict` gave of a layer of the same widths.

        Raises:
            RuntimeError: of other widths.
        """
        for tensor, name in (
            (self._total_H, "total"),
            (self._rows, "rows"),
            (self._inputs_NI, "inputs"),
            (self._written, "written"),
        ):
            tensor.copy_(state[name])

    def close(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()
