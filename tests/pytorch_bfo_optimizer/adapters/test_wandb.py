from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pytorch_bfo_optimizer import BFO, GradientStats, StepRecord, TelemetryError
from pytorch_bfo_optimizer.adapters.wandb import WandbSink, WandbStepSink

PROGRAM = '''
import json, math, pathlib, struct, sys
import wandb
import torch
from torch import nn
from pytorch_bfo_optimizer import BFO, GradientCollector
from pytorch_bfo_optimizer.adapters.wandb import WandbSink, WandbStepSink

def rows(path):
    """Yield the rows of history of a .wandb file: records as in LevelDB's log, in blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record
    data, at, parts = path.read_bytes(), 7, []
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        parts.append(data[at + 7 : at + 7 + size])
        at += 7 + size
        if kind in (1, 4):  # full, or the last of several
            record = Record.FromString(b"".join(parts))
            parts = []
            if record.WhichOneof("record_type") == "history":
                yield {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}

model = nn.Linear(2, 1).double()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
settings = wandb.Settings(x_disable_stats=True, console="off", x_disable_machine_info=True)
with wandb.init(project="telemetry", dir=sys.argv[1], settings=settings) as run:
    sink = WandbSink() if sys.argv[2] == "active" else WandbSink(run, "grad")
    with GradientCollector(model.named_parameters()).watch(optimizer, [sink], every=2):
        for step in range(1, 6):
            run.log({"loss": 1.0 / step}, step=10 * step)
            optimizer.zero_grad()
            model(torch.ones(1, 2).double()).sum().backward()
            model.weight.grad *= 1e200
            if step == 3:
                model.weight.grad[0, 1] = math.nan
                model.bias.grad[0] = math.inf
            optimizer.step()
    param, told = torch.ones(3), []
    colony = BFO([param], population_size=4)
    with (WandbStepSink(every=2) if sys.argv[2] == "active" else WandbStepSink(run, "colony", every=2)) as steps:
        colony.on_step += [lambda record: told.append(record.plain()), steps]
        for _ in range(4):
            colony.step(lambda: param.square().sum())
    still_open = not run._is_finished
    summary = dict(run.summary)
wandb.teardown()  # waits for the process that writes the log
(log,) = pathlib.Path(sys.argv[1]).glob("wandb/offline-run-*/run-*.wandb")
summary = {k: str(v) for k, v in summary.items()}
print(json.dumps({"rows": list(rows(log)), "summary": summary, "open": still_open, "told": told}))
'''


@pytest.mark.parametrize(("how", "prefix"), [("given", "grad"), ("active", "gradients")])
def test_an_offline_run_holds_every_number(tmp_path: Path, how: str, prefix: str) -> None:
    if importlib.util.find_spec("wandb") is None:
        pytest.skip("pip install 'bfo-diag[wandb]'")
    places = {name: str(tmp_path) for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), how],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **places, "WANDB_MODE": "offline", "WANDB_SILENT": "true", "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    written = json.loads(done.stdout.splitlines()[-1])
    assert written["open"]
    samples = [row for row in written["rows"] if f"{prefix}/step" in row]
    assert [row[f"{prefix}/step"] for row in samples] == [1, 3, 5]
    assert [row[f"{prefix}/status"] for row in samples] == ["exploding", "non-finite", "exploding"]
    assert samples[0][f"{prefix}/norm/weight"] == pytest.approx(math.sqrt(2) * 1e200)
    assert math.isnan(samples[1][f"{prefix}/total_norm"])
    assert (samples[1][f"{prefix}/nan/weight"], samples[1][f"{prefix}/inf/bias"]) == (1, 1)
    assert samples[1][f"{prefix}/norm/bias"] == math.inf
    assert samples[1][f"{prefix}/health"] == 0
    steps = "bfo" if how == "active" else "colony"
    found = [row for row in written["rows"] if f"{steps}/generation" in row]
    expected = [{f"{steps}/{name}": value for name, value in told.items()} for told in written["told"]]
    assert [{name: row[name] for name in expected[0]} for row in found] == [expected[0], expected[2], expected[3]]
    # What is logged besides, with steps of its own, is all there too.
    assert [row["loss"] for row in written["rows"] if "loss" in row] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5])
    assert written["summary"][f"{prefix}/status"] == "exploding"


