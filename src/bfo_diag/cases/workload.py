"""One piece of work in two halves, so that a scenario can cut it in the middle: a trunk that feeds a head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bfo_diag.records import Case


@dataclass(frozen=True)
class Workload:
    """A loss over real data, as `head(trunk(part), part)`.

    `trunk(part)` returns features for micro-batch `part` (from 0 to `parts` - 1), `head(features, part)` the mean
    loss over that micro-batch: a 0-dim tensor.
    """

    name: str
    trunk_parameters: Mapping[str, Tensor]
    head_parameters: Mapping[str, Tensor]
    trunk: Callable[[int], Tensor]
    head: Callable[[Tensor, int], Tensor]
    parts: int
    model: torch.nn.Module | None = None

    @property
    def parameters(self) -> dict[str, Tensor]:
        """All parameters by name, the trunk's first."""
        return {**self.trunk_parameters, **self.head_parameters}

    def part_loss(self, part: int, *, detached: bool = False) -> Tensor:
        """Return the loss of one micro-batch; `detached` cuts the graph between trunk and head."""
        features = self.trunk(part)
        return self.head(features.detach() if detached else features, part)

    def loss(self, *, detached: bool = False) -> Tensor:
        """Return the mean loss over all micro-batches."""
        losses = [self.part_loss(part, detached=detached) for part in range(self.parts)]
        return torch.stack(losses).mean()


def adam_case(workload: Workload, *, lr: float) -> Case:
    """Return the ordinary training step of a workload: zero_grad, loss, backward, step of Adam."""
    parameters = list(workload.parameters.values())
    optimizer = torch.optim.Adam(parameters, lr=lr)

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = workload.loss()
        loss.backward()
        optimizer.step()
        return loss

    return Case(
        step=step,
        model=workload.model,
        optimizer=optimizer,
        parameters={} if workload.model is not None else workload.parameters,
        name=workload.name,
    )
