"""A recipe is read strictly: what is wrong is named with its key, and with what is allowed there."""

from __future__ import annotations

import pytest

from bfo_diag.errors import DiagError
from bfo_diag.training import optimizers, reading
from bfo_diag.training.recipe import COLONIES, GRADIENT_MODES, PRESETS, differences

REST = '\nmodel.name = "mlp"\noptimizer.name = "Adam"\n'


def refused(tmp_path, text):
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(DiagError) as caught:
        reading.read(str(path))
    assert str(path) in caught.value.message
    assert caught.value.mend
    return caught.value


def test_the_smallest_recipe_is_the_one_that_the_refusal_shows(tmp_path):
    shown = reading.MEND.partition("smallest is\n")[2]
    (tmp_path / "first.toml").write_text(shown)
    recipe = reading.read(str(tmp_path / "first.toml"))
    assert (recipe.name, recipe.seed, recipe.optimizer.name) == ("first", 0, "Adam")
    assert (recipe.training.epochs, recipe.training.folds, recipe.training.patience) == (10, 1, None)
    assert (recipe.compile.enabled, recipe.telemetry.every) == (False, 0)


def test_every_key_is_read(tmp_path):
    (tmp_path / "r.toml").write_text(
        'name = "n"\nseed = 7\n[data]\nname = "text"\nbatch_size = 3\nvalidation = 0.5\nsamples = 9\ncontext = 4\n'
        '[model]\nname = "char-transformer"\nwidth = 6\ndepth = 2\ndropout = 0.5\n'
        '[optimizer]\nname = "HybridBFO"\nlr = 0.1\nbetas = [0.8, 0.9]\n'
        '[training]\nepochs = 3\nfolds = 1\nmin_delta = 0.5\nclip_norm = 2\nautocast = "bfloat16"\n'
        'gradient_mode = "dual"\n'
        '[compile]\nenabled = "auto"\nmode = "default"\n[telemetry]\nevery = 5\n'
        '[turnover]\nlayers = ["blocks.*.mlp.0"]\nfraction = 0.25\nevery = 7\ngrow_to = 2.0\nmeasure = true\n'
        '[shift]\nkind = "permute"\nepochs = [1, 1, 1]\ncheck_every = 4\n'
    )
    told = reading.read(str(tmp_path / "r.toml")).to_json()
    assert (told["name"], told["seed"]) == ("n", 7)
    assert told["data"] == {"name": "text", "batch_size": 3, "validation": 0.5, "samples": 9, "context": 4}
    assert told["model"]["width"] == 6
    assert told["optimizer"] == {"name": "HybridBFO", "lr": 0.1, "betas": [0.8, 0.9]}
    assert told["training"] == {
        "epochs": 3,
        "folds": 1,
        "patience": None,
        "min_delta": 0.5,
        "clip_norm": 2,
        "autocast": "bfloat16",
        "gradient_mode": "dual",
    }
    assert told["compile"]["enabled"] == "auto"
    assert told["telemetry"] == {"every": 5}
    assert told["turnover"] == {
        "preset": "none",
        "layers": ("blocks.*.mlp.0",),
        "fraction": 0.25,
        "every": 7,
        "grow_to": 2.0,
        "measure": True,
    }
    assert told["shift"] == {"kind": "permute", "epochs": (1, 1, 1), "check_every": 4}


