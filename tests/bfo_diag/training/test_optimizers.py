from __future__ import annotations

import pytest
import torch
from torch import nn

from bfo_diag.errors import DiagError
from bfo_diag.training import data, optimizers
from bfo_diag.training.recipe import Data, Optimizer, Training
from bfo_diag.training.step import Step


@pytest.fixture(scope="module")
def batch():
    return data.load(Data("digits", samples=16), "cpu").at(torch.arange(16))


@pytest.mark.parametrize("name", sorted(optimizers.known()))
def test_each_optimizer_trains_with_its_defaults(name, batch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 10, bias=name != "Muon"))
    small = {"population_size": 4} if "BFO" in name else {}
    if name in ("BFO", "HybridBFO"):
        small["swim_length"] = 1
    step = Step(model, optimizers.build(Optimizer(name, small), model), Training(), "cpu")
    before = model[0].weight.clone()
    losses = [float(step(*batch)) for _ in range(5)]
    assert not torch.equal(model[0].weight, before)
    assert all(map(torch.isfinite, map(torch.tensor, losses)))
    assert losses[-1] <= losses[0]


def test_the_recipes_arguments_reach_the_optimizer():
    model = nn.Linear(64, 10)
    adam = optimizers.build(Optimizer("Adam", {"lr": 0.5, "betas": [0.1, 0.2], "amsgrad": True}), model)
    assert adam.param_groups[0]["lr"] == 0.5
    assert adam.param_groups[0]["betas"] == (0.1, 0.2)
    assert adam.param_groups[0]["amsgrad"] is True
    rprop = optimizers.build(Optimizer("Rprop", {"etas": [0.4, 1.3]}), model)
    assert rprop.param_groups[0]["etas"] == (0.4, 1.3), "TOML has no tuples"
    bfo = optimizers.build(Optimizer("HybridBFO", {"population_size": 3, "gradient_weight": 0.25}), model)
    assert bfo.param_groups[0]["population_size"] == 3
    assert bfo.param_groups[0]["gradient_weight"] == 0.25


@pytest.mark.parametrize(
    ("name", "arguments", "said", "mend"),
    [
        ("adam", {}, "there is no optimizer 'adam'", "Adam"),
        ("Optimizer", {}, "there is no optimizer 'Optimizer'", ""),
        ("lr_scheduler", {}, "there is no optimizer", ""),
        ("LBFGS", {}, "is none for this loop", "another"),
        ("SparseAdam", {}, "sparse", "another"),
        ("Adam", {"learning_rate": 1.0}, "Adam takes no such argument", "lr"),
        ("Adam", {"params": []}, "Adam takes no such argument", "lr"),
        ("BFO", {"gradient_weight": 0.5}, "BFO takes no such argument", "population_size"),
        ("BFO", {"generator": 1}, "BFO takes no such argument", "population_size"),
        ("Adam", {"lr": -1.0}, "Adam with lr = -1.0: Invalid learning rate", "recipe"),
        ("Adam", {"lr": "fast"}, "Adam with lr = 'fast'", "recipe"),
        ("BFO", {"population_size": 0}, "BFO with population_size = 0", "recipe"),
    ],
)
def test_what_is_no_optimizer_or_no_argument_of_one_is_told(name, arguments, said, mend):
    with pytest.raises(DiagError) as caught:
        optimizers.build(Optimizer(name, arguments), nn.Linear(64, 10))
    assert said in caught.value.message
    assert mend in caught.value.mend
