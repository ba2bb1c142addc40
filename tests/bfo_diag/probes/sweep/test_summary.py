"""What a sweep's record says in tables, JSON and words."""

from __future__ import annotations

import math

import pytest

from bfo_diag.probes.sweep import summary
from bfo_diag.probes.sweep.judge import judge
from bfo_diag.records import Observation, dumps

CONTROL = (2.00, 2.50, 2.20)
BETTER, WORSE, TIE = (1.90, 2.41, 2.09), (2.10, 2.61, 2.29), (1.95, 2.61, 2.09)


def verdict(run):
    return summary.verdict(run, tuple(judge(run)))


def texts(table):
    return [[getattr(cell, "text", cell) for cell in row] for row in table.rows]


def table_of(run, title):
    return next(table for table in summary.tables(run) if table.title.startswith(title))


def column(run, name):
    table = table_of(run, "Leaderboard")
    index = next(index for index, head in enumerate(table.columns) if head.startswith(name))
    return [row[index] for row in texts(table)]


def test_the_leaderboard_shows_mean_spread_difference_and_verdict(sweep_of):
    table = table_of(sweep_of(CONTROL, BETTER, TIE), "Leaderboard")
    assert table.columns[:6] == (
        "rank",
        "arm",
        "val_loss",
        "difference to the control [95 %]",
        "verdict",
        "variance of the loss",
    )
    assert texts(table) == [
        ["1", "preset=p1", "2.133 ± 0.26 (3)", "-0.1 [-0.125, -0.0752]", "better", "0.25", "100", "2 s, 1.00 x"],
        ["2", "preset=p2", "2.217 ± 0.35 (3)", "-0.0167 [-0.299, +0.266]", "tie", "0.25", "100", "2 s, 1.00 x"],
        ["3", "preset=p0 (control)", "2.233 ± 0.25 (3)", "-", "control", "0.25", "100", "2 s, 1.00 x"],
    ]
    assert table.rows[0][2].evidence == (9, 10, 11)
    assert "2 here (Holm)" in table.caption
    assert "lower is better" in table.caption


def test_what_failed_is_no_number_in_the_leaderboard(sweep_of):
    run = sweep_of(CONTROL, TIE, (1.0, None, 1.21), (None, None, None))
    assert column(run, "rank") == ["1", "2", "-", "-"]
    assert column(run, "val_loss")[2:] == ["1.105 ± 0.15 (2 of 3)", "failed: boom"]
    assert column(run, "difference")[2:] == ["-0.995 [-1.06, -0.931], 1 seed left out", "-"]
    assert column(run, "verdict")[2:] == ["partly failed", "failed"]
    assert column(run, "cost")[3] == "-"


def test_pruned_and_waiting_arms_say_so(record, lines):
    rows = [lines.arm(0, {"preset": "p0"}), *(lines.trial(0, seed, value) for seed, value in enumerate(CONTROL))]
    rows += [lines.arm(1, {"preset": "p1"}, "pruned"), lines.trial(1, 0, 3.0, status="pruned", epochs=4)]
    rows += [lines.arm(2, {"preset": "p2"}, "running"), lines.trial(2, 1, 1.5)]
    rows += [lines.arm(3, {"preset": "p3"}, "waiting")]
    run = record(lines.spec(), *rows)
    assert column(run, "val_loss")[1:] == ["pruned at epoch 4 of seed 0", "1.5 (1 of 3)"]
    assert column(run, "rank") == ["1", "-", "-"]
    assert column(run, "verdict") == ["control", "pruned", "unfinished"]
    assert table_of(run, "Leaderboard").caption.endswith("; arms without a trial yet: 1")
    assert "1 pruned, 2 unfinished" in verdict(run)


def test_a_difference_that_can_not_be_told_says_why(sweep_of):
    run = sweep_of((2.0, None, None), TIE)
    assert column(run, "difference")[0] == "not measured: 1 of 3 seeds have a figure for both"
    assert column(run, "verdict")[0] == "not measured"


def test_jump_births_and_parameters_are_shown_where_they_are_known(record, lines):
    none = {"parameters": None, "births": 0, "deaths": 0}
    rows = [lines.arm(0, {"preset": "none"}), *(lines.trial(0, s, v, **none) for s, v in enumerate(CONTROL))]
    plain = record(lines.spec(), *rows)
    assert table_of(plain, "Leaderboard").columns[6:] == ("cost",)
    rows.append(lines.arm(1, {"preset": "fold"}))
    for seed, value in enumerate(BETTER):
        born = {"births": 30 + seed, "deaths": 20, "jump_mean": 0.001 * seed, "jump_max": 0.01 * seed}
        rows.append(lines.trial(1, seed, value, **born, parameters=1500, seconds=3.0))
    run = record(lines.spec(), *rows)
    assert column(run, "jump of the eval loss") == ["0.001 / 0.02", "-"]
    assert column(run, "births / deaths") == ["31 / 20", "0 / 0"]
    assert column(run, "parameters") == ["1,500", "-"]
    assert column(run, "cost") == ["3 s, 1.50 x", "2 s, 1.00 x"]


