"""What a sweep varies: the factors of a spec, read strictly. Which arms they make is in `designs` and `arms`.

A factor is a key of a recipe (`optimizer.lr`) or a whole table of it (`optimizer`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from bfo_diag.errors import DiagError
from bfo_diag.records import JSONValue
from bfo_diag.training.reading import near
from bfo_diag.training.recipe import TABLES

Levels = Mapping[str, JSONValue]
"""The level of each factor, by its name; None where the recipe says nothing at that place."""

WHOLE_TABLES = ("optimizer", *TABLES)
MOST_LEVELS = 100
_RANGE = ("low", "high", "log")
_EXAMPLE = "[0.01, 0.1], or for random and tpe { low = 1e-4, high = 1e-1, log = true }"


@dataclass(frozen=True)
class Factor:
    """A key of a recipe and its levels: either `values`, or a range from `low` to `high`, both of them in it.

    The numbers of a range are whole where both ends are.
    """

    name: str
    values: tuple[JSONValue, ...] | None = None
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False

    @property
    def corners(self) -> tuple[JSONValue, ...]:
        """What of it can be tried beforehand: its levels, or both ends of its range."""
        return (self.low, self.high) if self.values is None else self.values

    def to_json(self) -> dict[str, JSONValue]:
        """Return it as it goes on record."""
        values = None if self.values is None else list(self.values)
        return {"name": self.name, "values": values, "low": self.low, "high": self.high, "log": self.log}


def canonical(value: JSONValue) -> Any:
    """Return what is equal, and hashable, for levels that are the same: 1 is 1.0, and neither is true."""
    if isinstance(value, Mapping):
        return ("table", frozenset((key, canonical(one)) for key, one in value.items() if one is not None))
    if isinstance(value, (list, tuple)):
        return ("list", tuple(canonical(one) for one in value))
    return ("switch", value) if isinstance(value, bool) else value


def flat(raw: Mapping[str, Any], where: str, *, whole: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return keys with their dots for what TOML makes of `optimizer.lr = ...`, which is a table in a table.

    The tables in `whole` are levels themselves.

    Raises:
        DiagError: a key is there in both ways.
    """
    found: dict[str, Any] = {}
    for key, value in raw.items():
        within = isinstance(value, dict) and key in WHOLE_TABLES and key not in whole and not _is_range(value)
        inner = {f"{key}.{name}": one for name, one in value.items()} if within else {key: value}
        for name, one in inner.items():
            if name in found:
                raise DiagError(f"{where}.{name} is there twice", mend="leave one of them out")
            found[name] = one
    return found


def _is_range(value: Mapping[str, Any]) -> bool:
    return "low" in value and "high" in value


def read(raw: Mapping[str, Any], file: str) -> tuple[Factor, ...]:
    """Return the factors of the table [factors].

    Raises:
        DiagError: a name that is no key of a recipe, or levels that are none; names the factor.
    """
    if not raw:
        raise DiagError(f"{file}: there are no [factors]", mend=f'name one, such as "optimizer.lr" = {_EXAMPLE}')
    found = tuple(_factor(name, value, file) for name, value in flat(raw, f"{file}: factors").items())
    for fault, mend in _overlaps([factor.name for factor in found]):
        raise DiagError(f"{file}: {fault}", mend=mend)
    return found


def _factor(name: str, value: Any, file: str) -> Factor:
    _refuse_unknown(name, file)
    where = f"{file}: factors.{name}"
    if isinstance(value, dict):
        return _range(name, value, where)
    if not isinstance(value, list) or not value:
        raise DiagError(f"{where} is {value!r}, and has to be its levels", mend=f"write {_EXAMPLE}")
    if len(value) > MOST_LEVELS:
        raise DiagError(f"{where} has {len(value)} levels", mend=f"{MOST_LEVELS} are the most; or write a range")
    seen = set()
    for level in value:
        refuse_level(name, level, where)
        if canonical(level) in seen:
            raise DiagError(f"{where} has {level!r} twice", mend="leave one of them out")
        seen.add(canonical(level))
    return Factor(name, tuple(value))


