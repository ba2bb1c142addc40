from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from pytorch_bfo_optimizer.turnover.selectors.orthogonality import Orthogonality
from pytorch_bfo_optimizer.turnover.view import View

ALL = torch.ones(5, dtype=torch.bool)


@pytest.fixture
def model() -> nn.Module:
    """0, 1 and 2 are parallel, 3 nearly so, 4 is orthogonal to all."""
    made = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1))
    with torch.no_grad():
        made[0].weight.copy_(torch.tensor([[1.0, 0.0], [-2.0, 0.0], [3.0, 0.0], [1.0, 0.1], [0.0, 1.0]]))
        made[2].weight.copy_(torch.tensor([[3.0, 1.0, 2.0, 9.0, 0.1]]))
    return made


def test_scores_are_the_highest_cosine(model: nn.Module, view: Callable[..., View]) -> None:
    near = 1 / 1.01**0.5
    assert Orthogonality().scores(view(model)).tolist() == pytest.approx([-1, -1, -1, -near, -0.1 * near])


def test_of_those_that_look_at_the_same_one_stays(model: nn.Module, view: Callable[..., View]) -> None:
    assert Orthogonality().choose(view(model), ALL, 2).tolist() == [1, 2]  # 0 has the largest outgoing weight
    assert Orthogonality().choose(view(model), ALL, 3).tolist() == [1, 2, 0]  # and then 0 beside 3
    assert Orthogonality().choose(view(model), ALL, 9).tolist()[:3] == [1, 2, 0]


def test_only_the_eligible_and_nothing_is_compared_with_what_fades(model: nn.Module, view: Callable[..., View]) -> None:
    eligible = torch.tensor([True, False, False, True, True])
    assert Orthogonality().choose(view(model), eligible, 2).tolist() == [0, 3]
    fading = torch.tensor([False, True, True, False, False])
    assert Orthogonality().choose(view(model, fading=fading), eligible & ~fading, 1).tolist() == [0]