def test_failed_trials_have_a_table_with_the_line_that_replays_them(record, lines):
    rows = [lines.arm(0, {"preset": "p0"}), *(lines.trial(0, seed, value) for seed, value in enumerate(CONTROL))]
    assert not [table for table in summary.tables(record(lines.spec(), *rows)) if table.title == "Failed trials"]
    how = {"status": "failed", "why": "ValueError: no", "replay": "bfo-diag run a.toml", "traceback": "File a.py, 3"}
    rows += [lines.arm(1, {"preset": "p1"}, "failed"), lines.trial(1, 2, None, **how)]
    rows += [lines.arm(2, {"preset": "p2"}, "failed", why="never began")]
    run = record(lines.spec(), *rows)
    table = table_of(run, "Failed trials")
    assert texts(table) == [
        ["preset=p1", "2", "ValueError: no", "bfo-diag run a.toml"],
        ["preset=p2", "-", "never began", "-"],
    ]
    assert table.rows[0][2].evidence == (9,)
    (traces,) = summary.details(run)
    assert texts(traces) == [["preset=p1", "2", "File a.py, 3"]]
    (failed,) = summary.summarise(run)["failed"]
    assert failed == {
        "arm": 1,
        "label": "preset=p1",
        "seed": 2,
        "why": "ValueError: no",
        "recipe": {"of": 1},
        "traceback": "File a.py, 3",
        "replay": "bfo-diag run a.toml",
    }


def test_the_effects_and_the_spec_have_tables(record, lines):
    rows = []
    for number, (level, figures) in enumerate((("none", CONTROL), ("fold", BETTER))):
        rows.append(lines.arm(number, {"preset": level}))
        rows += [lines.trial(number, seed, value) for seed, value in enumerate(figures)]
    factors = [{"name": "preset", "values": ["none", "fold"]}, {"name": "lr", "low": 0.1, "high": 1, "log": True}]
    run = record(lines.spec(factors[0], control={"preset": "none"}), *rows)
    assert texts(table_of(run, "Effects")) == [
        ["preset", "none", "1", "2.233", "+0.05 [+0.0376, +0.0624]"],
        ["preset", "fold", "1", "2.133", "-0.05 [-0.0624, -0.0376]"],
    ]
    assert texts(table_of(run, "Sweep s")) == [
        ["sampler", "grid"],
        ["metric", "val_loss"],
        ["pruner", "none"],
        ["seeds", "0, 1, 2"],
        ["factor preset", "none, fold"],
        ["control preset", "none"],
        ["study", "s-1"],
        ["storage", "journal"],
    ]
    assert ["factor lr", "0.1 to 1, on a logarithmic scale"] in texts(
        table_of(record(lines.spec(*factors), *rows), "Sweep s")
    )


ONE = "1 arm beside the control: "


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        (
            (CONTROL, BETTER),
            "Best: preset=p1 beats the control beyond noise: val_loss 2.133 against 2.233, "
            f"-0.1 [-0.125, -0.0752] over 3 seeds. {ONE}1 better.",
        ),
        (
            (CONTROL, TIE),
            "No arm beats the control beyond noise. Best mean: preset=p1, but its difference to the control is a tie: "
            f"val_loss 2.217 against 2.233, -0.0167 [-0.299, +0.266] over 3 seeds. {ONE}1 tie.",
        ),
        ((CONTROL, WORSE), f"No arm beats the control, whose val_loss has the best mean. {ONE}1 worse."),
        (
            (CONTROL, (1.91, 2.41, 2.10), (1.0, 2.9, 2.1)),
            "preset=p1 beats the control beyond noise: val_loss 2.14 against 2.233, -0.0933 [-0.108, -0.079] over "
            "3 seeds; the best mean is that of preset=p2, but its difference to the control is a tie. "
            "2 arms beside the control: 1 better, 1 tie.",
        ),
        (
            (CONTROL, (1.90, 2.42, 2.075), *(TIE,) * 20),
            "No arm is sure to beat the control: preset=p1 does by itself, and not as one of 21 that were "
            "compared (Holm). Best mean: preset=p1, val_loss 2.132 against 2.233, -0.102 [-0.158, -0.0457] over 3 "
            "seeds. 21 arms beside the control: 1 better by itself, 20 tie.",
        ),
        (((None,) * 3, TIE), f"Nothing can be compared: the control failed. {ONE}1 not measured."),
        ((CONTROL, (None,) * 3), f"No arm can be compared: none but the control is complete. {ONE}1 failed."),
        (
            ((2.0, None, None), TIE),
            "No arm beats the control beyond noise. Best mean: preset=p1, but its difference is not measured: val_loss "
            f"2.217 against 2, 1 of 3 seeds have a figure for both. {ONE}1 not measured.",
        ),
        (((None,) * 3,) * 2, "Nothing was measured: no trial came to its end with a figure."),
    ],
)
def test_the_verdict_claims_what_is_beyond_noise_and_no_more(sweep_of, arms, said):
    assert verdict(sweep_of(*arms)) == said


