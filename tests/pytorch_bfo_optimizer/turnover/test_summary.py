from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from pytorch_bfo_optimizer.turnover import TurnoverManager

Make = Callable[..., Any]


def test_the_summary_counts(digits: Make) -> None:
    training = digits()
    manager = TurnoverManager.preset("crossover", training.model, training.optimizer, every=2, fraction=0.1)
    training.run(4)
    summary = json.loads(json.dumps(manager.summary()))
    assert summary["steps"] == 4
    assert summary["births"] == summary["deaths"] == 8
    assert summary["widths"] == {"0": {"first": 24, "last": 24}, "4": {"first": 16, "last": 16}}
    assert summary["founders"] == 40
    assert summary["founders_alive"] == 40 - 8  # newborn neurons have to mature
    assert summary["survival"] == 0.8
    assert summary["diversity"]["ancestors"] == 32
    assert (summary["jumps"], summary["jump_mean"], summary["audits"]) == (0, None, [])
    assert len(summary["lineage"]["nodes"]) == 16
