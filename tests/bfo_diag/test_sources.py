"""The copies of the examined source: which files, and as they were when they ran."""

from __future__ import annotations

import hashlib
import sys
import warnings

import pytest
import torch

from bfo_diag import sources, targets
from bfo_diag.cases import rosenbrock
from bfo_diag.records import CaseRecord, Outcome, Run, RunHeader

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
    targets.load(target)
    kept = {source.path: source for source in sources.recorded(run_of(sources.keep(tmp_path / "raw", target)))}
    mine = {path for path in kept if (project / path).exists()}
    assert mine == {"steps_of_it.py", "parts_of_it/__init__.py", "parts_of_it/losses.py"}
    assert not any(path.startswith(("torch/", "numpy/", "bfo_diag/probes", "pytorch_bfo_optimizer/")) for path in kept)
    assert [path for path, source in kept.items() if source.is_target] == ["steps_of_it.py"]
    copy = (tmp_path / "raw" / "src" / "steps_of_it.py").read_bytes()
    assert copy.decode() == STEP
    assert hashlib.sha256(copy).hexdigest() == kept["steps_of_it.py"].sha256


def test_a_file_that_is_edited_after_it_ran_is_kept_as_it_was(project, tmp_path):
    target = f"{project / 'steps_of_it.py'}:step"
    targets.load(target)
    first = list(sources.keep(tmp_path / "raw", target))
    (project / "steps_of_it.py").write_text("edited = True\n")
    assert list(sources.keep(tmp_path / "raw", target)) == []
    assert first
    assert (tmp_path / "raw" / "src" / "steps_of_it.py").read_text() == STEP


def test_a_target_that_fails_at_its_import_is_kept_too(tmp_path, fresh_imports):
    (tmp_path / "broken_at_import.py").write_text("raise ValueError('no')\n")
    target = f"{tmp_path / 'broken_at_import.py'}:step"
    with pytest.raises(Exception, match="no"):
        targets.load(target)
    kept = sources.recorded(run_of(sources.keep(tmp_path / "raw", target)))
    assert "broken_at_import.py" in [source.path for source in kept]


def test_a_file_of_a_package_is_named_from_the_folder_of_its_import(project):
    root, names = sources.import_root(project / "parts_of_it" / "losses.py")
    assert (root, names) == (project, ["parts_of_it", "losses"])


@pytest.mark.compile
def test_code_that_inductor_wrote_is_nobodys_source(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own imports
        torch.compile(lambda x: x.sin() + 1)(torch.ones(3))
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
