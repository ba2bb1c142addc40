"""Reads what a sweep tries from TOML, strictly: a file, or a built-in preset. Needs neither torch nor Optuna.

Whether the arms it makes can be trained is checked in `arms`.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bfo_diag.errors import DiagError
from bfo_diag.probes.sweep import factors as factors_module
from bfo_diag.probes.sweep.factors import Factor
from bfo_diag.records import JSONValue
from bfo_diag.training.reading import SUFFIX, near, toml
from bfo_diag.training.recipe import SEED, TABLES, Allowed, listed, whole

FOLDER = Path(__file__).parent / "presets"
"""Where the built-in presets lie."""
LEAST_SEEDS, MOST_SEEDS = 3, 1000
"""Below three there is no interval worth the name."""
MOST_ARMS = 10_000
"""Beyond it nobody waits for the last."""
PRUNER_STARTUP = 5
DIRECTIONS = {"val_loss": "minimize", "val_accuracy": "maximize"}
SUGGESTED = ("random", "tpe")
"""The samplers that choose each arm when it is its turn; the others' arms are known beforehand."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


def _one_of(*names: str) -> Allowed:
    return Allowed(f"one of {listed(names)}", lambda value: isinstance(value, str) and value in names, names)


_ALLOWED = {
    "name": Allowed(
        "a name of a folder: letters, digits, dots, dashes and underscores, 64 at most",
        lambda value: isinstance(value, str) and _NAME.fullmatch(value) is not None,
    ),
    "sampler": _one_of("grid", "taguchi", *SUGGESTED),
    "trials": Allowed(
        f"a whole number from 1 to {MOST_ARMS}", lambda value: type(value) is int and 1 <= value <= MOST_ARMS
    ),
    "array": Allowed("the name of an array, such as L9(3^4)", lambda value: isinstance(value, str) and bool(value)),
    "seeds": Allowed(
        f"a number of seeds from {LEAST_SEEDS} to {MOST_SEEDS}, or a list of as many, each another",
        lambda value: LEAST_SEEDS <= _count_of_seeds(value) <= MOST_SEEDS,
    ),
    "metric": _one_of(*DIRECTIONS),
    "pruner": _one_of("none", "median"),
    "pruner_startup": whole(least=1),
}
_KEYS = (*_ALLOWED, "recipe", "factors", "control")


@dataclass(frozen=True)
class Spec:
    """What a sweep tries: arms, made of the levels of factors, each with the same seeds."""

    name: str
    file: Path
    """Where it was read; the factory of a model lies beside it."""
    sampler: str
    seeds: tuple[int, ...]
    recipe: Mapping[str, Any]
    """The tables of the recipe that the arms have in common."""
    factors: tuple[Factor, ...]
    control: Mapping[str, JSONValue]
    """The level of each factor that the file gives the control arm; the others are the recipe's."""
    trials: int | None = None
    """How many arms besides the control a sampler suggests; None where they are known beforehand."""
    array: str | None = None
    metric: str = "val_loss"
    pruner: str = "none"
    pruner_startup: int = PRUNER_STARTUP
    """How many arms have to be complete before another one is pruned."""

    @property
    def direction(self) -> str:
        """Whether the metric is better where it is lower: `minimize` or `maximize`."""
        return DIRECTIONS[self.metric]

    def to_json(self) -> dict[str, JSONValue]:
        """Return all that it says, without where it was read: equal for two that try the same."""
        return {
            "name": self.name,
            "sampler": self.sampler,
            "trials": self.trials,
            "array": self.array,
            "seeds": list(self.seeds),
            "metric": self.metric,
            "pruner": self.pruner,
            "pruner_startup": self.pruner_startup,
            "recipe": copy.deepcopy(dict(self.recipe)),
            "factors": [factor.to_json() for factor in self.factors],
            "control": dict(self.control),
        }


def read(text: str | None) -> Spec:
    """Read the spec that SPEC names: a file, or a built-in preset.

    Raises:
        DiagError: there is none, or it can't be read as one; names the file, the key and what is allowed.
    """
    path = _path(text)
    raw = toml(path, mend=_mend())
    for key in raw:
        if key not in _KEYS:
            raise DiagError(f"{path}: there is no {key}", mend=near(key, _KEYS))
    given = {"name": path.stem, "sampler": "grid", "seeds": LEAST_SEEDS, **raw}
    values = {key: _value(given[key], allowed, f"{path}: {key}") for key, allowed in _ALLOWED.items() if key in given}
    values["seeds"] = tuple(range(values["seeds"])) if isinstance(values["seeds"], int) else tuple(values["seeds"])
    recipe = _recipe(raw, path)
    found = factors_module.read(_table(raw, "factors", path), str(path))
    spec = Spec(file=path, recipe=recipe, factors=found, control=_control(raw, found, path), **values)
    for fault, mend in _contradictions(spec, raw):
        raise DiagError(f"{path}: {fault}", mend=mend)
    return spec


