"""Neurons that turn over while a recipe trains: what goes on record, and that another goes on from each checkpoint."""

from __future__ import annotations

import pytest
import torch

from bfo_diag.errors import DiagError
from bfo_diag.records import Observation
from bfo_diag.training import checkpoint, loop, turnover
from bfo_diag.training.fold import Fold
from bfo_diag.training.recipe import PRESETS, Training, Turnover
from bfo_diag.training.step import Step

pytestmark = pytest.mark.usefixtures("fresh_imports")
SMALL = {"model": {"width": 10, "dropout": 0.2}, "training": {"epochs": 2}}


def of(seen, kind):
    return [observation.values for observation in seen if observation.kind == kind]


def counted(events, kind):
    return sum(len(event["neurons"]) for event in events if event["kind"] == kind)


@pytest.mark.parametrize("preset", PRESETS[1:])
def test_each_preset_trains_and_its_events_add_up(train, preset):
    seen = train(**SMALL, turnover={"preset": preset, "every": 4, "fraction": 0.2})
    events, (summary,), (end,) = of(seen, "turnover"), of(seen, "turnover_summary"), of(seen, "fold_end")
    assert (end["why"], end["epochs"]) == ("epochs", 2)
    assert summary["preset"] == preset
    assert counted(events, "birth") == summary["births"] > 0
    assert counted(events, "death") == summary["deaths"]
    (layer,) = summary["widths"].values()
    grows = preset == "growth"
    assert (layer["first"], layer["last"]) == (10, 15 if grows else 10)
    assert layer["births"] - layer["deaths"] == layer["last"] - layer["first"]
    assert end["parameters"] == 65 * layer["last"] + 10 * (layer["last"] + 1)
    dead = {neuron for event in events if event["kind"] == "death" for neuron in event["neurons"]}
    assert summary["founders_alive"] == layer["founders_alive"] == 10 - len(dead & {*range(10)})
    assert (summary["jumps"], summary["jump_mean"], summary["jump_max"]) == (0, None, None)
    assert all(event["fold"] == 1 and event["loss_before"] is None for event in events)
    assert summary["lineage"]["left_out"] == 0
    assert [node[1] for node in summary["lineage"]["nodes"] if node[3]] == [
        neuron for event in events if event["kind"] == "birth" for neuron in event["neurons"]
    ]


def test_without_a_preset_nothing_is_attached_and_nothing_told(train):
    seen = train(turnover={"preset": "none", "every": 1})
    assert not of(seen, "turnover_summary")
    assert of(seen, "fold_end")[0]["digest"] == of(train(), "fold_end")[0]["digest"]


def test_the_loss_around_a_turnover_is_of_what_is_held_back_and_changes_nothing(train):
    turnover = {"preset": "standard", "every": 6, "fraction": 0.2}  # at the last step of each epoch
    plain = train(**SMALL, turnover=turnover)
    seen = train(**SMALL, turnover={**turnover, "measure": True})
    epochs, events = of(seen, "epoch"), of(seen, "turnover")
    losses = {event["step"]: (event["loss_before"], event["loss_after"]) for event in events}
    assert [*losses] == [6, 12]
    for epoch in epochs:
        before, after = losses[epoch["steps"]]
        assert after == pytest.approx(epoch["val_loss"], abs=1e-6)
        assert before != after
    (summary,) = of(seen, "turnover_summary")
    jumps = [abs(after - before) for before, after in losses.values()]
    assert (summary["jumps"], summary["jump_max"]) == (2, max(jumps))
    assert summary["jump_mean"] == pytest.approx(sum(jumps) / 2)
    assert of(seen, "fold_end")[0]["digest"] == of(plain, "fold_end")[0]["digest"]


def test_each_fold_begins_with_the_widths_of_its_fresh_model(train):
    seen = train(training={"folds": 2}, turnover={"preset": "growth", "every": 2, "grow_to": 11, "fraction": 0.2})
    widths = [summary["widths"]["0"] for summary in of(seen, "turnover_summary")]
    assert [(width["first"], width["last"]) for width in widths] == [(8, 11), (8, 11)]
    assert {event["fold"] for event in of(seen, "turnover")} == {1, 2}
    assert [event["step"] for event in of(seen, "turnover") if event["fold"] == 2] == [2, 4]


GOES_ON = {
    "growth": {"training": {"epochs": 3, "folds": 2, "clip_norm": 1.0}, "telemetry": {"every": 2}},
    "hybrid": {"training": {"epochs": 3}},
    "fade": {"training": {"epochs": 3}, "optimizer": {"name": "AdamW", "lr": 0.01, "amsgrad": True}},
    "standard": {"shift": {"kind": "permute", "epochs": [1, 1, 1]}, "training": {"epochs": None}},
}


@pytest.mark.parametrize("preset", GOES_ON)
def test_from_each_checkpoint_another_comes_to_the_very_same_end(goes_on, preset):
    turnover = {"preset": preset, "every": 4, "fraction": 0.2, "measure": preset == "fade"}
    tables = {"model": {"width": 10, "dropout": 0.2}, **GOES_ON[preset], "turnover": turnover}
    seen = goes_on(**tables)
    assert of(seen, "turnover")
    assert of(seen, "turnover_summary")[0]["births"] > 1


