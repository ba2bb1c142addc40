"""The arms of a sweep: a configuration each, the recipe that it gives, and whether that can be read.

Arm 0 is the control. A trial is one arm with one seed; all arms have the same seeds.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass
from typing import Any

from bfo_diag.errors import DiagError
from bfo_diag.probes.sweep import designs
from bfo_diag.probes.sweep.factors import Factor, Levels, canonical
from bfo_diag.probes.sweep.spec import SUGGESTED, Spec
from bfo_diag.records import JSONValue
from bfo_diag.training import reading
from bfo_diag.training.recipe import TABLES, Recipe

CONTROL = 0


@dataclass(frozen=True)
class Arm:
    """A configuration: the level of each factor. `label` names it among the arms of its sweep."""

    number: int
    control: bool
    levels: Levels
    label: str
    recipe: Mapping[str, Any]
    """Its tables, without a name and a seed."""
    cells: int = 1
    """How many cells of a grid, or rows of an array, it stands for; 0 for a control that is none of them."""


def number_of_arms(spec: Spec) -> int:
    """Return how many arms a sweep has, with its control."""
    return len(planned(spec)) if spec.trials is None else 1 + spec.trials


def planned(spec: Spec) -> tuple[Arm, ...]:
    """Return the control and then the arms of a grid or an array, in their order.

    What would train the same as the control, or as an arm before it, is not another arm. Of a sampler that suggests
    its arms, the control alone.

    Raises:
        DiagError: no array fits, or the grid is too large.
    """
    control = control_levels(spec)
    cells = designs.cells(spec)
    counted = Counter(_same(spec, levels) for levels in cells)
    found = {_same(spec, control): control}
    for levels in cells:
        found.setdefault(_same(spec, levels), levels)
    return tuple(
        of_levels(spec, number, levels, cells=counted[key] if number or cells else 1)
        for number, (key, levels) in enumerate(found.items())
    )


def of_levels(spec: Spec, number: int, levels: Levels, *, cells: int = 1) -> Arm:
    """Return the arm of these levels; 0 is the control's number."""
    return Arm(
        number,
        number == CONTROL,
        levels=dict(levels),
        label=label(spec.factors, levels),
        recipe=_tables(spec, levels),
        cells=cells,
    )


def control_levels(spec: Spec) -> Levels:
    """Return the level of each factor in the control: what the spec gives it, else what its recipe says."""
    return {
        factor.name: spec.control[factor.name] if factor.name in spec.control else _own(spec, factor.name)
        for factor in spec.factors
    }


def _own(spec: Spec, name: str) -> JSONValue:
    """Return what the recipe says at a place, or what it means where it says nothing; None where only torch knows."""
    table, dot, key = name.partition(".")
    if not dot:
        return copy.deepcopy(spec.recipe.get(table))
    if key in spec.recipe.get(table, {}):
        return copy.deepcopy(spec.recipe[table][key])
    return _default(table, key)


def _default(table: str, key: str) -> JSONValue:
    """Return what a recipe means where it says nothing; None where it has to say, or where only torch knows."""
    field = getattr(TABLES.get(table), "__dataclass_fields__", {}).get(key)
    return None if field is None or field.default is MISSING else field.default


def recipe_tables(spec: Spec, arm: Arm, seed: int) -> dict[str, Any]:
    """Return what a recipe file of this arm and seed says."""
    return {"name": f"{spec.name}-arm-{arm.number}", "seed": seed, **copy.deepcopy(dict(arm.recipe))}


def _tables(spec: Spec, levels: Levels) -> dict[str, Any]:
    tables = copy.deepcopy(dict(spec.recipe))
    for name, level in levels.items():
        table, dot, key = name.partition(".")
        place, key = (tables.setdefault(table, {}), key) if dot else (tables, table)
        if level is not None:  # else the recipe says nothing there either
            place[key] = copy.deepcopy(level)
    return {name: table for name, table in tables.items() if table}


