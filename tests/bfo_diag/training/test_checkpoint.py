from __future__ import annotations

import os
import pickle

import pytest
import torch

from bfo_diag.errors import DiagError, WorkspaceError
from bfo_diag.training import checkpoint


@pytest.fixture
def state():
    kinds = {key: kind[0] if isinstance(kind, tuple) else kind for key, kind in checkpoint._HOLDS.items()}
    empty = {key: kind() for key, kind in kinds.items() if kind is not torch.Tensor}
    return {**empty, "order": torch.zeros(3, dtype=torch.uint8), "format": checkpoint.FORMAT}


def test_a_checkpoint_comes_back_as_it_was(tmp_path, state):
    checkpoint.save(tmp_path / "checkpoint.pt", {**state, "epoch": 4, "best_loss": float("inf")})
    back = checkpoint.load(tmp_path / "checkpoint.pt")
    assert (back["epoch"], back["best_loss"]) == (4, float("inf"))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_who_is_reading_the_last_one_goes_on_reading_it(tmp_path, state):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {**state, "epoch": 1})
    with path.open("rb") as open_before:
        checkpoint.save(path, {**state, "epoch": 2})
        assert torch.load(open_before)["epoch"] == 1
    assert checkpoint.load(path)["epoch"] == 2


def test_the_last_one_stays_whole_when_the_next_can_not_be_written(tmp_path, state, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {**state, "epoch": 1})

    def full(self, content):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(WorkspaceError, match="No space left"):
        checkpoint.save(path, {**state, "epoch": 2})
    assert checkpoint.load(path)["epoch"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil-was-here",)


def test_what_is_no_checkpoint_is_refused_and_nothing_in_it_runs(tmp_path, state, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "c.pt"
    path.write_bytes(b"no archive at all")
    with pytest.raises(DiagError, match="can't be read as a checkpoint"):
        checkpoint.load(path)
    path.write_bytes(b"")
    with pytest.raises(DiagError, match="can't be read as a checkpoint"):
        checkpoint.load(path)
    with pytest.raises(DiagError, match="can't be read as a checkpoint"):
        checkpoint.load(tmp_path)
    path.write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(DiagError, match="can't be read as a checkpoint"):
        checkpoint.load(path)
    torch.save({**state, "model": Evil()}, path)
    with pytest.raises(DiagError, match="can't be read as a checkpoint"):
        checkpoint.load(path)
    assert not (tmp_path / "evil-was-here").exists()
    for content, said in (
        ([1], "no checkpoint of format 2: list"),
        ({**state, "format": 1}, "no checkpoint of format 2: 1"),
        ({**state, "epoch": "3"}, "epoch is not what a checkpoint holds"),
    ):
        torch.save(content, path)
        with pytest.raises(DiagError, match=said):
            checkpoint.load(path)


def test_another_training_is_refused_by_what_differs(tmp_path, state):
    here = {"recipe": {"training": {"epochs": 3}}, "code": "a", "device": "cpu"}
    checkpoint.refuse_another({**state, **here}, here, tmp_path)
    there = {"recipe": {"training": {"epochs": 5}}, "code": "b", "device": "cuda"}
    with pytest.raises(DiagError) as caught:
        checkpoint.refuse_another({**state, **there}, here, tmp_path)
    assert "training.epochs: 5 there, 3 here" in caught.value.message
    assert "the source of model.factory is another" in caught.value.message
    assert "device: cuda there, cpu here" in caught.value.message


def test_it_is_found_by_its_file_its_run_or_the_runs_name(tmp_path):
    raw = tmp_path / "logs" / "a-run" / "raw"
    raw.mkdir(parents=True)
    (raw.parent / "run.json").write_text("{}")
    with pytest.raises(DiagError, match="holds no checkpoint"):
        checkpoint.find("a-run", tmp_path / "logs")
    (raw / "checkpoint.pt").write_bytes(b"x")
    for text in (str(raw / "checkpoint.pt"), str(raw.parent), "a-run"):
        assert checkpoint.find(text, tmp_path / "logs") == raw / "checkpoint.pt"
    with pytest.raises(DiagError, match="there is no such run"):
        checkpoint.find("another-run", tmp_path / "logs")


def test_the_factorys_source_counts_by_its_content(tmp_path):
    (tmp_path / "a.py").write_text("x = 1")
    (tmp_path / "b.py").write_text("x = 1")
    (tmp_path / "c.py").write_text("x = 2")
    one, same, other = (checkpoint.digest(tmp_path / name) for name in ("a.py", "b.py", "c.py"))
    assert one == same != other
    assert checkpoint.digest(None) == checkpoint.digest(tmp_path / "none.py") == ""
