from __future__ import annotations

import pytest
import torch

from bfo_diag.records import Observation
from bfo_diag.training import checkpoint, loop, reading

SMALL = {
    "data": {"name": "digits", "samples": 120, "batch_size": 16},
    "model": {"name": "mlp", "width": 8},
    "optimizer": {"name": "Adam", "lr": 0.01},
    "training": {"epochs": 2},
}


def toml(tables: dict[str, dict[str, object]]) -> str:
    def value(given: object) -> str:
        return (
            str(given).lower() if isinstance(given, bool) else repr(list(given) if isinstance(given, tuple) else given)
        )

    return "\n".join(
        f"[{name}]\n" + "".join(f"{key} = {value(given)}\n" for key, given in table.items())
        for name, table in tables.items()
    )


@pytest.fixture
def write(tmp_path):
    """Write a small recipe with some tables changed (None takes a key out), and return its file."""

    def made(name: str = "small.toml", **tables: dict[str, object]):
        every = {table: {**SMALL.get(table, {}), **tables.get(table, {})} for table in {**SMALL, **tables}}
        kept = {table: {k: v for k, v in keys.items() if v is not None} for table, keys in every.items()}
        path = tmp_path / name
        path.write_text(toml(kept))
        return path

    return made


@pytest.fixture
def recipe(write):
    return lambda **tables: reading.read(str(write(**tables)))


@pytest.fixture
def train(recipe, tmp_path):
    """Train a small recipe, with checkpoints in `raw`; return what goes on record."""

    def trained(raw=None, state=None, until=None, **tables):
        made = recipe(**tables)
        torch.manual_seed(made.seed)
        if raw is not None:
            raw.mkdir(exist_ok=True)
        trainer = loop.Trainer(made, tmp_path, device="cpu", raw=raw)
        seen = []
        for said in trainer.run(state):
            if isinstance(said, Observation):
                seen.append(said)
                # (Stopped where the checkpoint of the epoch before is the last one that there is.)
                if said.kind == "epoch" and sum(one.kind == "epoch" for one in seen) == until:
                    break
        return seen

    return trained


_TIMES = ("epoch_s", "fold_s", "seconds")
_TOLD = ("epoch", "fold_end", "turnover", "turnover_summary", "shift", "shift_summary")


def _same(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one.nan_to_num(7), other.nan_to_num(7))
    if isinstance(one, dict):
        return set(one) == set(other) and all(_same(one[key], other[key]) for key in one if key not in _TIMES)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return repr(one) == repr(other)


@pytest.fixture
def same():
    """Whether two states, or records, are the same to the bit, times apart."""
    return _same


@pytest.fixture
def goes_on(train, tmp_path):
    """Stop a training after each of its epochs, and see that another comes to the same end from there."""

    def checked(**tables):
        whole = train(raw=tmp_path / "whole", **tables)
        end = checkpoint.load(tmp_path / "whole" / checkpoint.FILE)
        epochs = sum(one.kind == "epoch" for one in whole)
        assert epochs >= 2
        for until in range(2, epochs + 1):
            first = tmp_path / f"stopped-{until}"
            train(raw=first, until=until, **tables)
            state = checkpoint.load(first / checkpoint.FILE)
            torch.rand(7)  # (whatever was drawn meanwhile)
            second = tmp_path / f"resumed-{until}"
            second.mkdir()
            checkpoint.bring_weights(first / checkpoint.FILE, second, folds=state["fold"])
            resumed = train(raw=second, state=state, **tables)
            for kind in _TOLD:
                lines = [[one.to_json() for one in seen if one.kind == kind] for seen in (resumed, whole)]
                assert _same(*lines), (until, kind)
            assert _same(checkpoint.load(second / checkpoint.FILE), end)
            for weights in (tmp_path / "whole").glob("model-*"):
                assert _same(torch.load(weights), torch.load(second / weights.name))
        return whole

    return checked
