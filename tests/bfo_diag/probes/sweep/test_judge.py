"""What is wrong with a sweep, from its record."""

from __future__ import annotations

import pytest

from bfo_diag.probes.sweep.judge import judge
from bfo_diag.records import Observation, Outcome, Severity

CONTROL, BETTER, TIE = (2.00, 2.50, 2.20), (1.90, 2.41, 2.09), (1.95, 2.61, 2.09)


def codes(run):
    return [finding.code for finding in judge(run)]


def test_a_sweep_in_which_an_arm_differs_has_no_finding(sweep_of):
    assert codes(sweep_of(CONTROL, BETTER, TIE)) == []


def test_that_all_arms_tie_is_a_note(sweep_of):
    (finding,) = judge(sweep_of(CONTROL, TIE, (2.1, 2.4, 2.2)))
    assert (finding.code, finding.severity) == ("SWEEP-ALL-TIE", Severity.NOTE)
    assert finding.message == "all 2 arms compared tie with the control, over 3 seeds"
    (one,) = judge(sweep_of(CONTROL, TIE))
    assert one.message == "the one arm that was compared ties with the control, over 3 seeds"


def test_a_failed_arm_is_one_finding_with_its_reasons_and_the_line_that_replays_it(record, lines):
    good = [lines.arm(0, {"preset": "p0"}), *(lines.trial(0, seed, value) for seed, value in enumerate(CONTROL))]
    bad = [lines.arm(1, {"preset": "p1"}, "failed")]
    for seed, why in enumerate(("ValueError: lr", "ValueError: lr", "loss is nan")):
        replay = f"bfo-diag run arm.toml --seed {seed}"
        bad.append(lines.trial(1, seed, None, status="failed", why=why, replay=replay))
    (finding,) = judge(record(lines.spec(), *good, *bad))
    assert (finding.code, finding.severity) == ("SWEEP-TRIAL-FAILED", Severity.WARNING)
    assert finding.message == "preset=p1: failed at seed 0, 1, 2 (3 of 3 seeds): ValueError: lr; loss is nan"
    assert finding.fix.startswith("bfo-diag run arm.toml --seed 0: ")
    assert finding.evidence == (9, 10, 11)


def test_an_arm_that_failed_before_any_trial_is_told_by_its_own_line(record, lines):
    good = [lines.arm(0, {"preset": "p0"}), *(lines.trial(0, seed, value) for seed, value in enumerate(CONTROL))]
    (finding,) = judge(record(lines.spec(), *good, lines.arm(1, {"preset": "p1"}, "failed", why="no such layer")))
    assert finding.message == "preset=p1: failed at seed unknown (0 of 3 seeds): no such layer"
    assert finding.evidence == (8,)


def test_without_a_control_nothing_can_be_compared(sweep_of):
    (finding,) = judge(sweep_of((None, None, None), TIE))
    assert (finding.code, finding.severity) == ("SWEEP-CONTROL-FAILED", Severity.ERROR)
    partly = judge(sweep_of((2.0, None, 2.2), BETTER))
    assert [finding.code for finding in partly] == ["SWEEP-TRIAL-FAILED"]


def twins(lines, levels, digests, state="complete"):
    rows = []
    for number, (own, digest) in enumerate(zip(levels, digests, strict=True)):
        rows.append(lines.arm(number, own, state))
        rows += [
            lines.trial(number, seed, value + (number if digest != "a" else 0), digest=digest and f"{digest}{seed}")
            for seed, value in enumerate(CONTROL)
        ]
    return rows


def test_arms_with_the_same_digests_are_one_arm_and_name_what_had_no_effect(record, lines):
    levels = [{"preset": "none", "fraction": 0.1, "lr": 1}, {"preset": "none", "fraction": 0.2, "lr": 1.0}]
    levels.append({"preset": "fold", "fraction": 0.2, "lr": 1})
    found = list(judge(record(lines.spec("preset", "fraction", "lr"), *twins(lines, levels, "aab"))))
    (finding,) = [one for one in found if one.code == "SWEEP-ARMS-IDENTICAL"]
    assert finding.severity is Severity.WARNING
    assert finding.message.startswith("preset=none, fraction=0.1, lr=1; preset=none, fraction=0.2, lr=1.0: the same")
    assert finding.message.endswith("; fraction had no effect there")
    assert finding.evidence == (5, 6, 7, 9, 10, 11)


def test_one_configuration_tried_twice_names_no_factor(record, lines):
    rows = twins(lines, [{"preset": "none"}, {"preset": "none"}], "aa")
    messages = [one.message for one in judge(record(lines.spec(), *rows)) if one.code == "SWEEP-ARMS-IDENTICAL"]
    assert messages == ["preset=none; preset=none: the same at every seed; they are one configuration"]


@pytest.mark.parametrize("digests", [("a", "b"), (None, None)])
def test_arms_are_not_identical_by_their_figures_alone(record, lines, digests):
    rows = twins(lines, [{"preset": "none"}, {"preset": "fold"}], digests)
    assert "SWEEP-ARMS-IDENTICAL" not in codes(record(lines.spec(), *rows))


def test_arms_that_are_the_same_at_one_seed_alone_are_two(record, lines):
    rows = twins(lines, [{"preset": "none"}, {"preset": "fold"}], "aa")
    rows[-1] = lines.trial(1, 2, 2.3, digest="other")
    assert "SWEEP-ARMS-IDENTICAL" not in codes(record(lines.spec(), *rows))


def test_arms_that_wait_are_told_with_the_line_that_goes_on(record, lines):
    good = [lines.arm(0, {"preset": "p0"}), *(lines.trial(0, seed, value) for seed, value in enumerate(CONTROL))]
    rest = [lines.arm(1, {"preset": "p1"}, "waiting"), lines.arm(2, {"preset": "p2"}, "running")]
    (finding,) = judge(record(lines.spec(planned=5), *good, *rest))
    assert finding.code == "SWEEP-INCOMPLETE"
    assert finding.message == "4 of 5 arms are not at their end"
    assert finding.fix == "bfo-diag sweep resume s-1"
    assert finding.evidence == (2,)


def test_a_killed_worker_says_that_it_saw_its_own_part_alone(record, lines):
    rows = [lines.arm(0, {"preset": "p0"}), *(lines.trial(0, seed, value) for seed, value in enumerate(CONTROL))]
    (finding,) = judge(record(lines.spec(planned=1), *rows, study=False, outcome=Outcome.INTERRUPTED))
    assert (finding.code, finding.message[:34]) == ("SWEEP-INCOMPLETE", "this run ended before it wrote dow")
    assert codes(record(lines.spec(planned=1), *rows, study=False)) == []


def test_of_a_record_without_arms_nothing_is_said(record, lines):
    assert codes(record(Observation("refused", {"message": "x"}), study=False)) == []
