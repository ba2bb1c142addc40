"""`View`: one layer as selectors and initialisers see it. They read; what changes anything is in `surgery`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pytorch_bfo_optimizer.turnover.layers import Layer


@dataclass(frozen=True, kw_only=True)
class View:
    """A layer of H neurons with I inputs, read by consumers of O outputs each."""

    layer: Layer
    ages: Tensor
    """Optimizer steps since birth (H,), int64, on the CPU; of founders, since the manager was made."""
    founders: Tensor
    """Who was there when the manager was made (H,), bool, on the CPU."""
    fading: Tensor
    """Which neurons are on their way out (H,), bool, on the CPU."""
    average: Tensor
    """What the selector measured of each neuron, averaged over steps (H,); NaN where nothing is known."""
    scores: Tensor | None = None
    """The selector's scores (H,), highest is fittest; for those who look for parents. None: there is no selector."""
    inputs: Tensor | None = None
    """Recent inputs of the producer in training (N, I), for initialisers that keep them."""
    generator: torch.Generator
    """The source of all that is random in a turnover."""
    grad_scale: Tensor | None = None
    """What `.grad` is still multiplied with, where a GradScaler leaves the division to a fused optimizer."""

    @property
    def width(self) -> int:
        """H."""
        return self.layer.producer.out_features

    @property
    def incoming(self) -> Tensor:
        """Incoming weights (H, I)."""
        return self.layer.producer.weight.detach()

    @property
    def bias(self) -> Tensor | None:
        """Biases of the neurons (H,)."""
        bias = self.layer.producer.bias
        return None if bias is None else bias.detach()

    @property
    def outgoing(self) -> tuple[Tensor, ...]:
        """Outgoing weights (O, H), of each consumer."""
        return tuple(consumer.weight.detach() for _, consumer in self.layer.consumers)

    def gradient(self, parameter: Tensor) -> Tensor | None:
        """`.grad` as the optimizer sees it; None where there is none."""
        grad = parameter.grad
        return grad if grad is None or self.grad_scale is None else grad / self.grad_scale

    def preactivations(self, inputs_NI: Tensor) -> Tensor:
        """What the producer computes (N, H)."""
        return torch.nn.functional.linear(inputs_NI.to(self.incoming.dtype), self.incoming, self.bias)

    def activations(self, inputs_NI: Tensor) -> Tensor:
        """What the consumers read in an evaluation (N, H), without gradients."""
        with torch.no_grad():
            return self.layer.path(self.preactivations(inputs_NI))

    def survivors(self, dying_K: Tensor) -> Tensor:
        """Slots (S,) of the neurons that neither die nor fade, ascending."""
        lives_H = ~self.fading
        lives_H[dying_K.cpu()] = False
        return lives_H.nonzero().flatten()

    def fittest(self, count: int, dying_K: Tensor) -> Tensor:
        """Slots (count,) of the fittest survivors, the first one first; they come again where there are too few.

        Without a selector all are as fit: the order is drawn.
        """
        survivors_S = self.survivors(dying_K)
        if self.scores is None:
            order_S = torch.randperm(len(survivors_S), generator=self.generator, device=self.generator.device)
        else:
            scores_S = self.scores.cpu()[survivors_S].nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
            order_S = scores_S.argsort(descending=True, stable=True)
        return survivors_S[order_S.cpu()].repeat(-(-count // len(survivors_S)))[:count]

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Numbers in [0, 1) from the generator, in the weights' dtype and on their device."""
        weight = self.incoming
        drawn = torch.rand(tuple(shape), generator=self.generator, device=self.generator.device, dtype=weight.dtype)
        return drawn.to(weight.device)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers, likewise."""
        weight = self.incoming
        drawn = torch.randn(tuple(shape), generator=self.generator, device=self.generator.device, dtype=weight.dtype)
        return drawn.to(weight.device)
