from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from pytorch_bfo_optimizer import (
    BFO,
    AdaptiveBFO,
    GradientConfig,
    HybridBFO,
    HyperparameterError,
    StateMismatchError,
)
from pytorch_bfo_optimizer.state import Hyperparameters

FAMILY = [BFO, AdaptiveBFO, HybridBFO]
BUSY = {"population_size": 5, "chem_steps": 2, "repro_steps": 2, "elim_prob": 0.5}
BUSY_AS = {BFO: BUSY, AdaptiveBFO: {"population_size": 5}, HybridBFO: BUSY}


def saved_and_loaded(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def trajectory(optimizer: BFO, closure: Callable[[], Tensor], steps: int) -> list[Any]:
    seen = []
    for _ in range(steps):
        loss = optimizer.step(closure)
        seen.append((loss, optimizer.population.tolist(), optimizer.evaluations, optimizer.nonfinite_evaluations))
    return seen


@pytest.mark.parametrize("cls", FAMILY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("steps_before", [0, 1, 7])
def test_resuming_is_bitwise_equal_to_going_on(
    cls: type[BFO], dtype: torch.dtype, steps_before: int, make_bowl: Callable[..., Any]
) -> None:
    bowl = make_bowl(dtype=dtype)
    bowl.params[1] = bowl.params[1].detach().float().requires_grad_()  # of two dtypes where dtype is bfloat16
    optimizer = cls(bowl.params, generator=torch.Generator().manual_seed(3), **BUSY_AS[cls])
    trajectory(optimizer, bowl, steps_before)
    state, params = saved_and_loaded(optimizer.state_dict()), [param.detach().clone() for param in bowl.params]
    wanted = trajectory(optimizer, bowl, 6)

    other = make_bowl(dtype=dtype)
    other.params[:] = [param.requires_grad_() for param in params]
    resumed = cls(other.params, generator=torch.Generator().manual_seed(99), **BUSY_AS[cls])
    resumed.load_state_dict(state)
    assert trajectory(resumed, other, 6) == wanted
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(bowl.params, other.params, strict=True))


def test_the_state_keeps_double_precision_and_the_edits_of_groups(make_bowl: Callable[..., Any]) -> None:
    bowl = make_bowl(dtype=torch.bfloat16)
    optimizer = BFO(bowl.params, **BUSY)
    optimizer.step(lambda: 1 + 1e-12)
    optimizer.param_groups[0]["elim_prob"] = 0.125
    resumed = BFO(make_bowl(dtype=torch.bfloat16).params, **BUSY)
    resumed.load_state_dict(saved_and_loaded(optimizer.state_dict()))
    assert resumed.best_fitness == 1 + 1e-12
    assert resumed.param_groups[0]["elim_prob"] == 0.125


def test_a_state_dict_is_a_snapshot(make_bowl: Callable[..., Any]) -> None:
    bowl = make_bowl()
    optimizer = BFO(bowl.params, **BUSY)
    optimizer.step(bowl)
    state = optimizer.state_dict()
    before = saved_and_loaded(state)
    trajectory(optimizer, bowl, 3)
    after = saved_and_loaded(state)
    for key, value in before["state"][0].items():
        assert (
            torch.equal(value, after["state"][0][key]) if isinstance(value, Tensor) else value == after["state"][0][key]
        )


def test_a_colony_of_another_model_is_refused_and_nothing_changes(make_bowl: Callable[..., Any]) -> None:
    bowl = make_bowl()
    optimizer = BFO(bowl.params, **BUSY)
    optimizer.step(bowl)
    other = BFO(make_bowl(shapes=((3,), (4,), ())).params, **BUSY)
    population = other.population
    with pytest.raises(StateMismatchError, match=r"\(2, 2\)"):
        other.load_state_dict(optimizer.state_dict())
    assert torch.equal(other.population, population)


def test_the_colony_of_another_class_is_refused_by_what_it_lacks(make_bowl: Callable[..., Any]) -> None:
    bowl = make_bowl()
    optimizer = BFO(bowl.params, **BUSY)
    optimizer.step(bowl)
    state = optimizer.state_dict()
    del state["state"][0]["health"]
    with pytest.raises(StateMismatchError, match="no health, which BFO needs"):
        BFO(make_bowl().params, **BUSY).load_state_dict(state)


@pytest.mark.parametrize("cls", FAMILY)
@pytest.mark.parametrize("flatten", [False, True])
def test_distributed_checkpoint_takes_and_gives_the_state(cls: type[BFO], flatten: bool) -> None:
    options = StateDictOptions(flatten_optimizer_state_dict=flatten)

    def training(model: nn.Module) -> Callable[[], Tensor]:
        return lambda: sum((param**2).sum() for param in model.parameters())

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
    optimizer = cls(model.parameters(), generator=torch.Generator().manual_seed(1), **BUSY_AS[cls])
    fresh = get_optimizer_state_dict(model, optimizer, options=options)  # initialises through step(closure=None)
    assert fresh
    assert optimizer.evaluations == 0
    optimizer.step(training(model))
    state = get_optimizer_state_dict(model, optimizer, options=options)
    twin_model = copy.deepcopy(model)
    twin = cls(twin_model.parameters(), generator=torch.Generator().manual_seed(2), **BUSY_AS[cls])
    set_optimizer_state_dict(twin_model, twin, state, options=options)
    assert trajectory(twin, training(twin_model), 3) == trajectory(optimizer, training(model), 3)


@pytest.mark.parametrize("cls", FAMILY)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))])
def test_a_copy_goes_its_own_way_from_the_same_point(cls: type[BFO], copied: Any) -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = cls([param], generator=torch.Generator().manual_seed(1), **BUSY_AS[cls])
    optimizer.step(lambda: (param**2).sum())
    twin = copied(optimizer)
    (twin_param,) = twin.param_groups[0]["params"]
    assert twin_param is not param
    wanted = trajectory(optimizer, lambda: (param**2).sum(), 3)
    assert trajectory(twin, lambda: (twin_param**2).sum(), 3) == wanted


