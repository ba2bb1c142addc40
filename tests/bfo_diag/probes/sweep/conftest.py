"""Records of sweeps that never ran: figures as a test wants them, in the lines that a worker writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace

import pytest

from bfo_diag.records import CaseRecord, Observation, Outcome, Run, RunHeader

Record = Callable[..., Run]
Lines = SimpleNamespace
SEEDS = (0, 1, 2)


def trial(arm: int, seed: int, val_loss: float | None, **values: object) -> Observation:
    """Return the line of a trial; a figure that is not given was not measured."""
    told = {"arm": arm, "seed": seed, "status": "complete", "why": None, "val_loss": val_loss, "val_accuracy": None}
    told |= {"train_loss": None, "best_epoch": 2, "epochs": 2, "steps": 20, "loss_variance": 0.25, "seconds": 2.0}
    told |= {"parameters": 100, "births": None, "deaths": None, "jump_mean": None, "jump_max": None, "lineage": None}
    told |= {"events": None, "traceback": None, "replay": None, "digest": f"{arm}-{seed}"}
    told["curve"] = [] if val_loss is None else [[1, 2 * val_loss], [2, val_loss]]
    return Observation("trial", told | values)


def arm(number: int, levels: dict[str, object], state: str = "complete", **values: object) -> Observation:
    """Return the line of an arm; number 0 is the control."""
    label = ", ".join(f"{name}={level}" for name, level in levels.items())
    told = {"arm": number, "control": number == 0, "levels": levels, "label": label, "recipe": {"of": number}}
    return Observation("arm", {**told, "cells": 1, "state": state, "why": None, **values})


def spec(*factors: str | dict[str, object], seeds: Iterable[int] = SEEDS, **values: object) -> Observation:
    """Return the line of a spec; a factor's values are given, or are read off the arms."""
    told = {"name": "s", "sampler": "grid", "array": None, "metric": "val_loss", "direction": "minimize"}
    told |= {"pruner": "none", "seeds": list(seeds), "control": {}, "planned": None, "recipe": {}, "study": "s-1"}
    full = [{"name": f, "values": []} if isinstance(f, str) else f for f in factors or ("preset",)]
    return Observation("spec", {**told, "storage": "journal", "factors": full, **values})


@pytest.fixture
def lines() -> Lines:
    """Return what makes single lines: `spec`, `arm`, `trial`."""
    return SimpleNamespace(spec=spec, arm=arm, trial=trial)


@pytest.fixture
def record() -> Record:
    """Return what makes a run of a spec and the lines of its dump; with `study=False` its worker was killed."""

    def make(spec_line: Observation, *lines: Observation, study: bool = True, outcome=Outcome.COMPLETE, before=()):
        counts = {f"{kind}s": sum(line.kind == kind for line in lines) for kind in ("trial", "arm")}
        head = [Observation("case", {}), spec_line, *before, *([Observation("study", counts)] if study else [])]
        header = RunHeader("run", "sweep", (), "2026-01-01T00:00:00Z", CaseRecord("0", "case", target="s.toml"))
        return Run(header, (*head, *lines), outcome)

    return make


@pytest.fixture
def sweep_of(record: Record) -> Callable[..., Run]:
    """Return what makes a run of arms by their figures at each seed: the first is the control, None failed."""

    def make(*arms: Iterable[float | None], levels=None, **spec_values: object) -> Run:
        lines = []
        for number, figures in enumerate(arms):
            own = levels[number] if levels else {"preset": f"p{number}"}
            failed = any(figure is None for figure in figures)
            lines.append(arm(number, own, "failed" if failed else "complete"))
            for seed, figure in enumerate(figures):
                how = {"status": "failed", "why": "boom", "epochs": 0} if figure is None else {}
                lines.append(trial(number, seed, figure, **how))
        factors = dict.fromkeys(name for own in levels or [{"preset": 0}] for name in own)
        return record(spec(*factors, **spec_values), *lines)

    return make