def arm_recipe(spec: Spec, arm: Arm, seed: int) -> Recipe:
    """Return the recipe of this arm and seed.

    Raises:
        DiagError: it is none; names the arm by its levels.
    """
    return reading.of_tables(recipe_tables(spec, arm, seed), file=f"{spec.file}, {_which(arm)}", stem=spec.name)


def _which(arm: Arm) -> str:
    return f"{'the control' if arm.control else 'the arm'} ({arm.label})"


def check(spec: Spec) -> None:
    """Read every arm that is known beforehand, and of a sampler's every pair of levels.

    Which arguments an optimizer takes, and whether a model can be made, only `training.loop.Trainer.check` tells.

    Raises:
        DiagError: a recipe that can't be read or trained in a sweep; names the arm by its levels.
    """
    epochs = None
    for arm in to_check(spec):
        training = arm_recipe(spec, arm, spec.seeds[0]).training
        where = f"{spec.file}, {_which(arm)}"
        if training.folds > 1:
            raise DiagError(
                f"{where}: training.folds is {training.folds}, and a trial has one",
                mend="leave it out: how far results spread, the seeds tell",
            )
        if spec.pruner != "none" and epochs not in (None, training.epochs):
            raise DiagError(
                f"{where} has {training.epochs} epochs, and the control {epochs}: the pruner compares epoch by epoch",
                mend='pruner = "none", or as many epochs for each arm',
            )
        epochs = training.epochs


def to_check(spec: Spec) -> tuple[Arm, ...]:
    """Return arms that stand for all: those that are known, or of a sampler the control and each pair of levels.

    The latter are none of the sweep's own: their numbers mean nothing beyond the order.

    Raises:
        DiagError: no array fits, or the grid is too large.
    """
    known = planned(spec)
    if spec.sampler not in SUGGESTED:
        return known
    found = {_same(spec, arm.levels): arm.levels for arm in known}
    for levels in designs.pairs(spec):
        found.setdefault(_same(spec, levels), levels)
    return tuple(of_levels(spec, number, levels) for number, levels in enumerate(found.values()))


def _same(spec: Spec, levels: Levels) -> Any:
    """Return what is equal for levels that make the same recipe, though one says what the other takes by default."""
    tables = _tables(spec, levels)
    said = {
        table: {key: value for key, value in keys.items() if canonical(value) != canonical(_default(table, key))}
        for table, keys in tables.items()
    }
    return canonical({table: keys for table, keys in said.items() if keys})


def described(spec: Spec) -> dict[str, JSONValue]:
    """Return the spec as it goes on record, but for the study and where that is stored."""
    used = designs.array(spec)
    return {
        **spec.to_json(),
        "array": None if used is None else used[0],
        "direction": spec.direction,
        "control": dict(control_levels(spec)),
        "planned": number_of_arms(spec),
    }


def label(factors: Iterable[Factor], levels: Levels) -> str:
    """Return levels in one line: the last part of each factor's name where that tells it from the others."""
    ends = Counter(factor.name.rpartition(".")[2] for factor in factors)
    said = []
    for factor in factors:
        end = factor.name.rpartition(".")[2]
        name = end if ends[end] == 1 else factor.name
        level = levels[factor.name]
        if level is None:
            said.append(f"no {name}")
        elif isinstance(level, Mapping) and isinstance(level.get("name"), str):
            said.append(f"{level['name']}({_listed({k: v for k, v in level.items() if k != 'name'})})")
        elif isinstance(level, Mapping):
            said.append(f"{name}({_listed(level)})")
        elif factor.values is None and isinstance(level, float):
            said.append(f"{name}={level:.4g}")
        else:
            said.append(f"{name}={_text(level)}")
    return ", ".join(said)


def _listed(table: Mapping[str, JSONValue]) -> str:
    return ", ".join(f"{key}={_text(value)}" for key, value in table.items())


def _text(value: JSONValue) -> str:
    return value if isinstance(value, str) else json.dumps(value)
