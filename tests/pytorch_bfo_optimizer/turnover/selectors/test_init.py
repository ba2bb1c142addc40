from __future__ import annotations

import sys
import types
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pytorch_bfo_optimizer import HyperparameterError
from pytorch_bfo_optimizer.turnover import selectors
from pytorch_bfo_optimizer.turnover.selectors import Selector, as_selector, load_all
from pytorch_bfo_optimizer.turnover.view import View


def test_each_module_holds_one() -> None:
    assert set(load_all()) == {
        "weight",
        "gradient",
        "gradient_activation",
        "utility",
        "dormancy",
        "orthogonality",
    }
    assert all(name == found.name and found.__doc__ for name, found in load_all().items())


def test_a_module_without_one_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{selectors.__name__}.weight"
    monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    with pytest.raises(TypeError, match="weight defines no SELECTOR"):
        load_all.__wrapped__()


def test_by_name_or_as_it_is() -> None:
    assert isinstance(as_selector("weight"), load_all()["weight"])
    own = load_all()["weight"](maturity=3)
    assert as_selector(own) is own
    with pytest.raises(HyperparameterError, match="select is 'wight': use one of 'dormancy', "):
        as_selector("wight")


@pytest.mark.parametrize(("field", "wrong"), [("maturity", -1), ("maturity", 1.5), ("decay", 1.0), ("decay", -0.1)])
def test_settings_are_checked(field: str, wrong: float) -> None:
    with pytest.raises(HyperparameterError, match=f"^{field} is"):
        load_all()["weight"](**{field: wrong})


class Given(Selector):
    name = scored = "given"

    def scores(self, view: View) -> Tensor:
        return view.average


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def test_the_lowest_of_the_eligible_die_first(model: nn.Module, view: Callable[..., View]) -> None:
    seen = view(model, average=torch.tensor([3.0, 1.0, 2.0, 2.0, 0.0]))
    eligible = torch.tensor([True, True, True, True, False])
    assert Given().choose(seen, eligible, 3).tolist() == [1, 2, 3]
    assert Given().choose(seen, eligible, 9).tolist() == [1, 2, 3, 0]


def test_what_is_not_finite_loses_every_comparison(model: nn.Module, view: Callable[..., View]) -> None:
    seen = view(model, average=torch.tensor([-3.0, float("inf"), 2.0, float("nan"), -9.0]))
    assert Given().choose(seen, torch.ones(5, dtype=torch.bool), 3).tolist() == [1, 3, 4]


def test_the_young_and_the_fading_are_not_eligible(model: nn.Module, view: Callable[..., View]) -> None:
    seen = view(
        model,
        ages=torch.tensor([9, 10, 11, 11, 0]),
        founders=torch.tensor([False, False, False, False, True]),
        fading=torch.tensor([False, False, False, True, False]),
    )
    assert Given(maturity=10).eligible(seen).tolist() == [False, True, True, False, True]


def test_a_neuron_of_which_nothing_was_seen_is_not_eligible(model: nn.Module, view: Callable[..., View]) -> None:
    average = torch.tensor([1.0, float("nan"), 1.0, 1.0, 1.0])
    assert as_selector("gradient").eligible(view(model, average=average)).tolist() == [True, False, True, True, True]
    assert as_selector("weight").eligible(view(model)).all()
