"""Factors: keys and tables of a recipe, their levels or range; what can be none is refused with its name."""

from __future__ import annotations

import datetime

import pytest

from bfo_diag.errors import DiagError
from bfo_diag.probes.sweep import factors
from bfo_diag.probes.sweep.factors import Factor, canonical


def read(raw):
    return factors.read(raw, "s.toml")


def test_levels_and_ranges_and_whole_tables():
    found = read(
        {
            "optimizer": [{"name": "SGD"}, {"name": "SGD", "lr": 0.1}],
            "training.epochs": [1],
            "turnover": {"preset": ["none", "hybrid"], "every": {"low": 10, "high": 50}},
            "model.dropout": {"low": 0.1, "high": 1, "log": True},
        }
    )
    assert found == (
        Factor("optimizer", ({"name": "SGD"}, {"name": "SGD", "lr": 0.1})),
        Factor("training.epochs", (1,)),
        Factor("turnover.preset", ("none", "hybrid")),
        Factor("turnover.every", low=10, high=50),
        Factor("model.dropout", low=0.1, high=1, log=True),
    )
    assert [factor.corners for factor in found[1:4]] == [(1,), ("none", "hybrid"), (10, 50)]
    assert found[4].to_json() == {"name": "model.dropout", "values": None, "low": 0.1, "high": 1, "log": True}


def test_quoted_or_not_a_key_is_the_same():
    assert read({"optimizer": {"lr": [0.1], "betas": [[0.9, 0.99]]}}) == read(
        {"optimizer.lr": [0.1], "optimizer.betas": [[0.9, 0.99]]}
    )


@pytest.mark.parametrize(
    ("raw", "said", "mend"),
    [
        ({"seed": [0, 1]}, "seed can be no factor", "seeds"),
        ({"lr": [1]}, "factors.lr is no key of a recipe", "optimizer.lr"),
        ({"turnver.preset": ["none"]}, "factors.turnver.preset is no key", "did you mean turnover.preset"),
        ({"turnover.presets": ["none"]}, "factors.turnover.presets is no key", "did you mean preset?"),
        ({"optimizer.a.b": [1]}, "factors.optimizer.a.b is no key", "one name"),
        ({"data.": [1]}, "factors.data. is no key", "choose from name"),
        ({"optimizer.lr": 0.1}, "factors.optimizer.lr is 0.1", "write [0.01, 0.1]"),
        ({"optimizer.lr": []}, "factors.optimizer.lr is []", "write [0.01, 0.1]"),
        ({"optimizer": {"name": "SGD"}}, "factors.optimizer.name is 'SGD'", "write ["),
        ({"training.epochs": [*range(1, 102)]}, "has 101 levels", "100 are the most"),
        ({"optimizer.lr": [0.1, 0.1]}, "has 0.1 twice", "leave one"),
        ({"optimizer.lr": [1, 1.0]}, "has 1.0 twice", "leave one"),
        ({"optimizer": [{"name": "A", "lr": 1}, {"lr": 1, "name": "A"}]}, "twice", "leave one"),
        ({"optimizer": ["SGD"]}, "factors.optimizer has the level 'SGD'", "is a table"),
        ({"optimizer.lr": [{"a": 1}]}, "has the level {'a': 1}", "is a key"),
        ({"optimizer.lr": [float("nan")]}, "has the level nan", "finite"),
        ({"optimizer.betas": [[0.9, float("inf")]]}, "has the level [0.9, inf]", "finite"),
        ({"optimizer": [{"name": "A", "lr": float("inf")}]}, "has the level {'name': 'A', 'lr': inf}", "finite"),
        ({"optimizer.lr": [datetime.date(2026, 1, 1)]}, "has the level datetime.date", "texts, switches"),
        ({"optimizer.lr": [0.1], "optimizer": {"lr": [0.2]}}, "factors.optimizer.lr is there twice", "leave one"),
        ({"optimizer": [{"name": "A"}], "optimizer.lr": [1]}, "optimizer and optimizer.lr overlap", "each level"),
        ({"data.batch_size": [1], "data": [{"name": "digits"}]}, "data and data.batch_size overlap", "each level"),
    ],
)
def test_what_can_be_no_factor_is_refused(raw, said, mend):
    with pytest.raises(DiagError) as caught:
        read(raw)
    assert "s.toml: " in caught.value.message
    assert said in caught.value.message
    assert mend in caught.value.mend


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"low": 1, "high": 2, "step": 1}, "has no step"),
        ({"low": 1}, "high is missing"),
        ({"high": 1}, "low is missing"),
        ({"low": "1", "high": 2}, "low is '1'"),
        ({"low": True, "high": 2}, "low is True"),
        ({"low": 1, "high": float("inf")}, "high is inf"),
        ({"low": 2, "high": 2}, "low is 2 and high 2"),
        ({"low": 3, "high": 2}, "low is 3 and high 2"),
        ({"low": 1, "high": 2, "log": 1}, "log is 1"),
        ({"low": 0, "high": 2, "log": True}, "low is 0, and log is true"),
    ],
)
def test_what_is_no_range_is_refused(raw, said):
    with pytest.raises(DiagError) as caught:
        read({"optimizer.lr": raw})
    assert caught.value.message.startswith("s.toml: factors.optimizer.lr")
    assert caught.value.message.endswith(f" {said}")
    assert caught.value.mend


def test_a_table_has_no_range():
    with pytest.raises(DiagError, match=r"factors\.training is a range"):
        read({"training": {"low": 1, "high": 2}})


def test_levels_are_the_same_by_value_and_a_switch_is_no_number():
    assert canonical([1, {"a": 2, "b": None}]) == canonical([1.0, {"a": 2.0}])
    assert canonical(True) != canonical(1)
    assert canonical({"a": False}) != canonical({"a": 0})
    assert canonical([1, 2]) != canonical([2, 1])
    assert canonical("1") != canonical(1)
    assert len({canonical(value) for value in ({"a": [1]}, {"a": [1.0]}, [1], 1, True, "1")}) == 5
