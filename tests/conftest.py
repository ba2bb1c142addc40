"""What several tests share."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bfo_diag import child, report
from bfo_diag.probes import load_all
from bfo_diag.records import CaseRecord, Finding, Observation, Outcome, Run, RunHeader

TARGETS = Path(__file__).parent / "targets"
Capture = Callable[..., tuple[Run, tuple[Finding, ...]]]


@pytest.fixture
def fresh_imports() -> Iterator[None]:
    """Forget the modules that a target brought in, and put the import path back."""
    modules, path = set(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if "site-packages" not in file and "/lib/python" not in file:
            del sys.modules[name]


@pytest.fixture
def capture(fresh_imports: None) -> Capture:
    """Run a probe in this process on a target, and return the run with its findings."""

    def run_probe(
        probe_name: str, target: str | None, *, inputs: tuple[str, ...] = (), device: str = "cpu", **options: object
    ):
        probe = load_all()[probe_name]
        request = child.LazyTarget(target, inputs, device, 0)
        header = RunHeader("test", probe_name, (), "2026-01-01T00:00:00Z", CaseRecord("0", "case"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a target may warn as it likes
            seen = tuple(Observation.from_json(o.to_json()) for o in probe.capture(request, **options))
        run = Run(header, seen, Outcome.COMPLETE)
        return run, report.findings(run, probe)

    return run_probe


@pytest.fixture
def targets_folder() -> Path:
    """Return the folder of example targets."""
    return TARGETS
