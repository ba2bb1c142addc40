"""The command as its user meets it: what it prints, its exit code, what it leaves behind."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest


def test_a_nan_ends_with_one_and_is_named(bfo_diag, targets_folder):
    done = bfo_diag("telemetry", f"{targets_folder / 'gradient_health.py'}:nan_at_step_4", "--steps", "6", "--json")
    assert done.code == 1
    (finding,) = done.document["findings"]
    assert finding["code"] == "TELEMETRY-NON-FINITE"
    assert finding["parameter"] == "2.bias"
    assert done.document["observations"][finding["evidence"][0] - 1]["place"]["step"] == 4
    assert done.document["summary"]["cases"][0]["least_health"] == 0.0
    json.loads(done.out, parse_constant=pytest.fail)  # no NaN literal in strict JSON


def test_samples_go_to_tensorboard_too(bfo_diag, targets_folder, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    target = f"{targets_folder / 'gradient_health.py'}:two_optimizers"
    done = bfo_diag("telemetry", target, "--steps", "4", "--every", "2", "--tensorboard", str(tmp_path / "board"))
    assert done.code == 0
    assert "Healthy: 8 tensors over 3 steps" in done.out
    board = accumulator.EventAccumulator(str(tmp_path / "board"))
    board.Reload()
    tags = board.Tags()["scalars"]
    assert "gradients/total_norm" in tags
    assert "gradients/SGD-1/total_norm" in tags
    assert [point.step for point in board.Scalars("gradients/health")] == [1, 3]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--steps", "0"), "--steps"),
        (("--every", "-1"), "--every"),
        (("--every", "many"), "--every"),
    ],
)
def test_wrong_options_are_refused(bfo_diag, arguments, said):
    done = bfo_diag("telemetry", *arguments)
    assert done.code == 2
    assert said in done.err


def test_a_folder_that_cannot_be_written_is_refused_before_the_steps(bfo_diag, targets_folder, tmp_path):
    pytest.importorskip("tensorboard")
    (tmp_path / "taken").write_text("a file")
    target = f"{targets_folder / 'gradient_health.py'}:healthy"
    done = bfo_diag("telemetry", target, "--tensorboard", str(tmp_path / "taken"))
    assert done.code == 2
    assert "taken" in done.err
    assert "leave the option out" in done.err


def test_a_terminal_shows_the_norms_while_the_steps_run(tmp_path):
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import time, torch\n"
        "weight = torch.nn.Parameter(torch.ones(3))\n"
        "def step():\n"
        "    time.sleep(0.1)\n"
        "    weight.grad = None\n"
        "    (weight * 2).sum().backward()\n"
    )
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "bfo_diag", "telemetry", "slow.py:step", "--steps", "20"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    with subprocess.Popen(
        command, cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        seen = b""
        try:
            while piece := os.read(ours, 4096):
                seen += piece
        except OSError:
            pass  # Linux: the other end is closed
        os.close(ours)
        assert process.wait(60) == 0
    live, _, final = seen.decode().partition("Gradients in 20 samples")
    assert "healthy, health 1.00" in live  # the title of the live table
    assert "weight" in live
    assert "3.46" in live
    assert "Healthy: 1 tensor over 20 steps" in final
