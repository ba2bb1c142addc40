from __future__ import annotations

import sys
import types
from collections.abc import Callable

import pytest
import torch
from torch import nn

from pytorch_bfo_optimizer import HyperparameterError
from pytorch_bfo_optimizer.turnover import initialisers
from pytorch_bfo_optimizer.turnover.initialisers import as_initialiser, fresh, load_all, silent
from pytorch_bfo_optimizer.turnover.view import View

NOBODY = torch.empty(0, dtype=torch.int64)


def test_each_module_holds_one() -> None:
    assert set(load_all()) == {
        "mutation",
        "zero_outgoing",
        "copy_best_match",
        "fold",
        "distillation",
        "fade",
        "crossover",
        "offspring",
    }
    assert all(name == found.name and found.__doc__ for name, found in load_all().items())


def test_a_module_without_one_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{initialisers.__name__}.fade"
    monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    with pytest.raises(TypeError, match="fade defines no INITIALISER"):
        load_all.__wrapped__()


def test_by_name_or_as_it_is() -> None:
    own = load_all()["fade"](over=3)
    assert as_initialiser(own) is own
    assert as_initialiser("fade").over == 50
    assert as_initialiser("mutation").over == as_initialiser("mutation").kept_rows == 0
    with pytest.raises(HyperparameterError, match="replace is 'foldd': use one of 'copy_best_match', "):
        as_initialiser("foldd")


@pytest.mark.parametrize(
    ("name", "field", "wrong"),
    [
        ("fade", "over", 0),
        ("fold", "ridge", 0.0),
        ("fold", "kept_rows", 0),
        ("offspring", "scale", -1.0),
        ("offspring", "ridge", 0.0),
        ("mutation", "scale", float("nan")),
        ("distillation", "steps", 0),
        ("distillation", "lr", 0.0),
        ("distillation", "kept_rows", 1.5),
    ],
)
def test_settings_are_checked(name: str, field: str, wrong: float) -> None:
    with pytest.raises(HyperparameterError, match=f"^{field} is"):
        load_all()[name](**{field: wrong})


@pytest.mark.parametrize("name", sorted(load_all()))
@pytest.mark.parametrize("bias", [True, False])
def test_all_can_plan_a_replacement_and_growth_and_touch_nothing(
    name: str, bias: bool, view: Callable[..., View]
) -> None:
    model = nn.Sequential(nn.Linear(3, 6, bias=bias), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    for dying, count in ((torch.tensor([4, 1]), 2), (NOBODY, 3)):
        seen = view(model, scores=None, inputs=torch.randn(40, 3, generator=torch.Generator().manual_seed(0)))
        plan = as_initialiser(name).plan(seen, dying, count)
        births = plan.births
        assert births.incoming_weight.shape == (count, 3)
        assert (births.incoming_bias is None) == (not bias)
        assert [outgoing.shape for outgoing in births.outgoing] == [(2, count)]
        assert len(plan.parents) == count
        assert not {parent for parents in plan.parents for parent in parents} & set(dying.tolist())
        tensors = (births.incoming_weight, *births.outgoing)
        assert not any(tensor.requires_grad for tensor in tensors)
        assert (plan.fold is not None) == (name in ("fold", "offspring") and len(dying) > 0)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_fresh_weights_are_those_of_a_new_linear(view: Callable[..., View]) -> None:
    model = nn.Sequential(nn.Linear(16, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    weight, bias = fresh(view(model), 4000)
    assert weight.dtype == bias.dtype == torch.float64
    for values in (weight, bias):
        assert values.abs().max() <= 0.25
        assert values.std().item() == pytest.approx(0.25 / 3**0.5, rel=0.02)
        assert values.mean().item() == pytest.approx(0, abs=0.01)
    again, _ = fresh(view(model), 4000)
    assert torch.equal(weight, again)  # the generator's numbers, and nobody else's
    assert fresh(view(nn.Sequential(nn.Linear(16, 4, bias=False), nn.Tanh(), nn.Linear(4, 2))), 2)[1] is None
    assert [tuple(outgoing.shape) for outgoing in silent(view(model), 3)] == [(2, 3)]
    assert not any(outgoing.any() for outgoing in silent(view(model), 3))
