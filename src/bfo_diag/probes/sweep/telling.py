"""A whole study as observations, in the order of its arms and seeds: a function of the study, whoever made it when."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bfo_diag import sources
from bfo_diag.probes.sweep import arms, files
from bfo_diag.probes.sweep.place import Place
from bfo_diag.probes.sweep.spec import Spec
from bfo_diag.probes.sweep.study import State, Study
from bfo_diag.records import JSONValue, Observation

_NOT_CHOSEN = "not chosen yet"


def told(spec: Spec, study: Study, place: Place, raw: Path) -> Iterator[Observation]:
    """Yield the arms, each with its trials after it. What it takes to train them again is kept beside the log."""
    about = study.about
    found = study.arms()
    if about is not None:
        files.written(about.files, place.recipes)
        for name in about.files:
            yield from sources.keep(raw, place.recipes / name, name, target=name == about.file)
    yield Observation("study", {"arms": len(found), "trials": sum(len(one.results) for one in found)})
    cells = {arm.number: arm.cells for arm in arms.planned(spec)}
    for state in found:
        number, levels = state.arm, state.levels
        arm = None if levels is None else arms.of_levels(spec, number, levels, cells=cells.get(number, 1))
        yield Observation("arm", _values(state, arm))
        for seed, values in sorted(state.results.items(), key=lambda one: spec.seeds.index(one[0])):
            yield Observation("trial", values)
            if values["status"] == "failed" and arm is not None:
                file = files.recipe(spec, arm, seed, place.recipes)
                yield from sources.keep(raw, file, file.name)


def _values(state: State, arm: arms.Arm | None) -> dict[str, JSONValue]:
    return {
        "arm": state.arm,
        "control": state.arm == arms.CONTROL,
        "levels": {} if arm is None else dict(arm.levels),
        "label": _NOT_CHOSEN if arm is None else arm.label,
        "recipe": {} if arm is None else dict(arm.recipe),
        "cells": 1 if arm is None else arm.cells,
        "state": state.state,
        "why": state.why,
    }