@pytest.mark.parametrize(
    ("text", "said", "mend"),
    [
        ('data.name = "digits"\ntraning.epochs = 3', "there is no traning", "did you mean training?"),
        ('data.name = "digits"\ndata.batchsize = 3', "there is no data.batchsize", "did you mean batch_size?"),
        ('data.name = "digit"', "data.name is 'digit'", "did you mean digits?"),
        ('data.name = "imagenet"', "one of digits, text", "choose from digits, text"),
        ("data.batch_size = 3", "data.name is missing", "digits, text"),
        ('data = "digits"', "data is 'digits', and has to be a table", "[data]"),
        ('data.name = "digits"\ntraining.epochs = 0', "training.epochs is 0", "at least 1"),
        ('data.name = "digits"\ntraining.epochs = 2.0', "training.epochs is 2.0", "a whole number"),
        ('data.name = "digits"\ntraining.epochs = true', "training.epochs is True", "a whole number"),
        ('data.name = "digits"\ntraining.min_delta = nan', "training.min_delta is nan", "at least 0"),
        ('data.name = "digits"\ntraining.clip_norm = inf', "training.clip_norm is inf", "above 0"),
        ('data.name = "digits"\ntraining.clip_norm = true', "training.clip_norm is True", "a number"),
        ('data.name = "digits"\ndata.validation = 1.0', "data.validation is 1.0", "below 1"),
        ('data.name = "digits"\ndata.validation = 0', "data.validation is 0", "above 0"),
        ('data.name = "digits"\nmodel.dropout = 1', "model.dropout is 1", "below 1"),
        ('data.name = "digits"\ncompile.enabled = 1', "compile.enabled is 1", "auto, true, false"),
        ('data.name = "digits"\ncompile.enabled = "yes"', "compile.enabled is 'yes'", "auto, true, false"),
        ('data.name = "digits"\ntraining.autocast = "float16"', "training.autocast", "bfloat16"),
        ('seed = -1\ndata.name = "digits"', "seed is -1", "from 0"),
        ('seed = 9223372036854775808\ndata.name = "digits"', "seed is 9223372036854775808", "2**63"),
        ('name = " "\ndata.name = "digits"', "name is ' '", "not empty"),
        ('data.name = "digits"\noptimizer.when = 2026-01-01', "optimizer.when", "a number, a text"),
        ('data.name = "digits"\noptimizer.lr = [[2026-01-01]]', "optimizer.lr", "a number, a text"),
        ('data.name = "digits"\ndata.context = 3', "data.context does not go with digits", "leave it out"),
        ('data.name = "text"', "the model mlp does not go with text", "char-transformer"),
        ('data.name = "digits"\nmodel.factory = "f.py:f"', "both model.name and model.factory", "one of the two"),
        (
            'data.name = "digits"\ndata.validation = 0.3\ntraining.folds = 2',
            "data.validation does not go with training.folds",
            "1/K",
        ),
        ('data.name = "digits"\ntraining.gradient_mode = "fast"', "training.gradient_mode is 'fast'", "smart, dual"),
        ('data.name = "digits"\ntraining.gradient_mode = "smart"', "gradient_mode does not go with Adam", "HybridBFO"),
        ('data.name = "digits"\nturnover.preset = "hybird"', "turnover.preset is 'hybird'", "did you mean hybrid?"),
        ('data.name = "digits"\nturnover.fraction = 0', "turnover.fraction is 0", "above 0"),
        ('data.name = "digits"\nturnover.fraction = 1.5', "turnover.fraction is 1.5", "below 1"),
        ('data.name = "digits"\nturnover.every = 0', "turnover.every is 0", "at least 1"),
        ('data.name = "digits"\nturnover.layers = []', "turnover.layers is []", "a list of texts"),
        ('data.name = "digits"\nturnover.layers = ["0", 1]', "turnover.layers is ['0', 1]", "a list of texts"),
        ('data.name = "digits"\nturnover = {preset = "fade", grow_to = 2}', "grow_to does not go with", "growth"),
        ('data.name = "digits"\nshift.kind = "permute"', "shift.epochs is missing", "[2, 2, 2]"),
        ('data.name = "digits"\nshift.epochs = [1, 1, 1]', "shift.kind is not", "permute"),
        ('data.name = "digits"\nshift = {kind = "permute", epochs = [1, 1]}', "shift.epochs is [1, 1]", "three"),
        ('data.name = "digits"\nshift = {kind = "permute", epochs = [1, 0, 1]}', "shift.epochs is [1, 0, 1]", "three"),
        (
            'data.name = "digits"\ntraining.epochs = 4\nshift = {kind = "labels", epochs = [1, 1, 1]}',
            "training.epochs is 4, and the phases of shift.epochs have 3",
            "leave training.epochs out",
        ),
        (
            'data.name = "digits"\ntraining.patience = 2\nshift = {kind = "labels", epochs = [1, 1, 1]}',
            "training.patience does not go with shift",
            "each phase",
        ),
        (
            'data.name = "digits"\ntraining.folds = 2\nshift = {kind = "labels", epochs = [1, 1, 1]}',
            "training.folds does not go with shift",
            "held back",
        ),
        ("data.name = ", "is no TOML", "toml.io"),
        ("data.name = '\x00'", "is no TOML", "toml.io"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_allowed(tmp_path, text, said, mend):
    error = refused(tmp_path, text + REST)
    assert said in error.message
    assert mend in error.mend


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('data.name = "digits"\noptimizer.name = "Adam"', "neither model.name nor model.factory"),
        ('data.name = "digits"\nmodel.name = "mlp"', "optimizer.name is missing"),
        ('data.name = "digits"\nmodel.name = "mlp"\noptimizer.name = 3', "optimizer.name is 3"),
        (
            'data.name = "digits"\nmodel.factory = "f.py:f"\nmodel.width = 3\noptimizer.name = "Adam"',
            "model.width does not go with model.factory",
        ),
        (
            'data.name = "text"\nmodel.name = "char-transformer"\nmodel.width = 3\noptimizer.name = "Adam"',
            "model.width is 3",
        ),
        (
            'data.name = "text"\nmodel.name = "char-transformer"\noptimizer.name = "Adam"\n'
            'shift = {kind = "labels", epochs = [1, 1, 1]}',
            "shift.kind = 'labels' does not go with text",
        ),
        (
            'data.name = "digits"\nmodel.name = "mlp"\noptimizer.name = "BFO"\nturnover.preset = "hybrid"',
            "turnover.preset = 'hybrid' does not go with BFO",
        ),
    ],
)
def test_what_a_recipe_has_to_give(tmp_path, text, said):
    assert said in refused(tmp_path, text).message


def test_what_is_no_file_of_text_is_refused(tmp_path):
    (tmp_path / "digits_mlp.toml").write_bytes(b"\xff\xfe")
    (tmp_path / "folder.toml").mkdir()
    for name, said in (("digits_mlp.toml", "is no TOML"), ("folder.toml", "can't be read"), ("a.py", "no recipe")):
        with pytest.raises(DiagError, match=said):
            reading.read(str(tmp_path / name))
    with pytest.raises(DiagError) as caught:
        reading.read(str(tmp_path / "digit_mlp.toml"))
    assert caught.value.mend == f"did you mean {tmp_path / 'digits_mlp.toml'}?"
    with pytest.raises(DiagError, match="wants a RECIPE") as caught:
        reading.read(None)
    assert "examples/digits_mlp.toml" in caught.value.mend


def test_the_phases_of_a_shift_say_how_long_the_training_is(recipe):
    shift = {"kind": "labels", "epochs": [3, 1, 2]}
    assert recipe(training={"epochs": None}, shift=shift).training.epochs == 6
    assert recipe(training={"epochs": 6}, shift=shift).training.epochs == 6


def test_the_names_in_a_recipe_are_those_of_the_library():
    from pytorch_bfo_optimizer import turnover
    from pytorch_bfo_optimizer.gradient_modes import MODES
    from pytorch_bfo_optimizer.shell import ColonyOptimizer

    assert set(GRADIENT_MODES) == set(MODES)
    assert set(PRESETS) == set(turnover.PRESETS)
    colonies = {name for name, cls in optimizers.known().items() if issubclass(cls, ColonyOptimizer)}
    assert set(COLONIES) == colonies


def test_options_of_the_command_stand_in_for_the_recipes(recipe):
    plain = recipe(telemetry={"every": 3})
    assert plain.with_options(seed=0, compile=None, telemetry=None) == plain
    changed = plain.with_options(seed=5, compile="on", telemetry="every=0")
    assert (changed.seed, changed.compile.enabled, changed.telemetry.every) == (5, True, 0)
    assert changed.compile.fallback == plain.compile.fallback
    for wrong in ({"compile": "maybe"}, {"telemetry": "10"}, {"telemetry": "every=-1"}, {"telemetry": "every=1 "}):
        with pytest.raises(DiagError, match="is not known"):
            plain.with_options(**{"seed": 0, "compile": None, "telemetry": None, **wrong})


def test_what_differs_between_two_recipes_is_named_and_what_changes_nothing_is_not(recipe):
    one = recipe(training={"patience": 2}, telemetry={"every": 3}).to_json()
    other = recipe(training={"epochs": 9}, optimizer={"lr": 0.02}, model={"dropout": 0.5}).to_json()
    assert list(differences(one, {**other, "name": "another"})) == [
        "model.dropout: nothing there, 0.5 here",
        "optimizer.lr: 0.01 there, 0.02 here",
        "training.epochs: 2 there, 9 here",
        "training.patience: 2 there, nothing here",
    ]
