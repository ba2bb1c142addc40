from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pytorch_bfo_optimizer import BFO, StepRecord, TelemetryError
from pytorch_bfo_optimizer.monitors import JSONLinesSink, jsonl

Make = Callable[..., StepRecord]

KILLED = """
import os, sys
import torch
from pytorch_bfo_optimizer import BFO
from pytorch_bfo_optimizer.monitors import JSONLinesSink, jsonl

jsonl.WRITE_EVERY = 0
param = torch.ones(3)
optimizer = BFO([param], population_size=4)
optimizer.on_step.append(JSONLinesSink(sys.argv[1]))
for _ in range(100):
    optimizer.step(lambda: param.square().sum())
os.kill(os.getpid(), 9)
"""


def read(path: Path) -> list[dict[str, Any]]:
    def refuse(literal: str) -> None:
        raise AssertionError(f"{literal} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_each_step_of_a_training_is_a_line_of_all_its_values(tmp_path: Path) -> None:
    param, records = torch.ones(3), list[StepRecord]()
    optimizer = BFO([param], population_size=4, chem_steps=2)
    path = tmp_path / "not yet there" / "steps.jsonl"
    with JSONLinesSink(path) as lines:
        optimizer.on_step += [records.append, lines]
        for _ in range(5):
            optimizer.step(lambda: param.square().sum())
    assert read(path) == [record.plain() for record in records]
    assert records[1].reproduced
    assert '"reproduced": true' in path.read_text()


def test_what_json_has_no_number_for_is_null(tmp_path: Path, record: Make) -> None:
    with JSONLinesSink(tmp_path / "steps", "bfo") as lines:
        lines(record(1, loss=math.inf, best_loss=-math.inf, diversity=math.nan, step_size=None))
    (row,) = read(tmp_path / "steps")
    assert [row[f"bfo/{name}"] for name in ("loss", "best_loss", "diversity", "step_size")] == [None] * 4
    assert row["bfo/generation"] == 1
    assert all(name.startswith("bfo/") for name in row)


def test_a_file_that_is_there_is_refused_and_left_as_it_is(tmp_path: Path, record: Make) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text("mine\n")
    with pytest.raises(FileExistsError, match=r"steps\.jsonl is there already: give another path, or append=True"):
        JSONLinesSink(path)
    assert path.read_text() == "mine\n"


@pytest.mark.parametrize(
    ("was", "stays"), [("", ""), ('{"a": 1}\n', '{"a": 1}\n'), ('{"a": 1}\n{"b', '{"a": 1}\n{"b\n')]
)
def test_append_goes_on_on_a_line_of_its_own(tmp_path: Path, record: Make, was: str, stays: str) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text(was)
    with JSONLinesSink(path, append=True) as lines:
        lines(record(7))
    text = path.read_text()
    assert text.startswith(stays)
    assert json.loads(text.removeprefix(stays)) == record(7).plain()
    assert text.endswith("\n")


def test_append_begins_a_file_too(tmp_path: Path, record: Make) -> None:
    with JSONLinesSink(str(tmp_path / "steps.jsonl"), append=True, every=2) as lines:
        for generation in (1, 2, 3, 4):
            lines(record(generation))
    assert [row["generation"] for row in read(tmp_path / "steps.jsonl")] == [1, 3, 4]


def test_lines_wait_only_while_others_have_just_been_written(
    tmp_path: Path, record: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock:
        now = 5.0

        def perf_counter(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(jsonl, "time", clock)
    lines, path = JSONLinesSink(tmp_path / "steps"), tmp_path / "steps"
    lines(record(1))
    assert len(read(path)) == 1
    clock.now += 0.05
    lines(record(2))
    assert len(read(path)) == 1
    clock.now += 0.06
    lines(record(3))
    assert len(read(path)) == 3
    lines(record(4))
    lines.close()
    assert [row["generation"] for row in read(path)] == [1, 2, 3, 4]
    with pytest.raises(TelemetryError, match="closed"):
        lines(record(5))


@pytest.mark.skipif(os.name == "nt", reason="kills by signal")
def test_what_a_killed_process_leaves_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert [row["generation"] for row in read(path)] == list(range(1, 101))


def test_two_that_write_to_one_file_lose_nothing(tmp_path: Path, record: Make) -> None:
    path = tmp_path / "steps"
    with JSONLinesSink(path) as first, JSONLinesSink(path, append=True) as second:
        first(record(1))
        first._flush()
        second(record(2))
        second._flush()
        first(record(3))
    assert sorted(row["generation"] for row in read(path)) == [1, 2, 3]
