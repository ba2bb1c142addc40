"""A switch is a mend only where the target still computes the same: every call, and the parameters at the end."""

from __future__ import annotations

import pytest

from bfo_diag.probes import PartResult
from bfo_diag.probes.compile import _compared
from bfo_diag.probes.compile.analysis import Analysis
from bfo_diag.records import Observation, Place

SWITCH = "trace_autograd_ops"


def calls(returned, parameters, *, part="calls"):
    for number, value in enumerate(returned, 1):
        last = number == len(returned)
        values = {"number": number, "ok": True, "returned": value, "parameters": parameters if last else None}
        yield Observation("call", {**values, "part": part, "disabled_by": None, "cudagraph_skips": 0})
    yield Observation("graph", {"part": part, "call": 1, "direction": "captured"})


def broken():
    values = {"code": "GB0123", "type": "Tensor.backward", "call": 1, "frames": [], "cascade": [], "part": "calls"}
    return Observation("break", values, Place(file="train.py", line=20, source="loss.backward()"))


def compared(returned, parameters):
    before = Analysis("", tuple(enumerate((broken(), *calls([2.43, 2.41, 2.40], 10.0)), 1)))
    return _compared(SWITCH, before, PartResult(tuple(calls(returned, parameters, part="fix")))).values


def test_the_same_losses_and_parameters_are_a_mend():
    values = compared([2.43, 2.41, 2.40], 10.0)
    assert values["differs"] is False
    assert len(values["mends"]) == 1


@pytest.mark.parametrize(
    ("returned", "parameters"),
    [
        ([2.43, 2.47, 2.53], 10.0),
        ([2.43, 2.41, 2.40], 9.0),
        ([2.43, 2.41, 2.40], None),
        ([2.43, float("nan"), 2.4], 10.0),
    ],
)
def test_a_later_loss_or_the_parameters_tell_that_it_trains_otherwise(returned, parameters):
    values = compared(returned, parameters)
    assert values["differs"] is True
    assert values["mends"] == []


def test_a_step_that_returns_nothing_is_judged_by_its_parameters():
    before = Analysis("", tuple(enumerate((broken(), *calls([None, None], 10.0)), 1)))
    same, other = (
        _compared(SWITCH, before, PartResult(tuple(calls([None, None], p, part="fix")))) for p in (10.0, 8.0)
    )
    assert [same.values["differs"], other.values["differs"]] == [False, True]
