from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from pytorch_bfo_optimizer.turnover.selectors.weight import Weight
from pytorch_bfo_optimizer.turnover.view import View


class TwoConsumers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.one, self.other = nn.Linear(2, 3), nn.Linear(3, 2), nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.wide(x).relu()
        return self.one(h), self.other(h)


def test_the_norms_of_both_sides_of_all_consumers(view: Callable[..., View]) -> None:
    model = TwoConsumers()
    with torch.no_grad():
        model.wide.weight.copy_(torch.tensor([[3.0, 4.0], [1.0, 0.0], [2.0, 0.0]]))
        model.one.weight.copy_(torch.tensor([[1.0, 3.0, 0.0], [0.0, 0.0, 0.0]]))
        model.other.weight.copy_(torch.tensor([[0.0, 4.0, 1.0]]))
    assert Weight().scores(view(model)).tolist() == [5.0, 5.0, 2.0]