def test_a_checkpoint_of_another_turnover_is_refused(train, recipe, tmp_path):
    tables = {**SMALL, "turnover": {"preset": "growth", "every": 4}}
    train(raw=tmp_path / "raw", **tables)
    state = checkpoint.load(tmp_path / "raw" / checkpoint.FILE)
    other = recipe(**{**SMALL, "turnover": {"preset": "growth", "every": 5}})
    trainer = loop.Trainer(other, tmp_path, device="cpu", raw=None)
    with pytest.raises(DiagError, match=r"turnover\.every: 4 there, 5 here"):
        checkpoint.refuse_another(state, trainer.identity, tmp_path)


def test_growth_under_compile_is_audited_and_trains_as_eagerly_in_every_fold(train):
    # (Two folds, as they would without torch forgetting the first, reach dynamo's limit of 8 graphs.)
    tables = {"training": {"folds": 2, "epochs": 1}, "turnover": {"preset": "growth", "every": 1, "grow_to": 10}}
    eager = train(**tables)
    seen = train(**tables, compile={"enabled": True, "backend": "eager"})
    assert [end["digest"] for end in of(seen, "fold_end")] == [end["digest"] for end in of(eager, "fold_end")]
    for summary in of(seen, "turnover_summary"):
        events = [event["step"] for event in of(seen, "turnover") if event["fold"] == summary["fold"]]
        assert [audit["step"] for audit in summary["audits"]] == [step + 1 for step in events]
        assert all(audit["status"] == "APPLIED" and audit["recompiles"] for audit in summary["audits"])
    reports = [report for report in of(seen, "compile_report") if report["calls"] > 4]
    assert [report["fold"] for report in reports] == [1, 2]
    assert all(report["status"] == "APPLIED" and not report["limit_hits"] for report in reports)


def test_a_step_that_is_tried_for_the_compile_policy_is_none(recipe, tmp_path):
    trainer = loop.Trainer(recipe(**SMALL, turnover={"preset": "growth", "every": 2}), tmp_path, device="cpu", raw=None)
    begun = trainer._begun(Fold(0))
    batch = trainer.samples.at(torch.arange(16))
    begun.train(*batch, None)
    with begun.paused():
        begun.train(*batch, None)
        begun.train(*batch, None)
    assert not list(begun.events())
    begun.train(*batch, None)
    assert [event.values["step"] for event in begun.events()] == [2]
    assert not list(begun.events()), "each is told once"


def test_audits_of_the_run_that_was_stopped_are_kept():
    def made():
        model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
        step = Step(model, torch.optim.SGD(model.parameters(), lr=0.1), Training(), "cpu")
        return turnover.Turnover(Turnover("growth"), step, fold=2, seed=0, policy=None, measure=None)

    audit = {"step": 7, "status": "PARTIAL", "reason": "1 graph break", "recompiles": 1}
    later = made()
    later.load({**made().state(), "audits": [audit]})
    assert later.summary().values["audits"] == [audit]
    assert later.state()["audits"] == [audit]


REFUSED = """
import torch
class Twice(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.block = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10))
    def forward(self, x):
        if x.sum() < 0:  # torch.fx can't follow it
            return self.block(x)
        return self.block(x) + 0 * self.block[0](x).sum()
"""


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"turnover": {"preset": "hybrid", "layers": "fc*"}}, "layers='fc\\*' matches no module"),
        ({"turnover": {"preset": "hybrid"}, "optimizer": {"name": "Adafactor"}}, "Adafactor"),
        ({"turnover": {"preset": "growth", "grow_to": 3}}, "grow_to is 3"),
    ],
)
def test_what_can_not_turn_over_is_refused_before_anything_is_trained(recipe, tmp_path, tables, said):
    trainer = loop.Trainer(recipe(**tables), tmp_path, device="cpu", raw=None)
    for run in (trainer.check, lambda: list(trainer.run())):
        with pytest.raises(DiagError, match=r"\[turnover\] of the recipe") as caught:
            run()
        assert caught.match(said)


def test_what_turns_out_in_training_is_refused_in_words_too(recipe, tmp_path):
    (tmp_path / "twice_of_a_user.py").write_text(REFUSED)
    model = {"name": None, "width": None, "factory": "twice_of_a_user.py:Twice"}
    trainer = loop.Trainer(
        recipe(model=model, turnover={"preset": "hybrid", "every": 2}), tmp_path, device="cpu", raw=None
    )
    seen = []
    with pytest.raises(DiagError, match=r"\[turnover\] of the recipe.*block\.0"):
        seen.extend(said for said in trainer.run() if isinstance(said, Observation))
    assert not seen


def test_the_transformers_blocks_turn_over(train):
    tables = {
        "data": {"name": "text", "samples": 60, "context": 8},
        "model": {"name": "char-transformer", "width": 4, "depth": 2},
        "turnover": {"preset": "functional", "every": 2, "fraction": 0.2, "layers": ["blocks.*.mlp.0"]},
        "training": {"epochs": 1},
    }
    torch.manual_seed(3)
    (summary,) = of(train(**tables), "turnover_summary")
    assert [*summary["widths"]] == ["blocks.0.mlp.0", "blocks.1.mlp.0"]
    assert all(width["deaths"] == width["births"] > 0 for width in summary["widths"].values())