def test_a_decision_of_auto_survives_a_save() -> None:
    param = torch.ones(2, requires_grad=True)
    optimizer = HybridBFO([param], gradient_config=GradientConfig(check_every=100), **BUSY)
    optimizer.step(lambda: (param**2).sum().item())
    assert optimizer.gradient_decision is not None
    assert not optimizer.gradient_decision.use_gradient
    twin = HybridBFO([param], gradient_config=GradientConfig(check_every=100), **BUSY)
    twin.load_state_dict(saved_and_loaded(optimizer.state_dict()))
    tries = twin.gradient_evaluations
    twin.step(lambda: (param**2).sum())
    assert twin.gradient_evaluations == tries


# --- what is read once, and again when it was edited ---


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for each time that settings are read and validated."""
    seen: list[str] = []
    validated = Hyperparameters.__post_init__

    def counting(self: Hyperparameters) -> None:
        seen.append(type(self).__name__)
        validated(self)

    monkeypatch.setattr(Hyperparameters, "__post_init__", counting)
    return seen


def test_settings_are_validated_only_when_a_group_was_edited(readings: list[str]) -> None:
    first, second = torch.ones(2), torch.ones(3)
    optimizer = BFO([{"params": [first]}, {"params": [second], "bounds": [-1, 1]}], **BUSY)
    optimizer.param_groups[1]["bounds"] = (-1, 1)

    def readings_of_a_step() -> int:
        readings.clear()
        optimizer.step(lambda: (first**2).sum() + (second**2).sum())
        return len(readings)

    assert readings_of_a_step() == 2
    assert [readings_of_a_step() for _ in range(3)] == [0, 0, 0]
    optimizer.param_groups[1]["lr"] = 0.5
    assert [readings_of_a_step() for _ in range(2)] == [2, 0]
    optimizer.param_groups[0]["use_swarming"] = 0  # equal to False, and no bool
    with pytest.raises(HyperparameterError, match="use_swarming is 0"):
        readings_of_a_step()


@pytest.mark.parametrize("edit", ["lr", "bounds", "swarming_params"])
def test_what_is_edited_in_place_is_seen(edit: str) -> None:
    """A tensor or a list cannot be told to be unchanged, and is read at each step."""
    param = torch.ones(2)
    values: dict[str, Any] = {"lr": torch.tensor(1.0), "bounds": [-1, 1], "swarming_params": [0.2, 0.1, 0.2, 10.0]}
    optimizer = BFO([param], **{edit: values[edit]}, **BUSY)
    optimizer.step(lambda: (param**2).sum())
    if edit == "lr":
        values["lr"].fill_(-1.0)
    else:
        values[edit][1] = -2.0
    with pytest.raises(HyperparameterError, match=edit):
        optimizer.step(lambda: (param**2).sum())


def test_a_group_that_trades_parameters_with_another_is_seen() -> None:
    one, two, three = torch.ones(1), torch.ones(1), torch.ones(1)
    optimizer = BFO([{"params": [one, two], "bounds": (-2, 2)}, {"params": [three], "bounds": (-5, 5)}], **BUSY)
    optimizer.step(lambda: one + two + three)
    optimizer.param_groups[1]["params"].insert(0, optimizer.param_groups[0]["params"].pop())
    lower, _ = optimizer._space(optimizer._hyperparameters()).bounds
    assert lower.tolist() == [-2, -5, -5]
