"""Arms: the control first, no recipe twice, each read as a recipe before anything runs, and named by its levels."""

from __future__ import annotations

import json
import sys

import pytest
import tomli_w

from bfo_diag.errors import DiagError
from bfo_diag.probes.sweep import arms, spec
from bfo_diag.training import reading

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RECIPE = {
    "data": {"name": "digits"},
    "model": {"name": "mlp"},
    "optimizer": {"name": "SGD", "lr": 0.1},
    "training": {"epochs": 2},
}


@pytest.fixture
def make(tmp_path):
    """Write a spec and read it."""

    def made(factors, control=None, recipe=None, **top):
        tables = {**top, "recipe": {**RECIPE, **(recipe or {})}, "factors": factors, "control": control or {}}
        (tmp_path / "s.toml").write_text(tomli_w.dumps(tables))
        return spec.read(str(tmp_path / "s.toml"))

    return made


def refused(made):
    with pytest.raises(DiagError) as caught:
        arms.check(made)
    return caught.value


def test_the_control_is_arm_0_and_the_cell_that_equals_it_is_not_run_again(make):
    made = make({"optimizer.lr": [0.1, 0.01], "model.width": [16, 32]}, {"model.width": 16})
    arms.check(made)
    planned = arms.planned(made)
    assert [(arm.number, arm.control, arm.cells) for arm in planned] == [
        (0, True, 1),
        (1, False, 1),
        (2, False, 1),
        (3, False, 1),
    ]
    assert [arm.label for arm in planned] == [
        "lr=0.1, width=16",
        "lr=0.1, width=32",
        "lr=0.01, width=16",
        "lr=0.01, width=32",
    ]
    assert arms.number_of_arms(made) == 4
    assert arms.planned(make({"optimizer.lr": [0.5]}))[0].cells == 0


def test_what_the_control_does_not_say_is_the_recipes_own_or_its_default(make):
    made = make(
        {"optimizer.lr": [1], "optimizer.momentum": [0.9], "data.batch_size": [8], "training.patience": [1]},
        {"optimizer.lr": 0.5},
    )
    control = arms.planned(made)[0]
    assert control.levels == {
        "optimizer.lr": 0.5,
        "optimizer.momentum": None,
        "data.batch_size": 64,
        "training.patience": None,
    }
    assert control.label == "lr=0.5, no momentum, batch_size=64, no patience"
    recipe = arms.arm_recipe(made, control, 4)
    assert (recipe.seed, recipe.optimizer.arguments, recipe.training.patience) == (4, {"lr": 0.5}, None)
    tables = arms.planned(make({"optimizer": [{"name": "Adam"}], "telemetry": [{"every": 2}]}))[0]
    assert tables.levels == {"optimizer": {"name": "SGD", "lr": 0.1}, "telemetry": None}


@pytest.mark.parametrize(
    ("factors", "control"),
    [
        ({"turnover": [{"preset": "none"}, {"preset": "hybrid"}]}, {}),
        ({"turnover": [{}, {"preset": "hybrid"}]}, {"turnover": {"preset": "none", "every": 100}}),
        ({"optimizer": [{"lr": 0.1, "name": "SGD"}, {"name": "Adam"}]}, {}),
        ({"training.min_delta": [0, 1]}, {}),
        ({"compile.enabled": [False, True]}, {}),
    ],
)
def test_a_cell_that_says_what_the_control_takes_by_default_is_the_control(make, factors, control):
    assert [arm.cells for arm in arms.planned(make(factors, control))] == [1, 1]


def test_a_table_of_a_level_is_taken_whole(make):
    made = make({"training": [{"epochs": 5}, {"patience": 1}]}, recipe={"training": {"epochs": 2, "clip_norm": 1.0}})
    recipes = [arms.arm_recipe(made, arm, 0).training for arm in arms.planned(made)]
    assert [(one.epochs, one.clip_norm, one.patience) for one in recipes] == [
        (2, 1.0, None),
        (5, None, None),
        (10, None, 1),
    ]
    assert [arm.label for arm in arms.planned(made)][1:] == ["training(epochs=5)", "training(patience=1)"]


def test_the_tables_of_an_arm_are_a_recipe_file(make, tmp_path):
    made = make({"optimizer": [{"name": "AdamW", "betas": [0.8, 0.9]}], "training.epochs": [1]})
    for arm in arms.planned(made):
        tables = arms.recipe_tables(made, arm, 7)
        assert (tables["name"], tables["seed"]) == (f"s-arm-{arm.number}", 7)
        (tmp_path / "r.toml").write_text(tomli_w.dumps(tables))
        assert tomllib.loads((tmp_path / "r.toml").read_text()) == tables
        assert reading.read(str(tmp_path / "r.toml")) == arms.arm_recipe(made, arm, 7)
        tables["data"]["name"] = "text"
        assert arm.recipe["data"] == made.recipe["data"] == {"name": "digits"}


def test_equal_rows_of_an_array_are_one_arm_that_stands_for_them(make):
    made = make(
        {"optimizer.lr": [0.1, 0.2], "model.width": [8, 9, 10], "data.batch_size": [4, 5, 6]}, sampler="taguchi"
    )
    planned = arms.planned(made)
    assert arms.described(made)["array"] == "L18(6^1 3^6)"
    assert (planned[0].control, planned[0].cells) == (True, 0)
    assert sum(arm.cells for arm in planned) == 18
    assert len({json.dumps(arm.recipe, sort_keys=True) for arm in planned}) == len(planned) < 19
    assert planned == arms.planned(made)


