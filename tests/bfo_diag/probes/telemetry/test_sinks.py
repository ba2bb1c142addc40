"""Where samples go besides the run log."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from bfo_diag.errors import DiagError
from bfo_diag.probes.telemetry import sinks
from pytorch_bfo_optimizer.telemetry import GradientCollector, GradientStats


@pytest.fixture
def stats() -> GradientStats:
    weight = torch.ones(2, requires_grad=True)
    weight.grad = torch.tensor([3.0, 4.0])
    return GradientCollector([("weight", weight)]).collect(step=1).materialize()


def test_each_label_has_a_prefix_of_its_own(stats):
    seen: list[tuple[str, GradientStats]] = []

    def make(prefix: str) -> Callable[[GradientStats], None]:
        return lambda sample: seen.append((prefix, sample))

    several = sinks.Sinks([make])
    several.take("", stats)
    several.take("digits-mlp/SGD-1", stats)
    assert [prefix for prefix, _ in seen] == ["gradients", "gradients/digits-mlp/SGD-1"]


PROGRAM = """
import torch
from bfo_diag.probes.telemetry import sinks
from pytorch_bfo_optimizer.telemetry import GradientCollector
weight = torch.ones(2, requires_grad=True)
weight.grad = torch.tensor([3.0, 4.0])
with sinks.opened(tensorboard=None, wandb="digits") as opened:
    opened.take("", GradientCollector([("weight", weight)]).collect(step=1).materialize())
"""


def test_a_wandb_project_gets_the_samples_offline(tmp_path):
    pytest.importorskip("wandb")
    environment = {**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment, check=True, timeout=120)
    (written,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert b"gradients/total_norm" in written.read_bytes()


def test_a_framework_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    really = builtins.__import__

    def without(name: str, *args, **kwargs):
        if name.partition(".")[0] in ("wandb", "tensorboard") or name == "torch.utils.tensorboard":
            raise ImportError(f"No module named {name!r}")
        return really(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DiagError, match=r"bfo-diag\[wandb\]"), sinks.opened(tensorboard=None, wandb="digits"):
        pass
    with pytest.raises(DiagError, match=r"bfo-diag\[tensorboard\]"), sinks.opened(tensorboard="board", wandb=None):
        pass
