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

from bfo_diag.cases.digits_mlp import digits
from pytorch_bfo_optimizer import (
    BFO,
    GradientCollector,
    GradientStats,
    HybridBFO,
    ModelObjective,
    StepRecord,
    TelemetryError,
)
from pytorch_bfo_optimizer.adapters.tensorboard import SCALARS, TensorBoardSink, TensorBoardStepSink


@pytest.fixture
def read(tmp_path: Path) -> Callable[[], Any]:
    """Return what TensorBoard itself reads from the folder."""
    accumulators = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="pip install 'bfo-diag[tensorboard]'"
    )

    def reload() -> Any:
        every = {"scalars": 0, "tensors": 0, "histograms": 0}
        found = accumulators.EventAccumulator(str(tmp_path), size_guidance=every)
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


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 4), nn.Tanh(), nn.Linear(4, 10))


def test_tensorboard_reads_back_every_step_of_a_training(tmp_path: Path, read: Callable) -> None:
    model, records = small_network(), list[StepRecord]()
    images, labels = (tensor[:50] for tensor in digits())
    optimizer = BFO(model.named_parameters(), population_size=5, swim_length=1)
    with TensorBoardStepSink(tmp_path, every=1, positions=optimizer) as board:
        optimizer.on_step += [records.append, board]
        for _ in range(4):
            optimizer.step(ModelObjective(model, nn.functional.cross_entropy, (images, labels)))
    found = read()
    assert set(found.Tags()["scalars"]) == {f"bfo/{name}" for name in SCALARS}
    for name in SCALARS:
        values = [float(torch.tensor(float(getattr(record, name)))) for record in records]
        assert points(found, f"bfo/{name}") == list(zip([1, 2, 3, 4], values, strict=True))
    names = [name for name, _ in model.named_parameters()]
    assert set(found.Tags()["histograms"]) == {"bfo/losses", *(f"bfo/positions/{name}" for name in names)}
    for event, record in zip(found.Histograms("bfo/losses"), records, strict=True):
        losses = record.losses
        drawn = event.histogram_value
        assert (event.step, drawn.num) == (record.generation, 5)
        assert (drawn.min, drawn.max) == (float(losses.min()), float(losses.max()))
        assert drawn.sum == pytest.approx(float(losses.sum()))
    last, width = found.Histograms("bfo/positions/0.weight")[-1], model[0].weight.numel()
    assert last.histogram_value.num == 5 * width
    assert last.histogram_value.sum == pytest.approx(float(optimizer.population[:, :width].sum()), rel=1e-4)


def test_a_run_is_drawn_without_members_and_the_last_step_is_there(tmp_path: Path, read: Callable) -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer, losses = HybridBFO([param], population_size=4), []
    with TensorBoardStepSink(tmp_path, "colony", every=4, positions=optimizer) as board:
        optimizer.on_step.append(board)
        for _ in range(6):
            losses.append(optimizer.step(lambda: param.square().sum()))
    found = read()
    assert [step for step, _ in points(found, "colony/loss")] == [1, 5, 6]
    assert points(found, "colony/best_loss")[-1] == (6, losses[-1])
    assert found.Tags()["histograms"] == ["colony/positions/0"]  # a parameter without a name


def test_what_is_not_there_or_not_finite_is_not_drawn(tmp_path: Path, read: Callable) -> None:
    param, records = torch.ones(3), list[StepRecord]()
    optimizer = BFO([param], population_size=4)
    optimizer.on_step.append(records.append)
    optimizer.step(lambda: param.square().sum())
    losses = torch.tensor([1.0, math.inf, 3.0])
    with TensorBoardStepSink(str(tmp_path), every=1) as board:
        board(replace(records[0], generation=1, step_size=None, losses=losses, loss=math.inf))
        board(replace(records[0], generation=2, losses=torch.full((3,), math.inf)))
    with TensorBoardStepSink(tmp_path, "plain", every=1, histograms=False) as board:
        board(records[0])
    found = read()
    assert [step for step, _ in points(found, "bfo/step_size")] == [2]
    assert points(found, "bfo/loss")[0] == (1, math.inf)
    (event,) = found.Histograms("bfo/losses")
    assert (event.step, event.histogram_value.num, event.histogram_value.sum) == (1, 2, 4)
    assert found.Tags()["histograms"] == ["bfo/losses"]


def test_a_step_sink_leaves_a_writer_open_and_refuses_steps_once_closed(tmp_path: Path, read: Callable) -> None:
    from torch.utils.tensorboard import SummaryWriter

    param = torch.ones(3)
    optimizer = BFO([param], population_size=4)
    with SummaryWriter(tmp_path) as writer:
        with TensorBoardStepSink(writer) as board:
            optimizer.on_step.append(board)
            optimizer.step(lambda: param.square().sum())
        with pytest.raises(TelemetryError, match="this TensorBoardStepSink is closed"):
            optimizer.step(lambda: param.square().sum())
        writer.add_scalar("mine", 2.0, 1)
    found = read()
    assert points(found, "mine") == [(1, 2.0)]
    assert [step for step, _ in points(found, "bfo/loss")] == [1]
    assert optimizer.generation == 2  # the step itself was made
    assert len(list(tmp_path.iterdir())) == 1


def test_what_is_no_writer_of_steps_is_refused() -> None:
    with pytest.raises(TelemetryError, match=r"writer is list: give a .*SummaryWriter, or a folder"):
        TensorBoardStepSink([])


def test_without_tensorboard_the_step_sink_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("tensorboard", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"TensorBoardStepSink needs .*pip install 'bfo-diag\[tensorboard\]'"):
        TensorBoardStepSink(tmp_path)


def test_the_adapters_import_no_framework_before_they_are_used() -> None:
    program = (
        "import sys; import pytorch_bfo_optimizer.adapters.tensorboard, pytorch_bfo_optimizer.adapters.wandb; "
        "import pytorch_bfo_optimizer.monitors; "
        "frameworks = 'tensorboard', 'wandb', 'torch.utils.tensorboard', 'matplotlib', 'bfo_diag'; "
        "loaded = [name for name in frameworks if name in sys.modules]; "
        "sys.exit(str(loaded) if loaded else 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
