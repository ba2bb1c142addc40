"""Whether the optimizers of a run could move anything: what is forgotten is named, what only looks so is not."""

from __future__ import annotations

import pytest

from bfo_diag.records import Severity


@pytest.fixture
def codes(capture, targets_folder):
    def run(name, steps=3):
        _, findings = capture("gradients", f"{targets_folder / 'updates.py'}:{name}", steps=steps)
        return [(f.code, f.severity) for f in findings], [f.message for f in findings]

    return run


@pytest.mark.planted
def test_an_optimizer_that_never_steps_is_named(codes):
    found, messages = codes("forgets_to_step")
    assert found == [("OPTIMIZER-NEVER-STEPPED", Severity.WARNING)]
    assert messages[0].startswith("each of 3 steps ran backward()")
    assert codes("forgets_to_step", steps=1)[0] == []  # one step can't tell


@pytest.mark.planted
def test_a_learning_rate_that_stays_0_is_noted(codes):
    found, messages = codes("without_a_rate")
    assert found == [("OPTIMIZER-LR-ZERO", Severity.NOTE)]
    assert "at each of 3 optimizer steps" in messages[0]


@pytest.mark.healthy
@pytest.mark.parametrize(
    "name", ["moves_them_itself", "steps_every_eighth_time", "warms_up", "looks_for_a_scale", "loss_alone"]
)
def test_a_step_that_has_its_reasons_gets_no_finding(codes, name):
    assert codes(name)[0] == []
