"""The compile probe on the steps with a known answer; each is examined once, and what was found is read by many."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest

from bfo_diag import api
from bfo_diag.probes.compile.analysis import Analysis, analyses

Examined = Callable[..., tuple[Analysis, api.Examination]]


@pytest.fixture(scope="session")
def examinations() -> dict[tuple[object, ...], api.Examination]:
    """Hold what was found, by step and options."""
    return {}


@pytest.fixture
def examined(examinations, targets_folder, fresh_imports, monkeypatch) -> Examined:
    """Examine a step of `targets/compile_steps.py` in this process; aot_eager, for no generated code is needed."""
    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)

    def examine(name: str, **options: object) -> tuple[Analysis, api.Examination]:
        key = (name, *sorted(options.items()))
        if key not in examinations:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch.compile imports what warns
                target = f"{targets_folder}/compile_steps.py:{name}"
                examinations[key] = api.examine("compile", target, backend="aot_eager", **options)
        return analyses(examinations[key].run)[0], examinations[key]

    return examine
