"""The copies of the examined source: which files, and as they were when they ran."""

from __future__ import annotations

import sys
import warnings

import pytest
import torch

from bfo_diag import sources, targets
from bfo_diag.cases import rosenbrock
from bfo_diag.records import CaseRecord, Observation, Outcome, Run, RunHeader

STEP = """import torch
from parts_of_it.losses import loss
w = torch.zeros(2, requires_grad=True)
def step():
    loss(w).backward()
"""


@pytest.fixture
def project(tmp_path, fresh_imports):
    package = tmp_path / "parts_of_it"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "losses.py").write_text("def loss(w):\n    return (w - 1).square().sum()\n")
    (tmp_path / "unused.py").write_text("raise SystemExit('nobody imports this')\n")
    (tmp_path / "steps_of_it.py").write_text(STEP)
    return tmp_path


def run_of(observations):
    header = RunHeader("id", "gradients", (), "2026-01-01T00:00:00Z", CaseRecord("id", "name"))
    return Run(header, tuple(observations), Outcome.COMPLETE)


def test_what_the_target_imported_of_the_users_own_is_kept_and_nothing_else(project, tmp_path):
    target = f"{project / 'steps_of_it.py'}:step"
    keeper = sources.Keeper(tmp_path / "raw", target)
    targets.load(target)
    kept = {source.path: source for source in sources.recorded(run_of(keeper.observations()))}
    mine = {path for path in kept if (project / path).exists()}
    assert mine == {"steps_of_it.py", "parts_of_it/__init__.py", "parts_of_it/losses.py"}
    assert not any(path.startswith(("torch/", "numpy/", "bfo_diag/probes", "pytorch_bfo_optimizer/")) for path in kept)
    assert [path for path, source in kept.items() if source.is_target] == ["steps_of_it.py"]
    assert (tmp_path / "raw" / "src" / "steps_of_it.py").read_text() == STEP


def test_a_target_that_edits_itself_is_kept_as_it_was_before_it_was_imported(project, tmp_path):
    file = project / "steps_of_it.py"
    file.write_text(STEP + f"import pathlib\npathlib.Path({str(file)!r}).write_text('edited = True')\n")
    before = file.read_text()
    keeper = sources.Keeper(tmp_path / "raw", f"{file}:step")
    targets.load(f"{file}:step")
    assert file.read_text() == "edited = True"
    assert len(list(keeper.observations())) >= 3
    assert list(keeper.observations()) == []
    assert (tmp_path / "raw" / "src" / "steps_of_it.py").read_text() == before


def test_a_target_that_goes_to_another_folder_is_still_the_target(project, tmp_path, monkeypatch):
    monkeypatch.chdir(project)
    (project / "steps_of_it.py").write_text("import os\n" + STEP + f"os.chdir({str(tmp_path.parent)!r})\n")
    keeper = sources.Keeper(tmp_path / "raw", "steps_of_it.py:step")
    targets.load("steps_of_it.py:step")
    kept = sources.recorded(run_of(keeper.observations()))
    assert [source.path for source in kept if source.is_target] == ["steps_of_it.py"]


class Lazy:
    def __getattr__(self, name):
        raise RuntimeError(f"asked for {name}")


def test_a_file_that_no_person_wrote_by_hand_is_not_kept(project, tmp_path):
    (project / "parts_of_it" / "losses.py").write_text("def loss(w):\n    return w.sum()\n" + "#" * (5 * 2**20))
    keeper = sources.Keeper(tmp_path / "raw", f"{project / 'steps_of_it.py'}:step")
    targets.load(f"{project / 'steps_of_it.py'}:step")
    paths = [source.path for source in sources.recorded(run_of(keeper.observations()))]
    assert "steps_of_it.py" in paths
    assert "parts_of_it/losses.py" not in paths


@pytest.mark.parametrize("odd", ["none", "number", "lazy"])
def test_what_stands_in_for_a_module_is_not_asked_for_anything(monkeypatch, odd):
    thing = {"none": None, "number": 3, "lazy": Lazy()}[odd]
    monkeypatch.setitem(sys.modules, "odd_module", thing)
    monkeypatch.setitem(sys.modules, 5, thing)
    assert list(sources.loaded(None))


@pytest.mark.parametrize(
    "path", ["/etc/passwd.py", "../up.py", "a/../../b.py", "C:/x.py", "a\\b.py", "etc/passwd", "", None, 3, ["x.py"]]
)
def test_a_path_that_leads_out_of_its_folder_is_no_source(path):
    observed = Observation("source", {"file": "/home/a/t.py", "path": path, "target": True})
    assert list(sources.recorded(run_of([observed]))) == []


def test_a_target_that_fails_at_its_import_is_kept_too(tmp_path, fresh_imports):
    (tmp_path / "broken_at_import.py").write_text("raise ValueError('no')\n")
    target = f"{tmp_path / 'broken_at_import.py'}:step"
    keeper = sources.Keeper(tmp_path / "raw", target)
    with pytest.raises(Exception, match="no"):
        targets.load(target)
    kept = sources.recorded(run_of(keeper.observations()))
    assert "broken_at_import.py" in [source.path for source in kept]


def test_a_recipe_is_a_source_and_the_target(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "digits:1.toml").write_text("seed = 1")
    monkeypatch.chdir(tmp_path)
    keeper = sources.Keeper(tmp_path / "raw", "recipes/digits:1.toml")
    assert (tmp_path / "raw" / "src" / "digits:1.toml").read_text() == "seed = 1"
    (told,) = [one for one in keeper.observations() if one.values["target"]]
    assert told.values["path"] == "digits:1.toml"
    assert not [one for one in sources.recorded(run_of([told])) if one.is_target], "no path with a colon is believed"
    plain = Observation("source", {"file": "/home/a/r.toml", "path": "r.toml", "target": True})
    assert [(one.path, one.is_target) for one in sources.recorded(run_of([plain]))] == [("r.toml", True)]


@pytest.mark.parametrize(
    ("target", "file"),
    [
        ("a/train.py:step", "a/train.py"),
        ("a/recipe.toml", "a/recipe.toml"),
        ("pkg.mod:step", ""),
        ("pkg.mod:step.toml", "pkg.mod:step.toml"),
        ("notes.txt:step", ""),
        ("", ""),
    ],
)
def test_what_of_a_target_names_a_file(target, file):
    assert sources.file_part(target) == file


def test_a_file_of_a_package_is_named_from_the_folder_of_its_import(project):
    root, names = sources.import_root(project / "parts_of_it" / "losses.py")
    assert (root, names) == (project, ["parts_of_it", "losses"])


@pytest.mark.compile
def test_code_that_inductor_wrote_is_nobodys_source(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own imports
        torch.compile(lambda x: x @ x)(torch.ones(3, 3))  # (a product needs no C++ compiler: seconds)
    torch.compiler.reset()
    written = [module for module in sys.modules.values() if str(tmp_path) in (getattr(module, "__file__", None) or "")]
    assert written
    assert not any(file.is_relative_to(tmp_path) for file, _ in sources.loaded("train.py:step"))


def test_the_tools_own_cases_are_examined_only_where_they_are_the_target():
    name = "bfo_diag/cases/rosenbrock.py"
    assert rosenbrock.__name__ in sys.modules
    assert name in [path for _, path in sources.loaded(None)]
    assert name in [path for _, path in sources.loaded("bfo_diag.cases.rosenbrock:workload")]
    assert name not in [path for _, path in sources.loaded("train.py:step")]
