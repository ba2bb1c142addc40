from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bfo_diag.cases.digits_mlp import digits
from pytorch_bfo_optimizer import HybridBFO, StepRecord, TelemetryError
from pytorch_bfo_optimizer.monitors import MetricsTracker

Make = Callable[..., StepRecord]


def fed(record: Make, steps: range, **settings: Any) -> MetricsTracker:
    tracker = MetricsTracker(**settings)
    for step in steps:
        tracker(record(step))
    return tracker


def test_it_follows_a_training_on_digits_and_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    images, labels = (tensor[:200] for tensor in digits())

    def training() -> tuple[HybridBFO, MetricsTracker, Callable[[], float]]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 10))
        optimizer = HybridBFO(model.parameters(), population_size=4, generator=torch.Generator().manual_seed(0))
        tracker = MetricsTracker(window=5)
        optimizer.on_step.append(tracker)

        def step() -> float:
            def closure() -> torch.Tensor:
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(images), labels)
                loss.backward()
                return loss

            return optimizer.step(closure)

        return optimizer, tracker, step

    optimizer, tracker, step = training()
    losses = [step() for _ in range(20)]
    checkpoint = {
        "optimizer": optimizer.state_dict(),
        "tracker": tracker.state_dict(),
        "parameters": [param.detach().clone() for param in optimizer.vector.params],
    }
    torch.save(checkpoint, tmp_path / "checkpoint.pt")
    losses += [step() for _ in range(20)]
    assert tracker.series["best_loss"].tolist() == losses
    assert tracker.series["generation"].tolist() == list(range(1, 41))
    summary = tracker.summary()
    assert summary["best_loss"] == losses[-1] < 0.5 * losses[0]
    assert (summary["lowest"], summary["lowest_at"]) == (min(losses), losses.index(min(losses)) + 1)
    assert summary["evaluations"] == optimizer.evaluations == 41
    assert summary["phases"] == {"run": 40}
    assert summary["convergence_rate"] == tracker.convergence_rates()[-1]
    assert 0 < tracker.convergence_rates()[9] < 1
    assert summary["step_size"] > 0

    resumed, its_tracker, step = training()
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    resumed.load_state_dict(saved["optimizer"])
    for param, place in zip(resumed.vector.params, saved["parameters"], strict=True):
        param.data.copy_(place)
    its_tracker.load_state_dict(saved["tracker"])
    for _ in range(20):
        step()
    assert its_tracker.series == tracker.series
    assert its_tracker.summary() == summary


def test_points_hold_what_the_record_says(record: Make) -> None:
    tracker = MetricsTracker()
    tracker(record(1, best_loss=3.0, loss=math.inf, step_size=None))
    tracker(record(2, best_loss=4.0, phase="run"))
    series = tracker.series
    assert series["evaluations"].tolist() == [4, 8]
    assert series["loss"].tolist() == [math.inf, 1.0]
    assert series["lowest"].tolist() == [3.0, 3.0]
    assert series["diversity"].tolist() == [0.1, 0.2]
    assert math.isnan(series["step_size"][0])
    assert series["step_size"][1] == 0.05
    assert tracker.latest == record(2, best_loss=4.0, phase="run").plain()
    summary = tracker.summary()
    assert (summary["lowest"], summary["lowest_at"], summary["best_loss"]) == (3.0, 1, 4.0)
    assert summary["phases"] == {"generation": 1, "run": 1}
    assert summary["convergence_rate"] is None


@pytest.mark.parametrize("most", [2, 7, 8])
def test_points_are_thinned_out_evenly_and_the_lowest_loss_stays(record: Make, most: int) -> None:
    tracker = MetricsTracker(most=most)
    for step in range(1, 101):
        tracker(record(step, best_loss=0.5 if step == 38 else 1.0))
        generations = tracker.series["generation"].tolist()
        assert generations == list(range(1, step + 1, tracker.stride))
        assert len(generations) <= most
    assert len(generations) >= most // 2
    assert tracker.series["lowest"][-1] == 0.5
    assert (tracker.summary()["lowest"], tracker.summary()["lowest_at"]) == (0.5, 38)
    assert tracker.summary()["steps"] == tracker.summary()["generation"] == 100  # the latest, though it has no point


def test_the_rate_is_by_step_however_far_apart_points_are(record: Make) -> None:
    tracker = MetricsTracker(most=50, window=3, optimum=-1.0)
    for step in range(1, 201):
        tracker(record(step, best_loss=-1 + 0.99**step))
    assert tracker.stride == 4
    assert tracker.convergence_rates()[-1] == pytest.approx(0.01)
    assert tracker.summary()["convergence_rate"] == pytest.approx(0.01)


def test_a_state_that_is_too_long_is_thinned_out(record: Make) -> None:
    long = fed(record, range(1, 41))
    short = MetricsTracker(most=10)
    short.load_state_dict(long.state_dict())
    assert short.series["generation"].tolist() == list(range(1, 41, 4))
    short(record(41))
    assert short.series["generation"].tolist() == list(range(1, 42, 8))
    long(record(41))
    assert short.summary() == {**long.summary(), "convergence_rate": None}


def test_a_state_is_a_snapshot(record: Make) -> None:
    tracker = fed(record, range(1, 4))
    state = tracker.state_dict()
    tracker(record(4, phase="run"))
    assert (len(state["series"]["loss"]), state["steps"], state["counts"]) == (3, 3, {"generation": 3})
    other = MetricsTracker()
    other.load_state_dict(state)
    other(record(4))
    assert len(state["series"]["loss"]) == 3
    assert state["latest"]["generation"] == 3


def test_what_is_no_state_of_a_tracker_is_refused(record: Make) -> None:
    tracker = fed(record, range(1, 4))
    state = tracker.state_dict()
    for damaged in ({}, {**state, "series": {}}, {key: state[key] for key in state if key != "lowest"}):
        with pytest.raises(TelemetryError, match=r"lacks .*MetricsTracker\.state_dict"):
            tracker.load_state_dict(damaged)
        assert tracker.steps == 3


@pytest.mark.parametrize(("name", "value"), [("most", 1), ("window", 0), ("most", 10.0), ("window", True)])
def test_a_bad_setting_is_refused(name: str, value: Any) -> None:
    with pytest.raises(TelemetryError, match=f"{name} is {value!r}"):
        MetricsTracker(**{name: value})


def test_before_the_first_step_there_is_nothing_to_tell() -> None:
    for asked in (MetricsTracker().summary, MetricsTracker().plot):
        with pytest.raises(TelemetryError, match="has seen no step"):
            asked()
    assert MetricsTracker().convergence_rates() == []
