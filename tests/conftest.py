"""What several tests share."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bfo_diag import api
from bfo_diag.records import Finding, Run

# Before torch is imported, here and in what tests start: on tensors as small as these a second thread does nothing
# but wait in a loop, which costs more than the work, and ten times as much where the other core is busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")
TARGETS = Path(__file__).parent / "targets"
Capture = Callable[..., tuple[Run, tuple[Finding, ...]]]


@pytest.fixture(scope="session", autouse=True)
def compiled_first() -> None:
    """Compile something: what dynamo finds in `LBFGS.step` depends on whether it came before the first LBFGS."""
    import torch

    torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1))


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

    def run_probe(probe_name: str, target: str | None, **options: object):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a target may warn as it likes
            seen = api.examine(probe_name, target, **options)
        return seen.run, seen.findings

    return run_probe


@pytest.fixture
def targets_folder() -> Path:
    """Return the folder of example targets."""
    return TARGETS