def test_what_contradicts_itself_is_found_in_a_grid_before_the_first_trial_and_named(make):
    error = refused(make({"data.name": ["digits", "text"], "model.name": ["mlp", "char-transformer"]}))
    assert "s.toml, the arm (data.name=digits, model.name=char-transformer): the model" in error.message
    assert error.mend
    arms.check(make({"data.name": ["digits"], "model.name": ["mlp"]}))


@pytest.mark.parametrize(
    ("factors", "said"),
    [
        ({"data.batch_size": [8, 0]}, "the arm (batch_size=0): data.batch_size is 0"),
        ({"data.batch_size": [8.5]}, "the arm (batch_size=8.5): data.batch_size is 8.5"),
        ({"training.epochs": [True]}, "the arm (epochs=true): training.epochs is True"),
        ({"turnover.preset": ["hybird"]}, "the arm (preset=hybird): turnover.preset is 'hybird'"),
        ({"optimizer": [{"lr": 1}]}, "the arm (optimizer(lr=1)): optimizer.name is missing"),
        ({"training": [{"epochs": 1, "fold": 2}]}, "the arm (training(epochs=1, fold=2)): there is no training.fold"),
        ({"training.folds": [1, 2]}, "the arm (folds=2): training.folds is 2, and a trial has one"),
    ],
)
def test_each_level_is_read_as_a_recipe(make, factors, said):
    for sampler in ({}, {"sampler": "taguchi"}, {"sampler": "random", "trials": 3}):
        error = refused(make(factors, **sampler))
        assert said in error.message
        assert error.mend


def test_the_recipe_and_the_control_are_read_as_well(make):
    error = refused(make({"optimizer.lr": [1]}, recipe={"data": {"name": "digits", "batchsize": 3}}))
    assert "the control (lr=0.1): there is no data.batchsize" in error.message
    assert error.mend == "did you mean batch_size?"
    error = refused(make({"data.batch_size": [8]}, {"data.batch_size": -1}))
    assert "the control (batch_size=-1)" in error.message


def test_of_a_sampler_ends_of_ranges_and_pairs_of_levels_are_read(make):
    ends = {"model.dropout": {"low": 0.1, "high": 1.0}}
    assert "the arm (dropout=1): model.dropout is 1.0" in refused(make(ends, sampler="tpe", trials=3)).message
    pair = {"model.width": [32], "data.name": ["digits"], "data.context": {"low": 8, "high": 16}}
    error = refused(make(pair, sampler="random", trials=3))
    assert "width=32, name=digits, context=8" in error.message
    good = make({"model.width": {"low": 8, "high": 16}, "optimizer.lr": [0.1, 0.2]}, sampler="random", trials=3)
    arms.check(good)
    found = arms.to_check(good)
    assert [arm.control for arm in found] == [True, False, False, False, False]
    tried = {(arm.levels["model.width"], arm.levels["optimizer.lr"]) for arm in found}
    assert tried == {(None, 0.1), (8, 0.1), (8, 0.2), (16, 0.1), (16, 0.2)}
    assert [arm.control for arm in arms.planned(good)] == [True]
    assert arms.number_of_arms(good) == 4


def test_a_pruner_wants_as_many_epochs_in_each_arm(make):
    factors = {"training": [{"epochs": 2}, {"epochs": 3}]}
    arms.check(make(factors))
    error = refused(make(factors, pruner="median"))
    assert "the arm (training(epochs=3)) has 3 epochs, and the control 2" in error.message
    arms.check(make({"training.patience": [1]}, pruner="median"))


def test_what_goes_on_record(make):
    made = make({"optimizer.lr": [0.1, 0.2], "model.width": [8, 16]}, seeds=[3, 4, 5], metric="val_accuracy")
    told = arms.described(made)
    assert json.loads(json.dumps(told)) == told
    assert (told["array"], told["direction"], told["planned"], told["seeds"]) == (None, "maximize", 5, [3, 4, 5])
    assert told["control"] == {"optimizer.lr": 0.1, "model.width": None}
    assert told["factors"][1]["values"] == [8, 16]


def test_labels_tell_factors_apart_and_show_a_drawn_number_in_short(make):
    made = make(
        {"optimizer.name": ["Adam"], "data.name": ["digits"], "optimizer.betas": [[0.9, 0.95]]},
        {"optimizer.betas": [0.5, 0.6]},
    )
    assert arms.planned(made)[1].label == "optimizer.name=Adam, data.name=digits, betas=[0.9, 0.95]"
    tables = make({"optimizer": [{"name": "Adam"}, {"name": "Adam", "lr": 0.123456}]})
    assert [arm.label for arm in arms.planned(tables)][1:] == ["Adam()", "Adam(lr=0.123456)"]
    drawn = make({"optimizer.lr": {"low": 0.1, "high": 1.0}}, sampler="tpe", trials=2)
    assert arms.of_levels(drawn, 3, {"optimizer.lr": 0.123456}).label == "lr=0.1235"
    assert arms.of_levels(drawn, 3, {"optimizer.lr": 0.123456}).number == 3
