"""The checks of a package fail at each difference, and are skipped by name where there is nothing to check."""

from __future__ import annotations

import pytest

from bfo_diag import difference
from bfo_diag.recheck import Recheck


def test_the_checks_of_a_package_without_such_a_run_are_skipped_by_name(tmp_path):
    said: list[str] = []
    (tmp_path / "logs").mkdir()
    assert Recheck(tmp_path, "compile").main(said.append) == 0
    assert said == ["skipped compile: not measured: no run of bfo-diag compile is packed\n"]


def compared(status, code="GRAD-CUT-DETACH"):
    finding = difference.catalogue()[code].finding("said")
    return difference.Compared(status, finding, finding, "")


@pytest.mark.parametrize(
    ("status", "outcomes", "code"),
    [
        ("reproduced", ("complete", "complete"), 0),
        ("changed", ("complete", "complete"), 1),
        ("gone", ("complete", "complete"), 1),
        ("new", ("complete", "complete"), 1),
        ("reproduced", ("complete", "crashed"), 1),
    ],
)
def test_the_checks_of_a_package_fail_at_each_difference(tmp_path, status, outcomes, code):
    check = Recheck(tmp_path, "gradients")
    check._differences = [difference.Difference("t", (compared(status),), outcomes, ("", ""), (), ())]
    said: list[str] = []
    assert check.main(said.append) == code
    assert any(line.startswith("FAILED") for line in said) is bool(code)
