"""What a framework trains is known by the names of its classes, and nothing is imported to find that out."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from bfo_diag import framework_targets, targets
from bfo_diag.errors import DiagError, TargetLoadError
from bfo_diag.records import Case


@pytest.fixture(autouse=True)
def _scanned_anew():
    framework_targets._all.cache_clear()
    yield
    framework_targets._all.cache_clear()


def derived_from(full_name: str, base: type = object) -> type:
    """Return a class that is derived from one of that name."""
    module, _, name = full_name.rpartition(".")
    return type("Derived", (type(name, (base,), {"__module__": module}),), {})


@pytest.mark.parametrize(
    "name",
    [
        "lightning.pytorch.core.module.LightningModule",
        "pytorch_lightning.core.module.LightningModule",
        "lightning.pytorch.trainer.trainer.Trainer",
        "transformers.trainer.Trainer",
        "fastai.learner.Learner",
    ],
)
def test_an_object_is_known_by_the_names_of_its_classes(name):
    cls = derived_from(name)
    assert framework_targets.is_trained(cls)
    assert framework_targets.is_trained(cls())
    assert framework_targets.is_trained((object(), cls()))


@pytest.mark.parametrize("value", [torch.nn.Linear(1, 1), torch.nn.Module, (torch.ones(2), 3), None, [], "text"])
def test_what_no_framework_trains_is_left_alone(value):
    assert not framework_targets.is_trained(value)
    assert framework_targets.case_of(value, "cpu") is None


def test_a_class_that_only_has_the_name_is_another():
    assert not framework_targets.is_trained(derived_from("my.own.module.LightningModule"))


def test_a_module_without_a_framework_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "stray.py").write_text("x = 1\n")
    monkeypatch.setattr(framework_targets, "__path__", [*framework_targets.__path__, str(tmp_path)])
    with pytest.raises(TypeError, match=r"bfo_diag\.framework_targets\.stray defines no FRAMEWORK"):
        framework_targets.is_trained(3)


def test_nothing_is_imported_to_find_out():
    code = (
        "import sys\n"
        "from bfo_diag import framework_targets, targets\n"
        "assert not framework_targets.is_trained(object())\n"
        "print(sorted({'lightning', 'pytorch_lightning', 'transformers', 'fastai', 'torch'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_an_adapter_takes_one_more_file(tmp_path, monkeypatch):
    (tmp_path / "another.py").write_text(
        "from bfo_diag.framework_targets import Framework\n"
        "from bfo_diag.records import Case\n"
        "def prepare(value, device):\n"
        "    return Case(step=lambda: (value, device))\n"
        f"FRAMEWORK = Framework('Another', ('{__name__}.Loop',), prepare)\n"
    )
    monkeypatch.setattr(framework_targets, "__path__", [*framework_targets.__path__, str(tmp_path)])
    target = targets.of_value(Loop, device="meta")
    assert target.kind == "training step"
    loop, device = target.make().step()
    assert isinstance(loop, Loop)
    assert device == "meta"
    assert targets.of_value(Loop()).record.file == __file__


class Loop:
    """Stands for what a framework trains."""


def test_inputs_make_a_module_of_it_as_ever():
    cls = derived_from("lightning.pytorch.core.module.LightningModule", torch.nn.Linear)
    module = cls(3, 2)
    target = targets.of_value(module, inputs=("float32[4,3]",))
    assert target.kind == "module"
    assert isinstance(target.make(), Case)
    assert target.resolve(module).model is module
    with pytest.raises(TargetLoadError, match="is a class, and neither"):
        targets.of_value(derived_from("transformers.trainer.Trainer"), inputs=("float32[4,3]",))


def test_the_options_for_an_optimizer_do_not_go_with_it(capture):
    cls = derived_from("fastai.learner.Learner")
    with pytest.raises(DiagError, match="is a training step"):
        capture("gradients", cls(), mode="smart")