def test_there_is_something_to_judge_once_a_trial_has_a_figure(record, lines, sweep_of):
    assert summary.measured(sweep_of(CONTROL))
    assert not summary.measured(sweep_of((None, None, None)))
    assert not summary.measured(sweep_of((math.nan,) * 3))
    refused = record(Observation("refused", {"message": "x"}), study=False)
    assert not summary.measured(refused)
    assert not list(summary.tables(refused))
    assert not list(summary.charts(refused))
    assert verdict(refused).startswith("Nothing was measured")


def test_a_verdict_by_itself_is_told_from_one_among_many(sweep_of):
    shown = column(sweep_of(CONTROL, (1.90, 2.42, 2.075), *(TIE,) * 20), "verdict")
    assert shown[0] == "better, by itself"


def test_the_summary_holds_the_figures_and_is_plain_json(sweep_of):
    found = summary.summarise(sweep_of(CONTROL, BETTER, (None, 2.0, 2.0)))
    dumps(found)
    assert found["arms"] == {"complete": 2, "pruned": 0, "unfinished": 0, "partly_failed": 1, "failed": 0}
    first, control, partly = found["leaderboard"]
    assert (first["rank"], first["verdict"], first["stands_among_all"]) == (1, "better", True)
    assert first["by_seed"] == {"0": 1.90, "1": 2.41, "2": 2.09}
    assert first["metric"]["mean"] == pytest.approx(6.4 / 3)
    assert first["difference"]["by_seed"] == pytest.approx({"0": -0.1, "1": -0.09, "2": -0.11})
    assert first["difference"]["interval"]["low"] == pytest.approx(-0.1 - 0.01 * 4.30265273 / math.sqrt(3))
    assert first["curve"] == [[1, pytest.approx(12.8 / 3)], [2, pytest.approx(6.4 / 3)]]
    assert (control["difference"], control["chance_among_all"]) == (None, None)
    assert (partly["rank"], partly["why"], partly["metric"]["seeds"]) == (None, "boom", 2)
    assert partly["by_seed"] == {"1": 2.0, "2": 2.0}


def test_a_report_without_times_and_places_is_the_same_whoever_ran_it(record, lines):
    def run(seconds, study, before=()):
        rows = []
        for number, figures in enumerate((CONTROL, BETTER, TIE)):
            rows.append(lines.arm(number, {"preset": f"p{number}"}))
            rows += [lines.trial(number, s, v, seconds=seconds + s) for s, v in enumerate(figures)]
        return record(lines.spec(study=study), *rows, before=before)

    whole = summary.summarise(run(1.0, "a"))
    resumed = summary.summarise(run(5.0, "b", before=[lines.trial(2, 0, 1.95), lines.arm(2, {}, "running")]))
    assert whole.pop("cost") != resumed.pop("cost")
    assert whole.pop("study") != resumed.pop("study")
    assert whole == resumed


def test_identical_arms_and_effects_are_in_the_summary(record, lines):
    rows = []
    for number, level in enumerate((0.1, 0.2)):
        rows.append(lines.arm(number, {"fraction": level}))
        rows += [lines.trial(number, seed, value, digest=str(seed)) for seed, value in enumerate(CONTROL)]
    found = summary.summarise(record(lines.spec({"name": "fraction", "values": [0.1, 0.2]}), *rows))
    assert found["identical"] == [{"arms": [0, 1], "without_effect": ["fraction"]}]
    assert found["effects"]["balanced"]
    assert [level["effect"] for level in found["effects"]["levels"]] == [0.0, 0.0]
    assert found["effects"]["levels"][1]["arms"] == [1]


def test_the_lineage_of_each_seed_is_in_the_summary(record, lines):
    rows = [lines.arm(0, {"preset": "none"})]
    rows += [lines.trial(0, seed, 2.0 + seed, lineage={"founders": seed} if seed else None) for seed in range(3)]
    (arm,) = summary.summarise(record(lines.spec(), *rows))["leaderboard"]
    assert arm["lineage"] == {"1": {"founders": 1}, "2": {"founders": 2}}
