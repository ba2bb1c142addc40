from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import StepLR

from pytorch_bfo_optimizer import BFO, AdaptiveBFO, BFOError, GradientConfig, HybridBFO, HyperparameterError

BAD = [
    ("lr", -1.0),
    ("lr", float("nan")),
    ("lr", torch.ones(2)),
    ("population_size", 0),
    ("population_size", 2.5),
    ("population_size", True),
    ("chem_steps", 0),
    ("swim_length", -1),
    ("repro_steps", -1),
    ("elim_steps", 1.5),
    ("elim_prob", 1.1),
    ("elim_prob", "often"),
    ("step_size_max", 0.0),
    ("step_size_max", float("inf")),
    ("step_size_min", 0.2),
    ("levy_alpha", 2.0),
    ("levy_alpha", 0.0),
    ("use_swarming", 1),
    ("swarming_params", (1.0, 2.0)),
    ("swarming_params", (1.0, 2.0, 3.0, -1.0)),
    ("bounds", (1.0, 1.0)),
    ("bounds", (0.0, float("inf"))),
    ("bounds", 3.0),
    ("reevaluate", 1),
    ("chunk_size", 0),
    ("chunk_size", "all"),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_hyperparameter_is_refused_with_its_name_and_value(name: str, value: Any) -> None:
    param = torch.zeros(2)
    with pytest.raises(HyperparameterError, match=name) as caught:
        BFO([param], **{name: value})
    assert isinstance(caught.value, BFOError)
    assert isinstance(caught.value, ValueError)
    optimizer = BFO([param], population_size=2)
    optimizer.step(lambda: param.sum())
    optimizer.param_groups[0][name] = value  # the same, edited later
    with pytest.raises(HyperparameterError, match=name):
        optimizer.step(lambda: param.sum())


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        (AdaptiveBFO, "population_size", 0),
        (AdaptiveBFO, "population_size", 3),
        (AdaptiveBFO, "population_size", 8.0),
        (AdaptiveBFO, "step_size", 0.0),
        (AdaptiveBFO, "step_size", float("inf")),
        (AdaptiveBFO, "horizon", 0),
        (AdaptiveBFO, "horizon", 1e6),
        (HybridBFO, "gradient_weight", 1.5),
        (HybridBFO, "momentum", 1.0),
        (HybridBFO, "use_momentum", "yes"),
        (HybridBFO, "gradient_config", "auto"),
    ],
)
def test_those_of_the_subclasses_too(cls: type[BFO], name: str, value: Any) -> None:
    with pytest.raises(HyperparameterError, match=name):
        cls([torch.zeros(2)], **{name: value})


@pytest.mark.parametrize(("name", "value"), [("mode", "sometimes"), ("fallback_on_error", 1), ("check_every", 0)])
def test_a_bad_gradient_config_is_refused(name: str, value: Any) -> None:
    with pytest.raises(HyperparameterError, match=name):
        GradientConfig(**{name: value})


def test_an_unknown_argument_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="no argument 'momentum'"):
        BFO([torch.zeros(1)], momentum=0.9)


def test_reevaluation_without_swimming_is_refused_with_the_reason() -> None:
    with pytest.raises(HyperparameterError, match="no member could ever move"):
        BFO([torch.zeros(1)], reevaluate=True, swim_length=0)


def test_groups_may_differ_per_coordinate_but_not_for_the_colony() -> None:
    one, two = torch.zeros(1), torch.zeros(1)
    BFO([{"params": [one], "lr": 2.0, "levy_alpha": None, "bounds": (0, 1)}, {"params": [two], "step_size_max": 0.5}])
    with pytest.raises(HyperparameterError, match="chem_steps is 10 in group 0 and 3 in group 1"):
        BFO([{"params": [one]}, {"params": [two], "chem_steps": 3}])


def test_keys_of_others_in_a_group_are_left_alone() -> None:
    param = torch.ones(1)
    optimizer = BFO([{"params": [param], "weight_decay": 0.1}], population_size=2)
    optimizer.step(lambda: param**2)
    assert optimizer.param_groups[0]["weight_decay"] == 0.1


def _longest_move(optimizer: BFO, param: torch.Tensor) -> float:
    start, farthest = optimizer.population[0], 0.0

    def closure() -> torch.Tensor:
        nonlocal farthest
        farthest = max(farthest, float((param - start).norm()))
        return -param.sum() * 0  # nothing ever improves: each evaluation is one move from the start

    optimizer.step(closure)
    return farthest


@pytest.mark.parametrize("as_lr", [float, torch.tensor])
def test_a_scheduler_sets_the_length_of_the_moves(as_lr: Callable[[float], Any]) -> None:
    param = torch.zeros(5, dtype=torch.float64)
    optimizer = BFO([param], lr=as_lr(1.0), population_size=1, levy_alpha=None, step_size_min=0.1)
    scheduler = StepLR(optimizer, step_size=1, gamma=0.5)
    lengths = []
    for _ in range(3):
        lengths.append(_longest_move(optimizer, param))
        scheduler.step()
    assert lengths == pytest.approx([0.1, 0.05, 0.025])


def test_the_step_size_falls_over_a_life_cycle_and_starts_again() -> None:
    param = torch.zeros(5, dtype=torch.float64)
    optimizer = BFO([param], population_size=1, levy_alpha=None, chem_steps=1, repro_steps=2, elim_steps=2)
    lengths = [_longest_move(optimizer, param) for _ in range(5)]
    assert lengths == pytest.approx([0.1, 0.07, 0.04, 0.01, 0.1])


def test_each_group_moves_by_its_own_step_and_stays_in_its_own_bounds(generator: torch.Generator) -> None:
    fine, coarse = torch.zeros(4), torch.zeros(3)
    groups = [{"params": [fine], "step_size_max": 0.01, "step_size_min": 0.01}, {"params": [coarse], "bounds": (-1, 1)}]
    optimizer = BFO(
        groups, population_size=6, step_size_max=1.0, step_size_min=1.0, levy_alpha=None, generator=generator
    )
    start = optimizer.population
    optimizer.step(lambda: (fine - 5).pow(2).sum() + (coarse - 5).pow(2).sum())
    moved = (optimizer.population - start).abs()
    assert 0 < moved[:, :4].max() <= 0.05
    assert moved[:, 4:].max() > 0.1
    assert optimizer.population[:, 4:].abs().max() <= 1
    assert start[1:, 4:].std() > 0.3  # uniform in the bounds
    assert start[1:, :4].std() < 0.02  # near the parameters
