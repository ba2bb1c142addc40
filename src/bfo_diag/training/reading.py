"""Reads a recipe from TOML, strictly. Needs no torch.

A key or table that is not known, a value of another type or out of range: each is an error that says what is allowed.
"""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bfo_diag.errors import DiagError
from bfo_diag.training.contradictions import contradictions
from bfo_diag.training.recipe import SEED, TABLES, TEXT, Allowed, Optimizer, Recipe, listed

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SUFFIX = ".toml"
MEND = (
    "name one, such as examples/digits_mlp.toml or examples/char_lm.toml of bfo-diag's repository; the smallest is\n"
    '    data.name = "digits"\n    model.name = "mlp"\n    optimizer.name = "Adam"'
)
T = TypeVar("T")


def read(text: str | None) -> Recipe:
    """Read the recipe that RECIPE names.

    Raises:
        DiagError: there is none, or it can't be read as one; names the file, the key and what is allowed.
    """
    if text is None:
        raise DiagError("bfo-diag run wants a RECIPE", mend=MEND)
    path = Path(text)
    if path.suffix != SUFFIX:
        raise DiagError(f"{text} is no recipe: its name does not end in {SUFFIX}", mend=MEND)
    return of_tables(toml(path, mend=MEND), file=str(path), stem=path.stem)


def toml(path: Path, *, mend: str) -> dict[str, Any]:
    """Return the tables of a TOML file; `mend` is for one that is not there, and that no file is called like.

    Raises:
        DiagError: there is none, it can't be read, or it is no TOML.
    """
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError as error:
        close = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob(f"*{path.suffix}")], n=3)
        mend = f"did you mean {', '.join(str(path.parent / name) for name in close)}?" if close else mend
        raise DiagError(f"there is no file {path}", mend=mend) from error
    except OSError as error:
        raise DiagError(f"{path} can't be read: {error.strerror or error}", mend="see that it is a file") from error
    except (ValueError, RecursionError) as error:
        raise DiagError(f"{path} is no TOML: {error}", mend="https://toml.io tells how it is written") from error


def of_tables(tables: Mapping[str, Any], *, file: str, stem: str) -> Recipe:
    """Return the recipe that tables say, as TOML gives them; `file` is for the errors, `stem` the name by default.

    Raises:
        DiagError: a key or value that is not known, or two that contradict each other.
    """
    recipe = _Reader(file).recipe(tables, stem)
    fault = next(contradictions(recipe), None)
    if fault is not None:
        raise DiagError(f"{file}: {fault[0]}", mend=fault[1])
    return recipe


@dataclass(frozen=True)
class _Reader:
    """Reads the tables of one file."""

    file: str

    def recipe(self, raw: Mapping[str, Any], stem: str) -> Recipe:
        """Return the whole."""
        self._known(raw, ("name", "seed", "optimizer", *TABLES), "")
        top = {
            "name": self._value(raw.get("name", stem), TEXT, "name"),
            "seed": self._value(raw.get("seed", 0), SEED, "seed"),
        }
        tables = {name: self._table(kind, self._mapping(raw, name), name) for name, kind in TABLES.items()}
        recipe = Recipe(**top, optimizer=self._optimizer(self._mapping(raw, "optimizer")), **tables)
        return recipe if recipe.shift.epochs is None else self._in_phases(recipe, recipe.shift.epochs, raw)

    def _in_phases(self, recipe: Recipe, phases: tuple[int, ...], raw: Mapping[str, Any]) -> Recipe:
        """Return the recipe with as many epochs as its phases have."""
        epochs = sum(phases)
        said = raw.get("training", {}).get("epochs", epochs)
        if said != epochs:
            raise DiagError(
                f"{self.file}: training.epochs is {said}, and the phases of shift.epochs have {epochs}",
                mend="leave training.epochs out: the phases say it",
            )
        return dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, epochs=epochs))

    def _mapping(self, raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
        table = raw.get(name, {})
        if not isinstance(table, dict):
            raise DiagError(f"{self.file}: {name} is {table!r}, and has to be a table", mend=f"write [{name}]")
        return table

    def _table(self, kind: type[T], raw: Mapping[str, Any], where: str) -> T:
        fields = {one.name: one for one in dataclasses.fields(kind)}  # type: ignore[arg-type]  # typeshed wants more
        self._known(raw, tuple(fields), f"{where}.")
        for name, one in fields.items():
            if one.default is dataclasses.MISSING and name not in raw:
                raise DiagError(f"{self.file}: {where}.{name} is missing", mend=f"it is {one.metadata['allowed'].says}")
        values = {name: self._value(raw[name], fields[name].metadata["allowed"], f"{where}.{name}") for name in raw}
        return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})

    def _optimizer(self, raw: Mapping[str, Any]) -> Optimizer:
        """Return the optimizer as it stands there; which names and arguments there are, torch tells."""
        if "name" not in raw:
            raise DiagError(
                f"{self.file}: optimizer.name is missing", mend="it is a class of torch.optim, or BFO and its kin"
            )
        plain = Allowed("a number, a text, a switch, or a list of these", _is_plain)
        arguments = {key: self._value(raw[key], plain, f"optimizer.{key}") for key in raw if key != "name"}
        return Optimizer(self._value(raw["name"], TEXT, "optimizer.name"), arguments)

    def _known(self, raw: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
        for key in raw:
            if key not in names:
                raise DiagError(f"{self.file}: there is no {where}{key}", mend=near(key, names))

    def _value(self, value: Any, allowed: Allowed, where: str) -> Any:
        if allowed.takes(value):
            return value
        mend = near(str(value), allowed.names) if allowed.names else f"it has to be {allowed.says}"
        raise DiagError(f"{self.file}: {where} is {value!r}, and has to be {allowed.says}", mend=mend)


def near(given: str, names: tuple[Any, ...]) -> str:
    """Return the mend for a name that is not known: the names like it, else all."""
    close = difflib.get_close_matches(given, [str(name) for name in names], n=3)
    return f"did you mean {', '.join(close)}?" if close else f"choose from {listed(names)}"


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    return isinstance(value, (bool, int, float, str))
