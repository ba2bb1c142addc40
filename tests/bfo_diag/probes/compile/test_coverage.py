"""Coverage: the share of the eager operations that run inside of graphs, on steps where it is known."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.compile


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("clean", 1.0),
        ("item_in_the_middle", 1 / 3),  # after the break only a global is left to work on: not compiled
        ("calls_a_disabled_helper", 2 / 3),
        ("python_float_that_changes", 1.0),
        ("counting_module", 1.0),
        ("mostly_eager_and_compiles_itself", 0.1),
        ("compiles_itself", 1.0),
        ("uneven_calls", 1 - 9 / 13),
        ("twelve_strings", 8 / 12),
        ("print_in_a_loop", 0.0),
        ("nothing_to_compile", None),
    ],
)
def test_the_share_of_operations_inside_of_graphs(examined, name, share):
    _, done = examined(name)
    assert done.summary["coverage"] == (None if share is None else pytest.approx(share, abs=0.01))
    applied = {None: "NOT APPLIED", 0.0: "NOT APPLIED", 1.0: "APPLIED"}.get(share, "PARTIAL")
    assert done.summary["applied"] == applied


def test_only_the_seed_of_backward_is_outside_where_the_forward_compiles_itself(examined):
    _, done = examined("compiles_its_forward")
    (coverage,) = [o.values for o in done.run.observations if o.kind == "coverage"]
    assert coverage["outside"] == {"ones_like": 1}
