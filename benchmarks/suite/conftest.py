"""What the suite needs: pytest-benchmark, one thread, the problems, and the figures of the generation at the end."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1]))

from generations import Network, Quartiles

TARGET = 1.1
"""Most that a generation over the digits may take, in bare evaluations of its population."""
_ratios = pytest.StashKey[dict[str, Quartiles]]()


def pytest_configure(config: pytest.Config) -> None:
    """Say what is missing, and keep room for the ratios."""
    if importlib.util.find_spec("pytest_benchmark") is None:
        raise pytest.UsageError("the suite needs pytest-benchmark: pip install 'bfo-diag[bench]'")
    config.stash[_ratios] = {}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On tensors as small as these a second thread only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def network() -> Network:
    """The 64-32-10 MLP on all digits, evaluated in batches."""
    return Network((64, 32, 10), torch.device("cpu"))


@pytest.fixture
def ratios(pytestconfig: pytest.Config) -> dict[str, Quartiles]:
    """Ratios that the summary shows, by name."""
    return pytestconfig.stash[_ratios]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show the ratios, and whether they are within the target."""
    for name, ratio in config.stash.get(_ratios, {}).items():
        reached = "reached" if ratio.middle <= TARGET else "not reached"
        terminalreporter.write_line(f"{name}: {ratio.shown()} bare evaluations; target {TARGET}: {reached}")
