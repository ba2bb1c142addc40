from __future__ import annotations

import pytest
import torch
from torch import nn

from bfo_diag.errors import DiagError
from bfo_diag.training import data, models
from bfo_diag.training.recipe import Data, Model

pytestmark = pytest.mark.usefixtures("fresh_imports")
FACTORIES = """
import torch
made = 0
def net():
    global made
    made += 1
    return torch.nn.Linear(64, 10)
class Net(torch.nn.Linear):
    def __init__(self):
        super().__init__(64, 10)
same = torch.nn.Linear(64, 10)
number = 3
def none():
    pass
def fails():
    raise ZeroDivisionError("of the user's")
"""


@pytest.fixture
def digits():
    return data.load(Data("digits", samples=20), "cpu")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "nets_for_a_recipe.py").write_text(FACTORIES)
    return tmp_path


def test_the_mlp_has_the_layers_that_are_asked_for(digits, tmp_path):
    model = models.build(Model("mlp", width=12, depth=3, dropout=0.25), digits, tmp_path)
    shapes = [tuple(layer.weight.shape) for layer in model if isinstance(layer, nn.Linear)]
    assert shapes == [(12, 64), (12, 12), (12, 12), (10, 12)]
    assert [layer.p for layer in model if isinstance(layer, nn.Dropout)] == [0.25] * 3
    assert model(digits.inputs).shape == (20, 10)


def test_the_transformer_sees_no_character_that_comes_later(tmp_path):
    samples = data.load(Data("text", context=9, samples=4), "cpu")
    model = models.build(Model("char-transformer", width=8, depth=2, dropout=0.5), samples, tmp_path).eval()
    assert len(model.blocks) == 2
    codes = samples.inputs.clone()
    before = model(codes)
    assert before.shape == (4, 9, samples.classes)
    codes[:, 5:] = (codes[:, 5:] + 1) % samples.classes
    after = model(codes)
    assert torch.equal(after[:, :5], before[:, :5])
    assert not torch.allclose(after[:, 5:], before[:, 5:])


def test_the_transformer_knows_the_places_of_its_characters(tmp_path):
    samples = data.load(Data("text", context=9, samples=4), "cpu")
    model = models.build(Model("char-transformer", width=8), samples, tmp_path)
    logits = model(torch.full((1, 9), 3))
    assert not torch.allclose(logits[:, 0], logits[:, 1])


def test_dropout_of_the_transformer_works_in_training_alone(tmp_path):
    samples = data.load(Data("text", context=9, samples=4), "cpu")
    model = models.build(Model("char-transformer", width=8, dropout=0.5), samples, tmp_path)
    assert not torch.equal(model(samples.inputs), model(samples.inputs))
    model.eval()
    assert torch.equal(model(samples.inputs), model(samples.inputs))


@pytest.mark.parametrize("name", ["net", "Net"])
def test_a_factory_beside_the_recipe_makes_each_model_anew(digits, folder, name):
    made = [models.build(Model(factory=f"nets_for_a_recipe.py:{name}"), digits, folder) for _ in range(2)]
    assert made[0] is not made[1]
    assert made[0](digits.inputs).shape == (20, 10)


def test_a_factory_may_be_named_by_its_module(digits, folder, monkeypatch):
    monkeypatch.chdir(folder)
    model = Model(factory="nets_for_a_recipe:net")
    assert isinstance(models.build(model, digits, folder / "elsewhere"), nn.Linear)
    assert models.factory_source(model, folder) is None


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("nets_for_a_recipe.py:same", "it is, or returned, Linear"),
        ("nets_for_a_recipe.py:number", "is int, and can't be called"),
        ("nets_for_a_recipe.py:none", "it is, or returned, NoneType"),
        ("nets_for_a_recipe.py:nett", "there is no 'nett'"),
        ("nets_of_a_recipe.py:net", "there is no file"),
        ("nets_for_a_recipe.py", "names no object"),
        ("../nets_for_a_recipe.py:net", "another folder than the recipe"),
        ("/tmp/nets_for_a_recipe.py:net", "another folder than the recipe"),
    ],
)
def test_what_is_no_factory_is_refused(digits, folder, factory, said):
    with pytest.raises(DiagError, match=said):
        models.build(Model(factory=factory), digits, folder)


def test_what_a_factory_raises_is_the_users_own(digits, folder):
    with pytest.raises(ZeroDivisionError, match="of the user's"):
        models.build(Model(factory="nets_for_a_recipe.py:fails"), digits, folder)
