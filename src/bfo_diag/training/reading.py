"""Reads a recipe from TOML, strictly. Needs no torch.

A key or table that is not known, a value of another type or out of range: each is an error that says what is allowed.
"""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bfo_diag.errors import DiagError
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
    try:
        raw = tomllib.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError as error:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob(f"*{SUFFIX}")], n=3)
        mend = f"did you mean {', '.join(str(path.parent / name) for name in near)}?" if near else MEND
        raise DiagError(f"there is no file {path}", mend=mend) from error
    except OSError as error:
        raise DiagError(f"{path} can't be read: {error.strerror or error}", mend="see that it is a file") from error
    except (ValueError, RecursionError) as error:
        raise DiagError(f"{path} is no TOML: {error}", mend="https://toml.io tells how it is written") from error
    return of_tables(raw, file=str(path), stem=path.stem)


def of_tables(tables: Mapping[str, Any], *, file: str, stem: str) -> Recipe:
    """Return the recipe that tables say, as TOML gives them; `file` is for the errors, `stem` the name by default.

    Raises:
        DiagError: a key or value that is not known, or two that contradict each other.
    """
    recipe = _Reader(file).recipe(tables, stem)
    fault = next(_contradictions(recipe), None)
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
        return Recipe(**top, optimizer=self._optimizer(self._mapping(raw, "optimizer")), **tables)

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
        return kind(
            **{name: self._value(raw[name], fields[name].metadata["allowed"], f"{where}.{name}") for name in raw}
        )

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


def _contradictions(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yield what does not go together: the fault and its mend."""
    data, model = recipe.data, recipe.model
    if (model.name is None) == (model.factory is None):
        what = "both model.name and model.factory are given" if model.name else "neither model.name nor model.factory"
        yield what, "give one of the two"
    fits = {"mlp": "digits", "char-transformer": "text"}
    if model.name is not None and fits[model.name] != data.name:
        right = next(name for name, learned in fits.items() if learned == data.name)
        yield f"the model {model.name} does not go with {data.name}", f'model.name = "{right}", or a model.factory'
    shaped = [name for name in ("width", "depth", "dropout") if getattr(model, name) is not None]
    if model.factory is not None and shaped:
        yield f"model.{shaped[0]} does not go with model.factory", "let the factory decide it, and leave it out"
    if model.name == "char-transformer" and model.width is not None and model.width % 2:
        yield f"model.width is {model.width}", "the char-transformer has two heads: an even number"
    if data.name != "text" and data.context is not None:
        yield f"data.context does not go with {data.name}", "leave it out"
    if recipe.training.folds > 1 and data.validation is not None:
        yield "data.validation does not go with training.folds", "each of K folds holds back 1/K: leave it out"
