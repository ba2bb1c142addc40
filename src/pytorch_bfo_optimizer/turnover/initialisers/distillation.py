"""`distillation`: the newborn are taught what the dead did, on recorded inputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from pytorch_bfo_optimizer.state import require_count, require_number
from pytorch_bfo_optimizer.turnover.initialisers import Initialiser, Plan, fresh, silent
from pytorch_bfo_optimizer.turnover.surgery import Births
from pytorch_bfo_optimizer.turnover.view import View


@dataclass(frozen=True)
class Distillation(Initialiser):
    """Fresh neurons, trained by some steps of Adam on min E||W_new h_new(x) - W_dead h_dead(x)||^2 over their weights.

    Hinton et al. 2015 (arXiv:1503.02531) on the consumers' outputs, with everything else held. Behind a BatchNorm1d the
    newborn are normalised by their own mean and variance over the recorded inputs, which become their running ones.
    """

    steps: int = 60
    lr: float = 0.05
    """Relative to what incoming weights are drawn from, 1 / sqrt(I), and to the root mean square of the outputs."""
    kept_rows: int = field(default=512, kw_only=True)

    name: ClassVar[str] = "distillation"

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            HyperparameterError: naming the field, its value and the mend.
        """
        require_count("steps", self.steps, least=1, mend="60 are usual")
        require_number("lr", self.lr, low=0, high=10, open_low=True, mend="0.05 is usual")
        require_count("kept_rows", self.kept_rows, least=1, mend="512 is usual")

    def plan(self, view: View, dying_K: Tensor, count: int) -> Plan:
        """Draw the newborn and teach them; in new slots, where nobody died, there is nothing to teach."""
        incoming = fresh(view, count)
        if not len(dying_K):
            return Plan(Births(*incoming, silent(view, count), None), ((),) * count, "fresh, outgoing weights 0")
        pupils = _Pupils(view, dying_K.to(view.incoming.device), incoming)
        before, after = pupils.taught(self.steps, self.lr)
        why = f"distilled on {len(pupils.inputs_NI)} inputs: output error {before:.3g} before, {after:.3g} after"
        return Plan(pupils.births(), ((),) * count, why)


class _Pupils:
    """Newborn neurons that have to match the dead ones; they learn in units of first incoming weights and outputs."""

    def __init__(self, view: View, dying_K: Tensor, incoming: tuple[Tensor, Tensor | None]) -> None:
        assert view.inputs is not None  # the initialiser keeps them
        # (A batch normalisation needs two rows.)
        self.inputs_NI = view.inputs.to(view.incoming.dtype).repeat(2 if len(view.inputs) == 1 else 1, 1)
        self._path, self._own_norm = view.layer.path, view.layer.norm
        with torch.no_grad():
            dead_NK = view.activations(self.inputs_NI)[:, dying_K]
            self._wanted = [dead_NK @ weight_OH[:, dying_K].T for weight_OH in view.outgoing]
        self._unit_in = view.incoming.shape[1] ** -0.5
        self._units_out = [float(wanted_NO.square().mean().sqrt()) for wanted_NO in self._wanted]
        weight_KI, bias_K = incoming
        self._weight_KI = weight_KI / self._unit_in
        self._bias_K = None if bias_K is None else bias_K / self._unit_in
        self._outgoing_OK = [wanted_NO.new_zeros(wanted_NO.shape[1], len(dying_K)) for wanted_NO in self._wanted]
        self._norm = self._new_norm(tracks=False)

    def taught(self, steps: int, lr: float) -> tuple[float, float]:
        """Train, and return the error (root of the mean square over all outputs) before and after."""
        biases = [] if self._bias_K is None else [self._bias_K]
        learned = [tensor.requires_grad_() for tensor in (self._weight_KI, *biases, *self._outgoing_OK)]
        adam = torch.optim.Adam(learned, lr=lr)
        with torch.enable_grad():
            before = self._error().detach()
            for _ in range(steps):
                for tensor, grad in zip(learned, torch.autograd.grad(self._error(), learned), strict=True):
                    tensor.grad = grad
                adam.step()
        for tensor in learned:
            tensor.requires_grad_(False)
        return float(before) ** 0.5, float(self._error().detach()) ** 0.5

    def births(self) -> Births:
        """What they have learned."""
        norm = self._new_norm(tracks=self._own_norm is not None and self._own_norm.track_running_stats)
        if norm is not None and norm.running_mean is not None and norm.running_var is not None:
            pre_NK = self._preactivations()
            norm.running_mean.copy_(pre_NK.mean(dim=0))
            norm.running_var.copy_(pre_NK.var(dim=0))
        bias_K = None if self._bias_K is None else self._bias_K * self._unit_in
        return Births(self._weight_KI * self._unit_in, bias_K, self._outgoing(), norm)

    def _outgoing(self) -> tuple[Tensor, ...]:
        return tuple(own * unit for own, unit in zip(self._outgoing_OK, self._units_out, strict=True))

    def _preactivations(self) -> Tensor:
        pre_NK: Tensor = self._unit_in * linear(self.inputs_NI, self._weight_KI, self._bias_K)
        return pre_NK

    def _error(self) -> Tensor:
        """Mean square over all outputs of all consumers."""
        h_NK = self._path(self._preactivations(), self._norm)
        missed = [
            (linear(h_NK, weight_OK) - wanted_NO).square().flatten()
            for weight_OK, wanted_NO in zip(self._outgoing(), self._wanted, strict=True)
        ]
        return torch.cat(missed).mean()

    def _new_norm(self, *, tracks: bool) -> nn.BatchNorm1d | None:
        """A norm of the newborn alone, if the layer has one; that which does not track goes by the rows it gets."""
        own, weight_KI = self._own_norm, self._weight_KI
        if own is None:
            return None
        return nn.BatchNorm1d(
            len(weight_KI),
            eps=own.eps,
            affine=own.affine,
            track_running_stats=tracks,
            device=weight_KI.device,
            dtype=weight_KI.dtype,
        )


INITIALISER = Distillation
