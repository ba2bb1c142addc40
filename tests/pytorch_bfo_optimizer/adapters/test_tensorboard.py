from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pytorch_bfo_optimizer import GradientCollector, GradientStats, TelemetryError
from pytorch_bfo_optimizer.adapters.tensorboard import TensorBoardSink


@pytest.fixture
def read(tmp_path: Path) -> Callable[[], Any]:
    """Return what TensorBoard itself reads from the folder."""
    accumulators = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="pip install 'bfo-diag[tensorboard]'"
    )

    def reload() -> Any:
        found = accumulators.EventAccumulator(str(tmp_path), size_guidance={"scalars": 0, "tensors": 0})
        found.Reload()
        return found

    return reload


def points(found: Any, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in found.Scalars(tag)]


def texts(found: Any, tag: str) -> list[tuple[int, str]]:
    return [(e.step, e.tensor_proto.string_val[0].decode()) for e in found.Tensors(f"{tag}/text_summary")]


def test_tensorboard_reads_back_every_number(tmp_path: Path, read: Callable, stream: list[GradientStats]) -> None:
    with TensorBoardSink(tmp_path) as sink:
        for stats in stream:
            sink(stats)
    found = read()
    expected: dict[str, list[tuple[int, float]]] = {}
    for stats in stream:
        for name, value in stats.scalars().items():
            expected.setdefault(f"gradients/{name}", []).append((stats.step, value))
    assert set(found.Tags()["scalars"]) == set(expected)
    for tag, series in expected.items():
        steps, values = zip(*points(found, tag), strict=True)
        assert steps == tuple(step for step, _ in series)
        as_float32 = torch.tensor([value for _, value in series], dtype=torch.float64).float().tolist()
        assert values == pytest.approx(as_float32, nan_ok=True), tag


def test_non_finite_numbers_are_there_and_what_float32_cannot_hold_is_told(
    tmp_path: Path, read: Callable, stream: list[GradientStats]
) -> None:
    with TensorBoardSink(str(tmp_path), "grad") as sink:
        for stats in stream:
            sink(stats)
        sink(replace(stream[3], step=36))
        sink(replace(stream[0], step=41, min_norm=1e-50, elements=2**25, nan_counts={"0.bias": 2**24 + 1}))
    found = read()
    assert math.isnan(points(found, "grad/total_norm")[2][1])
    assert points(found, "grad/norm/1.bias")[2] == (21, math.inf)
    assert points(found, "grad/nan/0.weight") == [(21, 2.0)]
    told = texts(found, "grad/status")
    assert [step for step, _ in told] == [1, 21, 31, 36, 41]  # 11 is as 1 was
    assert told[0][1] == "healthy"
    assert told[1][1] == "non-finite; `0.weight` holds 2 NaN; `1.bias` holds 1 Inf"
    assert told[2][1].startswith("exploding; ")
    assert f"norm/0.weight is {stream[3].norms[0]!r}" in told[2][1]
    assert f"total_norm is {stream[3].total_norm!r}" in told[2][1]
    assert "min_norm is 1e-50" in told[4][1]
    assert "`0.bias` holds 16777217 NaN; min_norm" in told[4][1]
    assert "nan is 16777217" in told[4][1]


def test_tensors_can_be_left_out_and_points_count_where_no_step_is_given(
    tmp_path: Path, read: Callable, stream: list[GradientStats]
) -> None:
    with TensorBoardSink(tmp_path, tensors=False) as sink:
        for stats in stream[:2]:
            sink(replace(stats, step=None))
    found = read()
    assert [step for step, _ in points(found, "gradients/health")] == [0, 1]
    assert not [tag for tag in found.Tags()["scalars"] if "weight" in tag]
    assert "gradients/group/host/norm" in found.Tags()["scalars"]


def test_a_watch_writes_while_it_trains(tmp_path: Path, read: Callable) -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with (
        TensorBoardSink(tmp_path) as sink,
        GradientCollector(model.named_parameters()).watch(optimizer, [sink], every=2),
    ):
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.ones(1, 3)).sum().backward()
            optimizer.step()
    assert points(read(), "gradients/total_norm") == [(step, 2.0) for step in (1, 3, 5)]


def test_a_writer_that_was_given_stays_open(tmp_path: Path, read: Callable, stream: list[GradientStats]) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        writer.add_scalar("loss", 3.0, 1)
        with TensorBoardSink(writer) as sink:
            sink(stream[0])
        writer.add_scalar("loss", 2.0, 2)
    assert points(read(), "loss") == [(1, 3.0), (2, 2.0)]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_closed_sink_refuses_samples(tmp_path: Path, read: Callable, stream: list[GradientStats]) -> None:
    sink = TensorBoardSink(tmp_path)
    sink(stream[0])
    sink.close()
    sink.close()
    with pytest.raises(TelemetryError, match="closed"):
        sink(stream[1])
    assert len(points(read(), "gradients/health")) == 1


def test_what_is_no_writer_is_refused() -> None:
    with pytest.raises(TelemetryError, match=r"writer is int: give a .*SummaryWriter, or a folder"):
        TensorBoardSink(3)


def test_without_tensorboard_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("tensorboard", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'bfo-diag\[tensorboard\]'"):
        TensorBoardSink(tmp_path)


def test_the_adapters_import_no_framework_before_they_are_used() -> None:
    program = (
        "import sys; import pytorch_bfo_optimizer.adapters.tensorboard, pytorch_bfo_optimizer.adapters.wandb; "
        "loaded = [n for n in ('tensorboard', 'wandb', 'torch.utils.tensorboard', 'bfo_diag') if n in sys.modules]; "
        "sys.exit(str(loaded) if loaded else 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
