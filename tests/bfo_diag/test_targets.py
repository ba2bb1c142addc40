from __future__ import annotations

import pytest
import torch

from bfo_diag import targets
from bfo_diag.errors import TargetLoadError
from bfo_diag.records import Case

pytestmark = pytest.mark.usefixtures("fresh_imports")

FILE = """
import functools
import torch
from bfo_diag import Case

class Net(torch.nn.Linear):
    def __init__(self):
        super().__init__(4, 2)

class WantsWidth(torch.nn.Module):
    def __init__(self, width):
        super().__init__()

net = Net()
number = 3
case = Case(step=lambda: None)

class Plain:
    pass

def step():
    return net(torch.ones(1, 4)).sum()

def factory():
    return Case(step=step, model=net)

def wants(batch, lr):
    pass

def generates():
    yield 1

bound = functools.partial(wants, 1, 2)
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "some_target.py"
    path.write_text(FILE)
    return path


@pytest.mark.parametrize(
    ("name", "inputs", "kind"),
    [
        ("step", (), "step"),
        ("factory", (), "step"),
        ("bound", (), "step"),
        ("net", ("float32[3,4]",), "module"),
        ("Net", ("float32[3,4]",), "module"),
        ("torch.optim.SGD", (), "optimizer"),
    ],
)
def test_what_a_name_is_found_to_be(file, name, inputs, kind):
    assert targets.load(f"{file}:{name}", inputs=inputs).kind == kind


@pytest.mark.parametrize(
    ("name", "message", "mend"),
    [
        ("nothing", "there is no 'nothing'", "it defines"),
        ("stepp", "there is no 'stepp'", "did you mean step"),
        ("wants", r"wants arguments \(batch, lr\)", "def step"),
        ("number", "is int, which can't be run", "factory"),
        ("Plain", "is a class", "function without arguments"),
        ("case", "is a Case", "function without arguments"),
        ("generates", "generator", "plain function"),
        ("net", "an nn.Module", "--input 'float32"),
    ],
)
def test_a_name_that_can_not_be_examined_says_what_to_do(file, name, message, mend):
    with pytest.raises(TargetLoadError, match=message) as raised:
        targets.load(f"{file}:{name}")
    assert mend in raised.value.mend


def test_a_module_class_that_wants_arguments_is_refused(file):
    with pytest.raises(TargetLoadError, match=r"wants arguments \(width\)"):
        targets.load(f"{file}:WantsWidth", inputs=("float32[2]",))


@pytest.mark.parametrize("text", ["file.py", ":name", "file.py:", ""])
def test_a_target_without_both_halves_is_refused(text):
    with pytest.raises(TargetLoadError, match="names no object"):
        targets.check(text)


def test_a_missing_file_names_its_neighbour(file):
    with pytest.raises(TargetLoadError, match="there is no file") as raised:
        targets.check(f"{file.parent / 'some_targets.py'}:step")
    assert "some_target.py" in raised.value.mend


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(TargetLoadError, match="no Python file"):
        targets.check(f"{tmp_path / 'notes.txt'}:x")


@pytest.mark.parametrize(
    ("text", "error"), [("import no_such_thing", "ModuleNotFoundError"), ("def f(:", "SyntaxError"), ("1/0", "Zero")]
)
def test_an_import_that_fails_shows_its_own_traceback_and_not_ours(tmp_path, text, error):
    path = tmp_path / "broken_target.py"
    path.write_text(text)
    with pytest.raises(TargetLoadError, match=error) as raised:
        targets.load(f"{path}:f")
    assert str(path) in raised.value.detail
    assert "bfo_diag" not in raised.value.detail
    assert "importlib" not in raised.value.detail


def test_a_file_that_exits_at_import_is_an_error_and_no_exit(tmp_path):
    path = tmp_path / "exiting_target.py"
    path.write_text("import sys; sys.exit(0)")
    with pytest.raises(TargetLoadError, match="SystemExit"):
        targets.load(f"{path}:f")


def test_a_file_in_a_package_is_loaded_as_part_of_it(tmp_path):
    inner = tmp_path / "outer_package" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "outer_package" / "__init__.py").write_text("")
    (inner / "__init__.py").write_text("")
    (tmp_path / "outer_package" / "shared.py").write_text("value = 7")
    (inner / "training.py").write_text("from ..shared import value\nfrom . import helper\ndef step(): return value\n")
    (inner / "helper.py").write_text("")
    target = targets.load(f"{inner / 'training.py'}:step")
    assert target.value() == 7
    assert target.value.__module__ == "outer_package.inner.training"


def test_a_file_whose_name_is_taken_does_not_shadow_the_other_module(tmp_path):
    path = tmp_path / "json.py"
    path.write_text("def step(): return 1")
    assert targets.load(f"{path}:step").value() == 1
    import json

    assert json.dumps([1]) == "[1]"


def test_the_case_id_follows_the_source_and_not_the_folder(tmp_path):
    ids = []
    for folder, text in (("a", "def step(): pass"), ("b", "def step(): pass"), ("c", "def step(): return 1")):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "moving_target.py"
        path.write_text(text)
        ids.append(targets.case_id(f"{path}:step", str(path), (), "cpu", 0))
    assert ids[0] == ids[1] != ids[2]


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(TargetLoadError, match="no device of torch"):
        targets.check_device("warp9")
    if not torch.cuda.is_available():
        with pytest.raises(TargetLoadError, match="CUDA") as raised:
            targets.check_device("cuda")
        assert "--device cpu" in raised.value.mend


def test_a_module_behind_a_softmax_gets_gradients_that_are_not_zero(file):
    path = file.parent / "softmax_target.py"
    path.write_text("import torch\nnet = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Softmax(-1))\n")
    case = targets.load(f"{path}:net", inputs=("float32[8,4]",)).make()
    assert isinstance(case, Case)
    case.step()
    assert float(case.model[0].weight.grad.abs().sum()) > 1e-3
