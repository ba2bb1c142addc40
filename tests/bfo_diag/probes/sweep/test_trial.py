from __future__ import annotations

from types import SimpleNamespace

import pytest

from bfo_diag.attempt import TimeLimitReached
from bfo_diag.errors import DiagError
from bfo_diag.probes.sweep import pruning, trial
from bfo_diag.records import Observation
from bfo_diag.shown import Progress
from bfo_diag.training import loop, reading

RECIPE = """
seed = 4
data = { name = "digits", samples = 120, batch_size = 16 }
model = { name = "mlp", width = 8 }
optimizer = { name = "AdamW", lr = 0.01 }
training = { epochs = 3 }
"""
REQUEST = SimpleNamespace(device="cpu")


@pytest.fixture
def train(tmp_path):
    def call(recipe: str = RECIPE, **options):
        (tmp_path / "r.toml").write_text(recipe)
        given = {"arm": 2, "seed": 4, "recipe": str(tmp_path / "r.toml"), "replay": "again"}
        seen = list(trial.trial(REQUEST, **given, **{"pruning": None, "events": True, **options}))
        return [one for one in seen if not isinstance(one, Progress)]

    return call


def test_a_trial_has_the_figures_of_its_best_epoch(train, tmp_path):
    (told,) = train()
    values = dict(told.values)
    (tmp_path / "r.toml").write_text(RECIPE)
    recipe = reading.read(str(tmp_path / "r.toml"))
    lines = [one for one in loop.train(recipe, tmp_path, device="cpu") if isinstance(one, Observation)]
    epochs = [one.values for one in lines if one.kind == "epoch"]
    (end,) = [one.values for one in lines if one.kind == "fold_end"]
    best = min(epochs, key=lambda epoch: epoch["val_loss"])
    assert values.pop("seconds") > 0
    assert values == {
        **{"arm": 2, "seed": 4, "status": "complete", "why": "", "traceback": None, "replay": "again"},
        **{name: best[name] for name in ("val_loss", "val_accuracy", "train_loss")},
        **{name: end[name] for name in ("best_epoch", "epochs", "steps", "loss_variance", "parameters", "digest")},
        "curve": [[epoch["epoch"], epoch["val_loss"]] for epoch in epochs],
        **{"births": 0, "deaths": 0, "jump_mean": None, "jump_max": None, "lineage": None, "events": None},
    }
    assert values["parameters"] == 64 * 8 + 8 + 8 * 10 + 10


def test_births_and_deaths_are_kept_with_their_figures_and_on_wish_one_by_one(train):
    turnover = RECIPE + 'turnover = { preset = "standard", every = 5, fraction = 0.25, measure = true }\n'
    (told,) = train(turnover)
    values = told.values
    assert values["births"] == values["deaths"] > 0
    assert values["jump_max"] >= values["jump_mean"] >= 0
    assert values["lineage"]["founders"] == 8
    assert values["lineage"]["events"] == len(values["events"])
    births = sum(len(event["neurons"]) for event in values["events"] if event["kind"] == "birth")
    assert births == values["births"]
    assert "fold" not in values["events"][0]
    (without,) = train(turnover, events=False)
    assert without.values["events"] is None
    assert without.values["digest"] == values["digest"]


def test_what_diverges_has_no_figure_that_could_be_ranked(train):
    (told,) = train(RECIPE.replace('"AdamW", lr = 0.01', '"SGD", lr = 1e38'))
    values = told.values
    assert values["status"] == "failed"
    assert values["why"].startswith("it diverged: the ")
    assert (values["val_loss"], values["val_accuracy"], values["best_epoch"]) == (None, None, None)
    assert values["epochs"] == 1
    assert len(values["curve"]) == 1


def test_what_is_refused_while_it_trains_is_a_failed_trial(train, monkeypatch):
    def refuse(*_, **__):
        yield from ()
        raise DiagError("that does not go", mend="leave it out", detail="line 3")

    monkeypatch.setattr(loop, "train", refuse)
    (told,) = train()
    assert (told.values["status"], told.values["why"]) == ("failed", "that does not go (leave it out)")
    assert told.values["traceback"] == "line 3"


@pytest.mark.parametrize("error", [MemoryError("no more"), RuntimeError("no more")])
def test_what_raises_anywhere_is_a_failed_trial(train, monkeypatch, error):
    def fail(*_, **__):
        yield from ()
        raise error

    monkeypatch.setattr(loop, "train", fail)
    (told,) = train()
    assert (told.values["status"], told.values["why"]) == ("failed", f"{type(error).__name__}: no more")
    assert "no more" in told.values["traceback"]


def test_a_trial_whose_time_is_up_has_no_result(train, monkeypatch):
    def late(*_, **__):
        yield from ()
        raise TimeLimitReached

    monkeypatch.setattr(loop, "train", late)
    assert [one.kind for one in train()] == ["timed_out"]


def test_an_arm_that_is_hopeless_ends_with_what_it_has(train, monkeypatch):
    asked = []

    class Watch:
        def __init__(self, **options):
            assert options == {"number": 7}

        def __call__(self, epoch):
            asked.append(epoch["epoch"])
            return len(asked) == 2

    monkeypatch.setattr(pruning, "Watch", Watch)
    (told,) = train(pruning={"number": 7})
    values = told.values
    assert asked == [1, 2]
    assert (values["status"], values["epochs"], values["steps"]) == ("pruned", 2, 12)
    assert values["why"].startswith("after epoch 2 it was worse than the median")
    assert values["val_loss"] == min(loss for _, loss in values["curve"])
    assert values["seconds"] > 0
    assert values["digest"] is None


def test_every_arm_is_built_and_the_one_that_can_not_be_is_named(tmp_path):
    tables = {"data": {"name": "digits", "samples": 60}, "model": {"name": "mlp"}, "optimizer": {"name": "Adam"}}
    good = {"label": "good", "tables": tables}
    seen = list(trial.check(REQUEST, recipes=[good, good], folder=str(tmp_path)))
    assert [one.doing for one in seen[:2]] == ["checking good"] * 2
    assert (seen[-1].kind, seen[-1].values) == ("checked", {"arms": 2, "device": "cpu"})
    wrong = {"label": "lr=-1", "tables": {**tables, "optimizer": {"name": "Adam", "lr": -1.0}}}
    with pytest.raises(DiagError, match=r"the arm lr=-1: optimizer Adam with lr = -1\.0"):
        list(trial.check(REQUEST, recipes=[good, wrong], folder=str(tmp_path)))
    unread = {"label": "no", "tables": {**tables, "optimizer": {}}}
    with pytest.raises(DiagError, match=r"^the arm no: optimizer\.name is missing"):
        list(trial.check(REQUEST, recipes=[unread], folder=str(tmp_path)))
