from __future__ import annotations

import pytest

from pytorch_bfo_optimizer import HyperparameterError
from pytorch_bfo_optimizer.turnover import Continuous, Every, Never, Once, Schedule


@pytest.mark.parametrize(
    ("schedule", "due", "share"),
    [
        (Every(3), [3, 6], None),
        (Once(4), [4], None),
        (Continuous(0.25), [1, 2, 3, 4, 5, 6, 7], 0.25),
        (Continuous(0.25, gather=3), [3, 6], 0.75),
        (Never(), [], None),
    ],
)
def test_when_it_is_due(schedule: Schedule, due: list[int], share: float | None) -> None:
    assert isinstance(schedule, Schedule)
    assert [step for step in range(1, 8) if schedule.is_due(step)] == due
    assert schedule.share == share


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "3"])
def test_steps_are_counts(wrong: object) -> None:
    with pytest.raises(HyperparameterError, match=r"Every\.steps"):
        Every(wrong)  # type: ignore[arg-type]
    with pytest.raises(HyperparameterError, match=r"Once\.step"):
        Once(wrong)  # type: ignore[arg-type]
    with pytest.raises(HyperparameterError, match=r"Continuous\.gather"):
        Continuous(0.1, gather=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [0.0, 1.1, -0.1, float("nan"), "0.1"])
def test_a_rate_is_a_share(wrong: object) -> None:
    with pytest.raises(HyperparameterError, match=r"Continuous\.rate"):
        Continuous(wrong)  # type: ignore[arg-type]