def presets() -> tuple[str, ...]:
    """Return the names of the built-in presets."""
    return tuple(sorted(path.stem for path in FOLDER.glob(f"*{SUFFIX}")))


def _mend() -> str:
    return f"name a file such as examples/sweep.toml of bfo-diag's repository, or a preset: {listed(presets())}"


def _path(text: str | None) -> Path:
    if text is None:
        raise DiagError("bfo-diag sweep wants a SPEC", mend=_mend())
    if text in presets():
        return FOLDER / f"{text}{SUFFIX}"
    path = Path(text)
    if path.suffix != SUFFIX:
        close = difflib.get_close_matches(text, presets(), n=1)
        mend = f"did you mean {close[0]}?" if close else _mend()
        raise DiagError(f"{text} is no spec: it is no preset, and its name does not end in {SUFFIX}", mend=mend)
    return path


def _value(value: Any, allowed: Allowed, where: str) -> Any:
    if allowed.takes(value):
        return value
    mend = near(str(value), allowed.names) if allowed.names else f"it has to be {allowed.says}"
    raise DiagError(f"{where} is {value!r}, and has to be {allowed.says}", mend=mend)


def _count_of_seeds(value: Any) -> int:
    """Return how many seeds are asked for; 0 where these are none."""
    if isinstance(value, list):
        return len(value) if all(map(SEED.takes, value)) and len(set(value)) == len(value) else 0
    return value if type(value) is int else 0


def _table(raw: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    table = raw.get(name, {})
    if not isinstance(table, dict):
        raise DiagError(f"{path}: {name} is {table!r}, and has to be a table", mend=f"write [{name}]")
    return table


def _recipe(raw: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """Return the tables of the recipe; their keys are read with each arm's."""
    recipe = _table(raw, "recipe", path)
    if not recipe:
        raise DiagError(f"{path}: there is no recipe", mend="write its tables as [recipe.data], [recipe.model] ...")
    for key in recipe:
        if key in ("name", "seed"):
            mend = "seeds = [0, 1, 2]" if key == "seed" else 'name = "..." at the top'
            raise DiagError(f"{path}: recipe.{key} is the sweep's to say", mend=f"write {mend} in its place")
        if key not in factors_module.WHOLE_TABLES:
            raise DiagError(f"{path}: there is no recipe.{key}", mend=near(key, ("optimizer", *TABLES)))
        _table(recipe, key, path)
    return recipe


def _control(raw: Mapping[str, Any], found: tuple[Factor, ...], path: Path) -> Mapping[str, JSONValue]:
    names = tuple(factor.name for factor in found)
    control = factors_module.flat(_table(raw, "control", path), f"{path}: control", whole=names)
    for key, level in control.items():
        if key not in names:
            raise DiagError(f"{path}: control.{key} is no factor", mend=near(key, names))
        factors_module.refuse_level(key, level, f"{path}: control.{key}")
    return control


def _contradictions(spec: Spec, raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what does not go together: the fault and its mend."""
    suggested = spec.sampler in SUGGESTED
    ranges = [factor.name for factor in spec.factors if factor.values is None]
    if ranges and not suggested:
        mend = 'write its levels as a list, or sampler = "random" or "tpe"'
        yield f"factors.{ranges[0]} is a range, and {spec.sampler} wants levels", mend
    if suggested and spec.trials is None:
        yield f"{spec.sampler} wants trials", "trials = 20 tries 20 arms besides the control"
    if not suggested and spec.trials is not None:
        yield f"trials does not go with {spec.sampler}", "leave it out: the factors tell how many arms"
    if spec.array is not None and spec.sampler != "taguchi":
        yield f"array does not go with {spec.sampler}", 'leave it out, or sampler = "taguchi"'
    if "pruner_startup" in raw and spec.pruner == "none":
        yield "pruner_startup does not go without a pruner", 'leave it out, or pruner = "median"'
