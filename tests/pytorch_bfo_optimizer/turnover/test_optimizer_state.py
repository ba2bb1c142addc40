from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pytorch_bfo_optimizer import BFO, AdaptiveBFO, HybridBFO
from pytorch_bfo_optimizer.errors import TurnoverRefusedError
from pytorch_bfo_optimizer.turnover.layers import Layer, find_layers
from pytorch_bfo_optimizer.turnover.surgery import Births, Surgeon

OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    "plain SGD": lambda p: torch.optim.SGD(p, lr=0.01),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01, initial_accumulator_value=0.3),
    "Adadelta": lambda p: torch.optim.Adadelta(p, lr=0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True, momentum=0.9),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=0.01, t0=1),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
}


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))


def train(model: nn.Module, optimizer: Optimizer, steps: int = 3, *, begin: int = 0) -> None:
    for step in range(begin, begin + steps):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step)).to(model[0].weight.dtype)
        loss = (model(x) - x[:, :3].sin()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def births(layer: Layer, count: int, size: float = 0.1) -> Births:
    source = torch.Generator().manual_seed(9)
    incoming = torch.randn(count, layer.producer.in_features, generator=source) * size
    outgoing = tuple(torch.zeros(consumer.out_features, count) for _, consumer in layer.consumers)
    return Births(incoming, torch.zeros(count), outgoing)


def assert_fits(optimizer: Optimizer) -> None:
    """Every tensor of the state has its parameter's shape or none, and no state is of a parameter that is gone."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert {id(parameter) for parameter in optimizer.state} <= {id(parameter) for parameter in parameters}
    for parameter, state in optimizer.state.items():
        for value in state.values():
            assert not isinstance(value, Tensor) or value.dim() == 0 or value.shape == parameter.shape


def is_same(ours: Any, theirs: Any) -> bool:
    """Whether two nested values are the same, bit for bit."""
    if isinstance(ours, Tensor):
        return torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(is_same(value, theirs[key]) for key, value in ours.items())
    if isinstance(ours, (list, tuple)):
        return len(ours) == len(theirs) and all(map(is_same, ours, theirs))
    return ours == theirs


def operate(name: str, surgeon: Surgeon, layer: Layer) -> None:
    if name == "grow":
        surgeon.resize(layer, torch.arange(6), births(layer, 2))
    elif name == "shrink":
        surgeon.resize(layer, torch.tensor([4, 1, 2]))
    elif name == "replace":
        surgeon.replace(layer, torch.tensor([5, 0]), births(layer, 2))
    elif name == "turn over":
        surgeon.resize(layer, torch.tensor([1, 3, 0, 4]), births(layer, 2))
    else:
        surgeon.split(layer, torch.tensor([2, 2, 5]))


OPERATIONS = ["grow", "shrink", "replace", "turn over", "split"]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_state_has_its_parameters_shape_and_goes_through_a_file(name: str, operation: str) -> None:
    model = mlp()
    (layer,) = find_layers(model, "0")
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer)
    surgeon = Surgeon(model, optimizer)
    operate(operation, surgeon, layer)
    assert_fits(optimizer)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model.parameters()]
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict(), surgeon.young.state_dict()], file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again = copy.deepcopy(model)
    (again_layer,) = find_layers(again, "0")
    other = OPTIMIZERS[name](again.parameters())
    again.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    Surgeon(again, other).young.load_state_dict(saved[2], [again_layer])
    train(model, optimizer)
    train(again, other)
    assert_fits(optimizer)
    for ours, theirs in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_kept_neurons_keep_their_state_and_newborn_ones_begin_as_a_fresh_optimizer_does(name: str) -> None:
    model = mlp()
    (layer,) = find_layers(model, "0")
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer)
    before = [copy.deepcopy(optimizer.state[part]) for part in (layer.producer.weight, layer.consumers[0][1].weight)]
    keep = torch.tensor([1, 3, 0, 4])
    born = births(layer, 2)
    Surgeon(model, optimizer).resize(layer, keep, born)
    after = [optimizer.state[part] for part in (layer.producer.weight, layer.consumers[0][1].weight)]
    begins = {"sum": torch.tensor(0.3), "step_size": torch.tensor(0.01), "ax": born.incoming_weight}
    for key, value in before[0].items():
        if isinstance(value, Tensor) and value.dim():
            assert torch.equal(after[0][key][:4], value[keep])
            expected = begins.get(key, torch.zeros(()))
            assert torch.equal(after[0][key][4:], expected.expand_as(after[0][key][4:]))
            assert torch.equal(after[1][key][:, :4], before[1][key][:, keep])
        else:
            assert after[0][key] == value


SCALELESS: dict[str, dict[str, Any]] = {
    "Adam": {"eps": 1e-30},
    "AdamW": {"eps": 1e-30, "amsgrad": True, "weight_decay": 0.0},
    "NAdam": {"eps": 1e-30},
    "RAdam": {"eps": 1e-30},
    "Adamax": {"eps": 1e-30},
    "Adagrad": {"eps": 1e-30},
    "Adadelta": {"eps": 1e-30},
    "RMSprop": {"eps": 1e-30, "centered": True, "momentum": 0.9},
    "SGD": {"momentum": 0.9},
    "ASGD": {"lr": 0.0, "t0": 1},  # its state is a mean of weights, which have to stand still
    "Rprop": {},
}
"""Settings without which a gradient's size leaves a trace: what is as large as the gradient is compared here."""


@pytest.mark.parametrize("name", SCALELESS)
def test_split_state_is_that_of_a_net_that_was_split_from_the_start(name: str) -> None:
    """The twin gathers its state from the gradients that its copies really have; its weights are held still."""
    model = mlp().double().eval()
    twin = copy.deepcopy(model)
    layers = [find_layers(net, "0")[0] for net in (model, twin)]
    make = getattr(torch.optim, name)
    optimizers = [make(net.parameters(), **{"lr": 0.01, **SCALELESS[name]}) for net in (model, twin)]
    surgeons = [Surgeon(net, optimizer) for net, optimizer in zip((model, twin), optimizers, strict=True)]
    parents = torch.tensor([2, 2, 5, 2])  # 4 copies of one, 2 of the other
    surgeons[1].split(layers[1], parents)
    for net, optimizer in zip((model, twin), optimizers, strict=True):
        held = copy.deepcopy(net.state_dict())
        for step in range(4):
            train(net, optimizer, 1, begin=step)
            net.load_state_dict(held)
    surgeons[0].split(layers[0], parents)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        state = optimizers[0].state[ours]
        assert state
        for key, value in state.items():
            torch.testing.assert_close(value, optimizers[1].state[theirs][key], rtol=1e-6, atol=0)
    for net, optimizer in zip((model, twin), optimizers, strict=True):
        train(net, optimizer, 2, begin=4)
    x = torch.randn(5, 4, dtype=torch.float64)
    torch.testing.assert_close(model(x), twin(x), rtol=0, atol=1e-9)


@pytest.mark.parametrize("make", [BFO, AdaptiveBFO, HybridBFO])
def test_a_colony_searches_a_fixed_space(make: Callable[..., Optimizer]) -> None:
    model = mlp()
    with pytest.raises(TurnoverRefusedError, match=f"{make.__name__} searches a fixed space"):
        Surgeon(model, make(model.parameters()))


@pytest.mark.parametrize(
    ("make", "why"),
    [(torch.optim.LBFGS, "LBFGS keeps gradients of all"), (torch.optim.Adafactor, "Adafactor keeps means over rows")],
)
def test_what_keeps_no_value_for_each_value_is_refused(make: Callable[..., Optimizer], why: str) -> None:
    model = mlp()
    with pytest.raises(TurnoverRefusedError, match=why):
        Surgeon(model, make(model.parameters()))


class Foreign(torch.optim.SGD):
    """Somebody's optimizer, with a state of his own."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter].update(self.made(parameter))

    def made(self, parameter: Tensor) -> dict[str, Any]:
        return {"rows": torch.ones(len(parameter), 1)}


class Unscaled(Foreign):
    def made(self, parameter: Tensor) -> dict[str, Any]:
        return {"energy": torch.ones_like(parameter), "name": "plain values stay"}


class Counting(Foreign):
    def made(self, parameter: Tensor) -> dict[str, Any]:
        self.param_groups[0]["betas"] = (0.9, 0.99)
        return {"exp_avg": torch.ones_like(parameter), "step": 5}


@pytest.mark.parametrize(
    ("make", "operation", "why"),
    [
        (Foreign, "shrink", r"the state 'rows' of Foreign has shape \(6, 1\).* for a parameter of shape \(6, 4\)"),
        (Unscaled, "split", "the state 'energy' of Unscaled is not known here"),
        (Counting, "grow", "Counting counts its steps for its betas, and is no Adam"),
    ],
)
def test_an_unknown_state_is_refused_and_nothing_has_changed(
    make: Callable[..., Optimizer], operation: str, why: str
) -> None:
    model = mlp()
    (layer,) = find_layers(model, "0")
    optimizer = make(model.parameters(), lr=0.1)
    train(model, optimizer, 1)
    before = copy.deepcopy([model.state_dict(), optimizer.state_dict()])
    parameters = list(model.parameters())
    with pytest.raises(TurnoverRefusedError, match=why):
        operate(operation, Surgeon(model, optimizer), layer)
    assert is_same(before, [model.state_dict(), optimizer.state_dict()])
    assert all(old is new for old, new in zip(parameters, model.parameters(), strict=True))
    assert layer.width == 6


def test_a_state_of_the_parameters_shape_is_cut_whoever_keeps_it() -> None:
    model = mlp()
    (layer,) = find_layers(model, "0")
    optimizer = Unscaled(model.parameters(), lr=0.1)
    train(model, optimizer, 1)
    operate("turn over", Surgeon(model, optimizer), layer)
    assert_fits(optimizer)
    state = optimizer.state[layer.producer.weight]
    assert state["name"] == "plain values stay"
    assert state["energy"].sum(1).tolist() == [4, 4, 4, 4, 0, 0]
