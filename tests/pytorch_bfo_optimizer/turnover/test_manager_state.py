from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pytorch_bfo_optimizer import TurnoverError
from pytorch_bfo_optimizer.turnover import Every, TurnoverManager

Make = Callable[..., Any]


def saved(*states: Any) -> Any:
    """Through a file, as `torch.load` takes it from strangers."""
    file = io.BytesIO()
    torch.save(states, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def managed(make: Make, preset: str) -> tuple[Any, TurnoverManager]:
    training = make()
    manager = TurnoverManager.preset(
        preset, training.model, training.optimizer, every=6, fraction=0.1, measure=training.evaluate
    )
    return training, manager


@pytest.mark.parametrize(
    ("data", "preset"),
    [
        ("digits", "hybrid"),
        ("digits", "fade"),
        ("text", "continuous"),
        ("digits", "growth"),
        ("text", "growth"),
        ("text", "distillation"),
        ("digits", "crossover"),
        ("text", "none"),
    ],
)
def test_a_training_that_goes_on_is_the_one_that_never_stopped(
    data: str, preset: str, request: pytest.FixtureRequest
) -> None:
    make = request.getfixturevalue(data)
    whole, manager = managed(make, preset)
    whole.run(8)  # in the midst of a fade, with young neurons about
    states = saved(
        manager.state_dict(), whole.model.state_dict(), whole.optimizer.state_dict(), whole.order.get_state()
    )
    whole.run(8)
    resumed, other = managed(make, preset)
    turnover, model, optimizer, order = states
    other.load_state_dict(turnover)
    resumed.model.load_state_dict(model)
    resumed.optimizer.load_state_dict(optimizer)
    resumed.order.set_state(order)
    resumed.made = 8
    resumed.run(8)
    assert other.events == manager.events
    assert other.widths == manager.widths
    assert other.summary() == manager.summary()
    for one, two in zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(one, two)
    for (_, one), (_, two) in zip(whole.optimizer.state.items(), resumed.optimizer.state.items(), strict=True):
        assert all(torch.equal(value, two[key]) for key, value in one.items())


def test_the_state_is_a_copy(digits: Make) -> None:
    training, manager = managed(digits, "hybrid")
    training.run(4)
    state, again = manager.state_dict(), saved(manager.state_dict())[0]
    training.run(4)
    for name, layer in state["layers"].items():
        for part in ("average", "observer"):
            for key, value in layer[part].items():
                assert torch.equal(value, again["layers"][name][part][key])
        assert layer["population"] == again["layers"][name]["population"]
    assert (state["steps"], state["events"]) == (4, [])


def test_a_model_that_is_too_wide_is_cut(digits: Make) -> None:
    training, manager = managed(digits, "growth")
    training.run(5)
    state, weights = saved(manager.state_dict(), training.model.state_dict())
    training.run(8)
    assert manager.widths == {"0": 29, "4": 20}
    manager.load_state_dict(state)
    training.model.load_state_dict(weights)
    assert (manager.widths, manager.events, manager.steps) == ({"0": 24, "4": 16}, [], 5)


def test_the_state_of_something_else_is_refused_and_nothing_changes(digits: Make, text: Make) -> None:
    training, manager = managed(digits, "growth")
    training.run(7)
    state = manager.state_dict()
    fresh = digits()
    for other, said in (
        (managed(text, "growth")[1], "the state is of other layers: .*'0', '4'.*and here they are"),
        (managed(digits, "hybrid")[1], "the state is of other settings"),
        (
            TurnoverManager(fresh.model, fresh.optimizer, layers="0", replace="fold", schedule=Every(6)),
            "the state is of other layers",
        ),
    ):
        widths = other.widths
        with pytest.raises(TurnoverError, match=said):
            other.load_state_dict(state)
        assert other.widths == widths
        assert other.steps == 0
    with pytest.raises(TurnoverError, match="no state of a TurnoverManager"):
        manager.load_state_dict({"steps": 3})


@pytest.mark.parametrize("missing", ["young", "generator", "events", "0"])
def test_a_damaged_state_is_refused_before_anything_is_resized(missing: str) -> None:
    def growing() -> tuple[nn.Sequential, torch.optim.Optimizer, TurnoverManager]:
        model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
        optimizer = torch.optim.Adam(model.parameters())
        return model, optimizer, TurnoverManager.preset("growth", model, optimizer, every=1)

    model, optimizer, manager = growing()
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    assert model[0].out_features > 6
    state = manager.state_dict()
    if missing in state:
        del state[missing]
    else:
        del state["layers"][missing]["observer"]
    other, _, loading = growing()
    with pytest.raises(TurnoverError, match=f"'{missing}'.*take another checkpoint"):
        loading.load_state_dict(state)
    assert other[0].out_features == 6
