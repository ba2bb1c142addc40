"""Arms and trials from the lines of a record, whole or cut short."""

from __future__ import annotations

import math

import pytest

from bfo_diag.probes.sweep.results import number, sweep
from bfo_diag.records import Observation, Outcome


def test_what_comes_after_the_last_study_line_is_the_record(record, lines):
    stale = [lines.arm(0, {"preset": "none"}, "running"), lines.trial(0, 0, 9.0), lines.trial(7, 0, 1.0)]
    dump = [lines.arm(0, {"preset": "none"}), *(lines.trial(0, seed, 2.0 + seed) for seed in (0, 1, 2))]
    found = sweep(record(lines.spec(), *dump, before=stale))
    assert found.whole
    (control,) = found.arms
    assert control.scores == {0: 2.0, 1: 3.0, 2: 4.0}
    assert (control.standing, control.control, control.line, control.lines) == ("complete", True, 7, (8, 9, 10))


def test_an_earlier_dump_is_no_record(record, lines):
    first = [Observation("study", {"arms": 1, "trials": 1}), lines.arm(3, {}), lines.trial(3, 0, 1.0)]
    found = sweep(record(lines.spec(), lines.arm(0, {}), lines.trial(0, 0, 2.0), before=first))
    assert [arm.number for arm in found.arms] == [0]


def test_without_a_dump_what_the_worker_did_is_all_there_is(record, lines):
    told = [lines.arm(0, {"preset": "none"}, "running"), lines.trial(0, 0, 2.0), lines.trial(2, 1, 3.0)]
    found = sweep(record(lines.spec(), *told, study=False, outcome=Outcome.RUNNING))
    assert not found.whole
    assert [(arm.number, arm.standing, arm.label) for arm in found.arms] == [
        (0, "unfinished", "preset=none"),
        (2, "unfinished", "arm 2"),
    ]
    assert (found.arms[1].line, found.arms[1].levels, found.arms[1].control) == (None, {}, False)


def test_a_dump_that_was_cut_short_is_filled_up_with_what_was_told_before(record, lines):
    study = Observation("study", {"arms": 1, "trials": 2})
    before = [lines.trial(0, 0, 2.0), lines.trial(0, 1, 3.0), study]
    found = sweep(record(lines.spec(), lines.arm(0, {}), lines.trial(0, 0, 2.5), before=before, study=False))
    assert not found.whole
    assert found.arms[0].scores == {0: 2.5, 1: 3.0}


@pytest.mark.parametrize(
    ("statuses", "state", "standing"),
    [
        (("complete",) * 3, "complete", "complete"),
        (("complete", "complete"), "running", "unfinished"),
        ((), "waiting", "unfinished"),
        (("complete", "pruned"), "pruned", "pruned"),
        (("complete", "failed", "complete"), "complete", "partly failed"),
        (("failed",), "failed", "failed"),
        ((), "failed", "failed"),
        (("failed", "pruned"), "pruned", "failed"),
    ],
)
def test_how_far_an_arm_came(record, lines, statuses, state, standing):
    told = [lines.trial(0, seed, 2.0, status=status) for seed, status in enumerate(statuses)]
    assert sweep(record(lines.spec(), lines.arm(0, {}, state), *told)).arms[0].standing == standing


@pytest.mark.parametrize("figure", [math.nan, math.inf, None])
def test_a_trial_whose_metric_is_no_number_has_failed(record, lines, figure):
    told = [lines.trial(0, 0, 2.0), lines.trial(0, 1, 2.2), lines.trial(0, 2, figure)]
    (arm,) = sweep(record(lines.spec(), lines.arm(0, {}), *told)).arms
    assert (arm.standing, arm.scores, arm.why) == ("partly failed", {0: 2.0, 1: 2.2}, "val_loss is not finite")
    assert list(arm.failures) == [2]


def test_figures_are_over_the_seeds_at_which_the_arm_came_to_its_end(record, lines):
    told = [lines.trial(0, 0, 2.0, seconds=1.0), lines.trial(0, 1, 2.0, seconds=3.0)]
    told.append(lines.trial(0, 2, 2.0, status="failed", seconds=99.0))
    (arm,) = sweep(record(lines.spec(), lines.arm(0, {}), *told)).arms
    assert (arm.over_seeds("seconds").mean, arm.over_seeds("seconds").count) == (2.0, 2)
    assert arm.over_seeds("jump_mean") is None


def test_a_curve_is_the_mean_at_the_epochs_that_all_seeds_reached(record, lines):
    curves = {0: [[1, 4.0], [2, 2.0], [3, 1.0]], 1: [[1, 6.0], [2, math.nan], [3, 3.0]], 2: [[1, 5.0], [3, 2.0]]}
    told = [lines.trial(0, seed, 2.0, curve=curve) for seed, curve in curves.items()]
    assert sweep(record(lines.spec(), lines.arm(0, {}), *told)).arms[0].curve == [(1, 5.0), (3, 2.0)]
    assert sweep(record(lines.spec(), lines.arm(0, {}))).arms[0].curve == []


def test_the_curve_of_a_failed_seed_does_not_count(record, lines):
    told = [lines.trial(0, 0, 2.0), lines.trial(0, 1, 9.0, status="failed", why="raised"), lines.trial(0, 2, 4.0)]
    assert sweep(record(lines.spec(), lines.arm(0, {}), *told)).arms[0].curve == [(1, 6.0), (2, 3.0)]


def test_the_metric_and_its_direction_are_the_specs(record, lines):
    told = [lines.trial(0, seed, 2.0, val_accuracy=0.5 + seed / 10) for seed in (0, 1, 2)]
    spec = lines.spec(metric="val_accuracy", direction="maximize")
    found = sweep(record(spec, lines.arm(0, {}), *told))
    assert (found.higher_is_better, found.arms[0].scores) == (True, {0: 0.5, 1: 0.6, 2: 0.7})
    assert not sweep(record(lines.spec(), lines.arm(0, {}))).higher_is_better


def test_arms_that_wait_are_counted_with_those_not_begun(record, lines):
    told = [lines.arm(0, {}), *(lines.trial(0, s, 1.0) for s in (0, 1, 2)), lines.arm(1, {}, "waiting")]
    assert sweep(record(lines.spec(planned=5), *told)).waiting == 4
    assert sweep(record(lines.spec(), *told)).waiting == 1


def test_a_record_without_a_spec_has_no_arms(record):
    found = sweep(record(Observation("refused", {"message": "x", "mend": "y"}), study=False))
    assert (found.arms, found.control, found.seeds, found.spec_line) == ((), None, (), None)


def test_what_is_a_number():
    assert [number(value) for value in (1, 2.5, True, "3", None, math.nan, math.inf)] == [1.0, 2.5, *(None,) * 5]
