from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytorch_bfo_optimizer.compile_policy import CompileReport, Decision, Fallback
from pytorch_bfo_optimizer.compile_policy.report import combined, judged

PLAIN = CompileReport("Net", "APPLIED", "", "default", "inductor", graphs=1, calls=3, calls_compiled=3)


def judge(**changed: Any) -> tuple[str, str]:
    figures: dict[str, Any] = {"calls": 3, "calls_compiled": 3, "proved": True, "troubles": (), "why_none": "why"}
    return judged(**{**figures, **changed})


@pytest.mark.parametrize(
    ("changed", "status", "reason"),
    [
        ({}, "APPLIED", ""),
        ({"proved": False}, "APPLIED", ""),
        ({"troubles": ((0, "graph break"), (2, "fallback"))}, "PARTIAL", "2 fallbacks"),
        ({"troubles": ((1, "graph break"), (2, "fallback"))}, "PARTIAL", "1 graph break; 2 fallbacks"),
        ({"calls_compiled": 1}, "PARTIAL", "2 calls of 3 ran no graph (why)"),
        ({"calls_compiled": 0}, "NOT APPLIED", "no graph ran in 3 calls: why"),
        ({"calls_compiled": 0, "troubles": ((1, "fallback"),)}, "NOT APPLIED", "no graph ran in 3 calls: why"),
        ({"calls": 0, "calls_compiled": 0}, "APPLIED", "proved, and not called since"),
        ({"calls": 0, "calls_compiled": 0, "proved": False}, "NOT APPLIED", "why"),
    ],
)
def test_the_status_follows_from_counts(changed: dict[str, Any], status: str, reason: str) -> None:
    assert judge(**changed) == (status, reason)


def test_a_report_of_one_is_that_one_and_of_none_is_said() -> None:
    assert combined([PLAIN], mode="default", backend="inductor") is PLAIN
    empty = combined([], mode="default", backend="inductor")
    assert (empty.status, empty.reason) == ("NOT APPLIED", "apply() was not called")


def test_a_report_of_several_adds_them_up() -> None:
    fallback = Fallback("forward", "E: x", ("float32[2]",), 4)
    other = replace(
        PLAIN,
        target="Other",
        status="NOT APPLIED",
        reason="it was refused",
        calls_compiled=0,
        graphs=0,
        breaks=("b",),
        recompiles=("r",),
        limit_hits=("l",),
        fallbacks=(fallback,),
        cudagraph_skips=2,
    )
    whole = combined([PLAIN, other, other], mode="default", backend="inductor")
    assert (whole.status, whole.calls, whole.calls_compiled, whole.graphs) == ("PARTIAL", 9, 3, 1)
    assert whole.reason == "1 APPLIED, 2 NOT APPLIED; it was refused"
    assert (whole.breaks, whole.recompiles, whole.limit_hits) == (("b",) * 2, ("r",) * 2, ("l",) * 2)
    assert (whole.fallbacks, whole.cudagraph_skips, whole.parts) == ((fallback,) * 2, 4, (PLAIN, other, other))
    assert combined([other, other], mode="", backend="").status == "NOT APPLIED"
    assert combined([PLAIN, PLAIN], mode="", backend="").reason == ""


def test_the_text_says_all_that_is_known() -> None:
    report = replace(
        PLAIN,
        status="PARTIAL",
        reason="1 fallback",
        breaks=("print at a.py:3",),
        recompiles=("x == 3",),
        limit_hits=("x == 9",),
        fallbacks=(Fallback("compile", "E: no", ("float32[2]",), 4), Fallback("dynamo", "E: never")),
        proved=("forward", "backward"),
        notes=("an iterator",),
        decision=Decision(True, "it pays", "record", 10),
    )
    assert str(report).splitlines() == [
        "PARTIAL: Net, mode default, backend inductor",
        "  reason: 1 fallback",
        "  calls: 3 of 3 ran compiled, 1 graph",
        "  proved: forward, backward",
        "  decided: it pays",
        "  break: print at a.py:3",
        "  recompile: x == 3",
        "  recompile limit: x == 9",
        "  fallback: compile, call 4, inputs float32[2]: E: no",
        "  fallback: dynamo, while it was proved: E: never",
        "  not put back: an iterator",
    ]
    assert report.to_dict()["decision"]["planned_steps"] == 10
