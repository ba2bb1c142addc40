from __future__ import annotations

import pytest

from bfo_diag.training import reading

SMALL = {
    "data": {"name": "digits", "samples": 120, "batch_size": 16},
    "model": {"name": "mlp", "width": 8},
    "optimizer": {"name": "Adam", "lr": 0.01},
    "training": {"epochs": 2},
}


def toml(tables: dict[str, dict[str, object]]) -> str:
    def value(given: object) -> str:
        return str(given).lower() if isinstance(given, bool) else repr(given)

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
