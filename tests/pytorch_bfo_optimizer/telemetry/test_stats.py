from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError, fields, replace
from typing import get_type_hints

import pytest

from pytorch_bfo_optimizer import GradientStats, HyperparameterError, TelemetryConfig, telemetry
from pytorch_bfo_optimizer.telemetry import GroupStats, health, stats

SAMPLE = GradientStats(
    step=7,
    names=("a", "b"),
    norms=(3.0, math.nan),
    zero_shares=(0.5, 0.0),
    total_norm=math.nan,
    min_norm=3.0,
    max_norm=3.0,
    mean_norm=3.0,
    vanishing=0,
    exploding=0,
    zero_share=0.25,
    nan_counts={"b": 2},
    inf_counts={"b": 1},
    missing=("c",),
    elements=8,
    health=0.0,
    status="non-finite",
    groups={"host": GroupStats(3.0, 1, 4)},
)


@pytest.mark.parametrize(
    ("vanishing", "exploding", "finite", "expected"),
    [
        (0.0, 0.0, True, 1.0),
        (1.0, 0.0, True, 0.5),
        (0.0, 1.0, True, 0.2),
        (0.5, 0.5, True, 0.35),
        (0.4, 1.0, True, 0.0),
        (1.0, 1.0, True, 0.0),  # clamped: 1 - 0.5 - 0.8
        (0.0, 0.0, False, 0.0),
        (0.25, 0.0, True, 0.875),
        (0.0, 0.25, True, 0.8),
    ],
)
def test_health_is_the_documented_formula(vanishing: float, exploding: float, finite: bool, expected: float) -> None:
    assert health(vanishing, exploding, finite=finite) == pytest.approx(expected)


def test_the_constants_are_those_of_the_formula() -> None:
    assert (telemetry.VANISHING_WEIGHT, telemetry.EXPLODING_WEIGHT) == (0.5, 0.8)
    assert (TelemetryConfig().vanishing_norm, TelemetryConfig().exploding_norm) == (1e-7, 1e4)


@pytest.mark.parametrize(
    ("tensors", "vanishing", "exploding", "finite", "expected", "status"),
    [
        (0, 0, 0, True, None, "no gradients"),
        (4, 0, 0, True, 1.0, "healthy"),
        (4, 1, 0, True, 0.875, "vanishing"),
        (4, 1, 1, True, 0.675, "exploding"),
        (4, 0, 0, False, 0.0, "non-finite"),
        (4, 1, 1, False, 0.0, "non-finite"),
    ],
)
def test_the_gravest_is_the_status(
    tensors: int, vanishing: int, exploding: int, finite: bool, expected: float | None, status: str
) -> None:
    assert stats.health_of(tensors, vanishing, exploding, finite=finite) == pytest.approx(expected)
    assert stats.status_of(tensors, vanishing, exploding, finite=finite) == status


@pytest.mark.parametrize(
    "settings",
    [
        {"vanishing_norm": -1.0},
        {"vanishing_norm": math.nan},
        {"exploding_norm": math.inf},
        {"vanishing_norm": 1.0, "exploding_norm": 1.0},
        {"zero_every": -1},
        {"zero_every": True},
        {"zero_every": 1.5},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict) -> None:
    with pytest.raises(HyperparameterError, match=next(iter(settings))):
        TelemetryConfig(**settings)


def test_the_dict_has_the_fields_of_the_dataclass_and_their_types() -> None:
    assert list(get_type_hints(telemetry.GradientStatsDict)) == [field.name for field in fields(GradientStats)]
    assert list(get_type_hints(stats.GroupStatsDict)) == [field.name for field in fields(GroupStats)]
    plain = SAMPLE.to_dict()
    for name, hint in get_type_hints(telemetry.GradientStatsDict).items():
        allowed = [part for part in getattr(hint, "__args__", (hint,)) if hint.__class__.__name__ == "UnionType"]
        kinds = tuple(getattr(part, "__origin__", part) for part in allowed or [hint])
        assert isinstance(plain[name], kinds), name
    assert json.loads(json.dumps(plain))["groups"] == {"host": {"norm": 3.0, "tensors": 1, "elements": 4}}


def test_samples_are_frozen_and_have_slots() -> None:
    for value in (SAMPLE, SAMPLE.groups["host"], TelemetryConfig()):
        assert not hasattr(value, "__dict__")
        with pytest.raises(FrozenInstanceError):
            setattr(value, fields(value)[0].name, 1)


def test_the_suspects_are_in_the_order_of_the_parameters() -> None:
    suspects = replace(SAMPLE, names=("x", "b", "a"), nan_counts={"a": 1}, inf_counts={"b": 1}, not_counted=("x",))
    assert suspects.non_finite == ("x", "b", "a")


@pytest.mark.parametrize(
    ("host", "seed", "ratio"),
    [
        (GroupStats(6.0, 1, 9), GroupStats(1.0, 1, 4), 4.0),  # (6 / 3) / (1 / 2)
        (GroupStats(0.0, 1, 9), GroupStats(1.0, 1, 4), 0.0),
        (GroupStats(6.0, 1, 9), GroupStats(0.0, 1, 4), None),
        (GroupStats(6.0, 1, 9), GroupStats(0.0, 0, 0), None),
        (GroupStats(0.0, 0, 0), GroupStats(1.0, 1, 4), None),
        (GroupStats(math.nan, 1, 9), GroupStats(1.0, 1, 4), None),
        (GroupStats(6.0, 1, 9), GroupStats(math.inf, 1, 4), None),
    ],
)
def test_two_groups_are_compared_by_their_root_mean_squares(
    host: GroupStats, seed: GroupStats, ratio: float | None
) -> None:
    assert stats.ratio_of({"host": host, "seed": seed}) == pytest.approx(ratio)
    assert stats.ratio_of({"host": host}) is None
    assert stats.ratio_of({"host": host, "seed": seed, "third": seed}) is None


def test_scalars_leave_out_what_is_none_and_nothing_else() -> None:
    scalars = SAMPLE.scalars()
    assert math.isnan(scalars.pop("total_norm"))
    assert math.isnan(scalars.pop("norm/b"))
    assert scalars == {
        "min_norm": 3.0,
        "max_norm": 3.0,
        "mean_norm": 3.0,
        "vanishing": 0,
        "exploding": 0,
        "zero_share": 0.25,
        "health": 0.0,
        "non_finite": 1,
        "not_counted": 0,
        "missing": 1,
        "nan": 2,
        "inf": 1,
        "group/host/norm": 3.0,
        "group/host/root_mean_square": 1.5,
        "norm/a": 3.0,
        "zero_share/a": 0.5,
        "zero_share/b": 0.0,
        "nan/b": 2,
        "inf/b": 1,
    }
    assert not [name for name in SAMPLE.scalars(tensors=False) if name.endswith(("/a", "/b"))]
    assert "norm/a" in replace(SAMPLE, zero_shares=None).scalars()
