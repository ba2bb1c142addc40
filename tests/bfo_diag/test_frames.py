"""Whose code a file is."""

from __future__ import annotations

import pytest

from bfo_diag import frames
from bfo_diag.frames import Owner


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Return a project's folder that was claimed for the user, as that of a target is."""
    monkeypatch.setattr(frames, "_user_roots", [])
    frames.owner_of_file.cache_clear()
    frames.claim_for_user(tmp_path)
    yield tmp_path
    frames.owner_of_file.cache_clear()


@pytest.mark.parametrize(
    ("path", "owner"),
    [
        ("train.py", Owner.USER),
        ("helpers/data.py", Owner.USER),
        (".venv/lib/python3.12/site-packages/transformers/trainer.py", Owner.LIBRARY),
        ("env/lib/python3/dist-packages/numpy/core.py", Owner.LIBRARY),
        (".venv/lib/python3.12/site-packages/torch/nn/modules/linear.py", Owner.TORCH),
    ],
)
def test_what_is_installed_inside_of_a_project_is_not_its_own_code(project, path, owner):
    assert frames.owner_of_file(str(project / path)) is owner


def test_an_installed_package_that_is_the_target_is_the_users(project):
    package = project / ".venv/lib/python3.12/site-packages/mine"
    assert frames.owner_of_file(str(package / "step.py")) is Owner.LIBRARY
    frames.claim_for_user(package)
    assert frames.owner_of_file(str(package / "step.py")) is Owner.USER
    assert frames.owner_of_file(str(package.parent / "other" / "step.py")) is Owner.LIBRARY
