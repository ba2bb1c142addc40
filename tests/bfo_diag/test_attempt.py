from __future__ import annotations

import sys

import pytest
import torch

from bfo_diag.attempt import TimeLimitReached, attempt
from bfo_diag.errors import DiagError
from bfo_diag.probes.gradients.trace import Trace


def test_a_value_comes_back():
    assert attempt(lambda: 3).value == 3
    assert attempt(lambda: None).ok


def test_what_the_target_raises_is_kept_as_text_with_its_place():
    raised = attempt(lambda: [][1]).raised
    assert raised is not None
    assert (raised.type, raised.by_target) == ("IndexError", True)
    assert raised.spot.file == __file__
    assert "test_attempt.py" in raised.traceback
    assert "bfo_diag/attempt.py" not in raised.traceback


def test_an_exit_of_the_target_is_no_exit_of_ours():
    assert attempt(lambda: sys.exit(7)).raised.message == "sys.exit(7)"


def test_the_time_limit_is_no_exception_of_the_targets():
    def stubborn():
        try:
            raise TimeLimitReached
        except Exception:  # noqa: BLE001 - what a target may do
            return "swallowed"

    got = attempt(stubborn)
    assert got.timed_out
    assert not got.ok


def test_our_own_refusals_and_the_keyboard_pass_through():
    def refuse():
        raise DiagError("no")

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(DiagError):
        attempt(refuse)
    with pytest.raises(KeyboardInterrupt):
        attempt(interrupt)


def test_a_long_message_is_cut_and_says_so():
    def shout():
        raise ValueError("x" * 10_000)

    assert attempt(shout).raised.message.endswith("(10000 characters in all)")


def test_an_error_of_an_operation_under_the_trace_is_the_targets():
    with Trace() as trace:
        trace.begin_step()
        raised = attempt(lambda: torch.ones(2) @ torch.ones(3)).raised
    assert raised.by_target
    assert raised.spot.file == __file__


def test_an_error_of_the_trace_itself_is_a_defect_of_ours(monkeypatch):
    # As if the name were gone: an error whose innermost frame is the trace's own.
    with Trace() as trace:
        trace.begin_step()
        monkeypatch.delattr("bfo_diag.probes.gradients.trace.tensors_in")
        raised = attempt(lambda: torch.ones(2) + 1).raised
    assert raised.type == "NameError"
    assert not raised.by_target