class Run:
    """What `wandb.init` returns, as far as the sink knows it."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.metrics: list[tuple[str, str]] = []

    def log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def define_metric(self, name: str, step_metric: str) -> None:
        self.metrics.append((name, step_metric))


def test_a_sample_is_a_row_with_its_own_step(stream: list[GradientStats]) -> None:
    run = Run()
    sink = WandbSink(run)
    for stats in stream:
        sink(stats)
    assert run.metrics == [("gradients/*", "gradients/step")]
    for row, stats in zip(run.rows, stream, strict=True):
        assert row.pop("gradients/step") == stats.step
        assert row.pop("gradients/status") == stats.status
        scalars = {f"gradients/{name}": value for name, value in stats.scalars().items()}
        assert row == pytest.approx(scalars, nan_ok=True, rel=0, abs=0)


def test_tensors_can_be_left_out_and_rows_count_where_no_step_is_given(stream: list[GradientStats]) -> None:
    run = Run()
    sink = WandbSink(run, "g", tensors=False)
    for stats in stream[:2]:
        sink(replace(stats, step=None, not_counted=("0.weight",)))
    assert [row["g/step"] for row in run.rows] == [0, 1]
    assert [name for name in run.rows[0] if "weight" in name] == ["g/not_counted/0.weight"]


@pytest.fixture
def record() -> StepRecord:
    """What a first step tells."""
    param, records = torch.ones(3), list[StepRecord]()
    optimizer = BFO([param], population_size=4)
    optimizer.on_step.append(records.append)
    optimizer.step(lambda: param.square().sum())
    return records[0]


def test_a_step_is_a_row_over_its_generation(record: StepRecord) -> None:
    run = Run()
    with WandbStepSink(run, every=3) as sink:
        for generation in range(1, 6):
            sink(replace(record, generation=generation))
    assert run.metrics == [("bfo/*", "bfo/generation")]
    assert [row["bfo/generation"] for row in run.rows] == [1, 4, 5]
    assert run.rows[0] == {f"bfo/{name}": value for name, value in record.plain().items()}
    with pytest.raises(TelemetryError, match="this WandbStepSink is closed"):
        sink(record)


def test_a_histogram_is_of_the_losses_that_are_finite(record: StepRecord) -> None:
    pytest.importorskip("wandb", reason="pip install 'bfo-diag[wandb]'")
    run = Run()
    with WandbStepSink(run, "c", every=1, histograms=True) as sink:
        sink(replace(record, losses=torch.tensor([1.0, math.inf, 3.0]), step_size=None))
        sink(replace(record, losses=None))
        sink(replace(record, losses=torch.tensor([math.inf])))
    drawn = run.rows[0]["c/losses"]
    assert sum(drawn.histogram) == 2
    assert (drawn.bins[0], drawn.bins[-1]) == (1, 3)
    assert "c/step_size" not in run.rows[0]
    assert ["c/losses" in row for row in run.rows] == [True, False, False]


def test_what_is_no_run_is_refused() -> None:
    with pytest.raises(TelemetryError, match=r"run is str: give what wandb.init\(\) returned"):
        WandbSink("run")
    with pytest.raises(TelemetryError, match=r"run is int: give what wandb.init\(\) returned"):
        WandbStepSink(3)


def test_without_a_run_it_says_what_to_do() -> None:
    pytest.importorskip("wandb", reason="pip install 'bfo-diag[wandb]'")
    with pytest.raises(TelemetryError, match=r"there is no W&B run: call wandb.init\(\)"):
        WandbSink()


def test_without_wandb_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    for kind in (WandbSink, WandbStepSink):
        with pytest.raises(ImportError, match=rf"{kind.__name__} needs .*pip install 'bfo-diag\[wandb\]'"):
            kind()
    with pytest.raises(ImportError, match=r"histograms .*pip install 'bfo-diag\[wandb\]'"):
        WandbStepSink(Run(), histograms=True)