def _refuse_unknown(name: str, file: str) -> None:
    """Raise DiagError for what is no key of a recipe that an arm may have its own value of."""
    if name in ("seed", "name"):
        raise DiagError(f"{file}: {name} can be no factor", mend="seeds = [0, 1, 2] are the same ones for every arm")
    table, dot, key = name.partition(".")
    if table not in WHOLE_TABLES:
        raise DiagError(f"{file}: factors.{name} is no key of a recipe", mend=near(name, _keys()))
    known = () if table == "optimizer" else tuple(one.name for one in fields(TABLES[table]))
    # (Which arguments an optimizer takes, torch tells.)
    if dot and (not key or "." in key or (known and key not in known)):
        mend = near(key, known) if known else 'an argument of an optimizer is one name: "optimizer.lr"'
        raise DiagError(f"{file}: factors.{name} is no key of a recipe", mend=mend)


def _keys() -> tuple[str, ...]:
    """Return all names of factors but for the optimizer's arguments."""
    dotted = (f"{table}.{one.name}" for table, kind in TABLES.items() for one in fields(kind))
    return ("optimizer", "optimizer.name", "optimizer.lr", *TABLES, *dotted)


def refuse_level(name: str, level: Any, where: str) -> None:
    """Raise DiagError for what no recipe can hold at the place of a factor; the rest is seen when one is read."""
    mend = ""
    if name in WHOLE_TABLES and not isinstance(level, dict):
        mend = f"{name} is a table: write {{ ... }} for each level"
    elif name not in WHOLE_TABLES and isinstance(level, dict):
        mend = f"{name} is a key, and holds no table"
    elif not _is_plain(level):
        mend = "a level is made of texts, switches and numbers that are finite"
    if mend:
        raise DiagError(f"{where} has the level {level!r}", mend=mend)


def _is_plain(level: Any) -> bool:
    if isinstance(level, (dict, list)):
        return all(map(_is_plain, level.values() if isinstance(level, dict) else level))
    return math.isfinite(level) if isinstance(level, float) else isinstance(level, (str, bool, int))


def _range(name: str, raw: Mapping[str, Any], where: str) -> Factor:
    if name in WHOLE_TABLES:
        raise DiagError(f"{where} is a range", mend=f"{name} is a table: write a list of tables, one for each level")
    for key in raw:
        if key not in _RANGE:
            raise DiagError(f"{where} has no {key}", mend=near(key, _RANGE))
    ends = {}
    for key in ("low", "high"):
        if type(raw.get(key)) not in (int, float) or not math.isfinite(raw[key]):
            said = f"{key} is {raw[key]!r}" if key in raw else f"{key} is missing"
            raise DiagError(f"{where}: {said}", mend="a range has two ends: { low = 1e-4, high = 1e-1 }")
        ends[key] = raw[key]
    log = raw.get("log", False)
    if type(log) is not bool:
        raise DiagError(f"{where}: log is {log!r}", mend="it has to be true or false")
    if ends["low"] >= ends["high"]:
        raise DiagError(f"{where}: low is {ends['low']!r} and high {ends['high']!r}", mend="low has to be below high")
    if log and ends["low"] <= 0:
        raise DiagError(f"{where}: low is {ends['low']!r}, and log is true", mend="a logarithm wants low above 0")
    return Factor(name, low=ends["low"], high=ends["high"], log=log)


def _overlaps(names: list[str]) -> Iterator[tuple[str, str]]:
    """Yield for each table that is a factor, and has a key that is one too, the fault and its mend.

    Which of the two counts, a reader could not tell.
    """
    for name in names:
        table, dot, key = name.partition(".")
        if dot and table in names:
            mend = f"write {key} into each level of {table}, or make keys of {table} the factors"
            yield f"the factors {table} and {name} overlap", mend
