"""A spec is read strictly, and without what it takes to run it; the built-in preset and the example can be read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bfo_diag.errors import DiagError
from bfo_diag.probes.sweep import arms, spec

BODY = '[recipe]\ndata.name = "digits"\nmodel.name = "mlp"\noptimizer = { name = "SGD", lr = 0.1 }\n'
FACTORS = "[factors]\noptimizer.lr = [0.1, 0.01]\n"


def read(tmp_path, text, name="s.toml"):
    (tmp_path / name).write_text(text)
    return spec.read(str(tmp_path / name))


def refused(tmp_path, text):
    with pytest.raises(DiagError) as caught:
        read(tmp_path, text)
    assert str(tmp_path / "s.toml") in caught.value.message
    assert caught.value.mend
    return caught.value


def test_what_a_spec_means_that_says_no_more_than_it_has_to(tmp_path):
    found = read(tmp_path, BODY + FACTORS)
    assert (found.name, found.sampler, found.seeds, found.metric) == ("s", "grid", (0, 1, 2), "val_loss")
    assert (found.trials, found.array, found.pruner, found.control) == (None, None, "none", {})
    assert (found.direction, found.file) == ("minimize", tmp_path / "s.toml")
    assert found.recipe["optimizer"] == {"name": "SGD", "lr": 0.1}


def test_every_key_is_read_and_equal_specs_are_told_by_their_json(tmp_path):
    top = 'name = "n.1"\nsampler = "tpe"\ntrials = 7\nseeds = [5, 3, 9]\nmetric = "val_accuracy"\n'
    text = f'{top}pruner = "median"\npruner_startup = 4\n{BODY}{FACTORS}[control]\noptimizer.lr = 0.5\n'
    found = read(tmp_path, text)
    assert found.direction == "maximize"
    told = found.to_json()
    assert told == {
        "name": "n.1",
        "sampler": "tpe",
        "trials": 7,
        "array": None,
        "seeds": [5, 3, 9],
        "metric": "val_accuracy",
        "pruner": "median",
        "pruner_startup": 4,
        "recipe": {"data": {"name": "digits"}, "model": {"name": "mlp"}, "optimizer": {"name": "SGD", "lr": 0.1}},
        "factors": [{"name": "optimizer.lr", "values": [0.1, 0.01], "low": None, "high": None, "log": False}],
        "control": {"optimizer.lr": 0.5},
    }
    assert read(tmp_path, text, "other.toml").to_json() == told
    assert read(tmp_path, text.replace("lr = 0.5", "lr = 0.4")).to_json() != told
    array = read(tmp_path, 'sampler = "taguchi"\narray = "L4(2^3)"\n' + BODY + FACTORS)
    assert array.array == "L4(2^3)"


@pytest.mark.parametrize(
    ("top", "said", "mend"),
    [
        ("tryals = 3", "there is no tryals", "did you mean trials?"),
        ('sampler = "taguchy"', "sampler is 'taguchy'", "did you mean taguchi?"),
        ('sampler = "cmaes"', "one of grid, taguchi, random, tpe", "choose from"),
        ("seeds = 2", "seeds is 2", "from 3 to 1000"),
        ("seeds = 1001", "seeds is 1001", "from 3 to 1000"),
        ("seeds = true", "seeds is True", "from 3"),
        ("seeds = [0, 1]", "seeds is [0, 1]", "from 3"),
        ("seeds = [0, 1, 2, 1]", "seeds is [0, 1, 2, 1]", "each another"),
        ("seeds = [0, 1, -1]", "seeds is [0, 1, -1]", "from 3"),
        ("seeds = [0, 1, [2]]", "seeds is [0, 1, [2]]", "from 3"),
        ('metric = "loss"', "metric is 'loss'", "val_loss"),
        ('pruner = "mean"', "pruner is 'mean'", "did you mean median?"),
        ('pruner = "median"\npruner_startup = 0', "pruner_startup is 0", "at least 1"),
        ("pruner_startup = 3", "pruner_startup does not go without a pruner", "median"),
        ('name = "a/b"', "name is 'a/b'", "letters, digits"),
        ('name = "..", ', "is no TOML", "toml.io"),
        ('name = ".."', "name is '..'", "letters, digits"),
        ('name = "é"', "name is", "letters, digits"),
        ('name = ""', "name is ''", "letters, digits"),
        ("name = 3", "name is 3", "letters, digits"),
        ("trials = 3", "trials does not go with grid", "leave it out"),
        ('sampler = "taguchi"\ntrials = 3', "trials does not go with taguchi", "leave it out"),
        ('sampler = "random"', "random wants trials", "trials = 20"),
        ('sampler = "tpe"\ntrials = 0', "trials is 0", "from 1"),
        ('sampler = "tpe"\ntrials = 10001', "trials is 10001", "to 10000"),
        ('array = "L4(2^3)"', "array does not go with grid", "taguchi"),
        ("recipe.seed = 3", "recipe.seed is the sweep's to say", "seeds"),
        ('recipe.name = "n"', "recipe.name is the sweep's to say", "at the top"),
        ("recipe.modle.width = 3", "there is no recipe.modle", "did you mean model?"),
        ("recipe.training = 3", "training is 3, and has to be a table", "[training]"),
        ("control.optimizer.lt = 3", "control.optimizer.lt is no factor", "did you mean optimizer.lr?"),
        ("control = 3", "control is 3, and has to be a table", "[control]"),
        ("control.optimizer.lr = nan", "control.optimizer.lr has the level nan", "finite"),
        ('control = { "optimizer.lr" = 1, optimizer.lr = 2 }', "control.optimizer.lr is there twice", "leave one"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_allowed(tmp_path, top, said, mend):
    recipe = BODY.replace("[recipe]\n", "").replace("\n", "\nrecipe.").removesuffix("recipe.")
    error = refused(tmp_path, f"{top}\nrecipe.{recipe}{FACTORS}")
    assert said in error.message
    assert mend in error.mend


def test_a_spec_without_recipe_or_factors_is_none(tmp_path):
    assert "there is no recipe" in refused(tmp_path, FACTORS).message
    assert "there are no [factors]" in refused(tmp_path, BODY).message


def test_a_range_wants_a_sampler_that_suggests(tmp_path):
    ranged = BODY + "[factors]\noptimizer.lr = { low = 0.01, high = 0.1 }\n"
    for sampler in ("grid", "taguchi"):
        error = refused(tmp_path, f'sampler = "{sampler}"\n{ranged}')
        assert f"factors.optimizer.lr is a range, and {sampler} wants levels" in error.message
        assert "tpe" in error.mend
    assert read(tmp_path, 'sampler = "random"\ntrials = 2\n' + ranged).factors[0].low == 0.01


def test_a_file_whose_name_is_fit_for_no_folder_has_to_say_another(tmp_path):
    with pytest.raises(DiagError, match="name is 'my sweep'"):
        read(tmp_path, BODY + FACTORS, "my sweep.toml")
    assert read(tmp_path, 'name = "mine"\n' + BODY + FACTORS, "my sweep.toml").name == "mine"


def test_what_is_no_spec_is_told_from_a_preset(tmp_path):
    with pytest.raises(DiagError, match="wants a SPEC") as caught:
        spec.read(None)
    assert "turnover" in caught.value.mend
    with pytest.raises(DiagError, match="no preset") as caught:
        spec.read("turnovr")
    assert caught.value.mend == "did you mean turnover?"
    with pytest.raises(DiagError, match="there is no file"):
        spec.read(str(tmp_path / "none.toml"))


def test_the_preset_is_the_original_experiment_with_a_control_and_a_validation_split():
    found = spec.read("turnover")
    assert spec.presets() == ("turnover",)
    arms.check(found)
    planned = arms.planned(found)
    recipes = [arms.arm_recipe(found, arm, seed) for arm in planned for seed in found.seeds]
    presets = "none standard functional fade continuous distillation growth hybrid crossover orthogonal".split()
    assert [arm.levels["turnover.preset"] for arm in planned] == presets
    assert len(recipes) == 30
    for recipe in recipes:
        model, data = recipe.model, recipe.data
        assert (model.name, model.depth, 4 * (model.width or 0)) == ("char-transformer", 6, 512)
        assert data.name == "text"
        samples, validation = data.samples or 0, data.validation or 0.0
        assert validation >= 0.1
        assert recipe.turnover.measure
        steps = recipe.training.epochs * ((samples - round(samples * validation)) // data.batch_size)
        assert steps // recipe.turnover.every >= 5
        assert steps % recipe.turnover.every, "the last turnover would have no step to recover in"


def test_the_example_is_a_grid_of_two_by_two_and_a_control():
    found = spec.read(str(Path(__file__).parents[4] / "examples" / "sweep.toml"))
    arms.check(found)
    planned = arms.planned(found)
    assert (len(planned), planned[0].cells) == (5, 0)
    for key in ("name", "sampler", "trials", "array", "seeds", "metric", "pruner", "pruner_startup"):
        assert f"\n{key} = " in found.file.read_text() or f"\n# {key} = " in found.file.read_text()


def test_a_spec_is_read_and_checked_without_torch_optuna_and_pydoe():
    code = (
        "import sys\n"
        "from bfo_diag.probes.sweep import arms, spec\n"
        "arms.check(spec.read('turnover'))\n"
        "print([name for name in ('torch', 'optuna', 'pydoe', 'numpy') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
