"""A whole training: against one written by hand, how it ends, and that another goes on from each of its checkpoints."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from bfo_diag import api
from bfo_diag.errors import DiagError
from bfo_diag.records import Observation
from bfo_diag.training import checkpoint, data, loop
from bfo_diag.training.recipe import Data, Training

pytestmark = pytest.mark.usefixtures("fresh_imports")


def of(seen, kind):
    return [observation.values for observation in seen if observation.kind == kind]


def test_a_training_without_folds_is_the_usual_loop(train, recipe):
    tables = {"model": {"dropout": 0.3}, "training": {"epochs": 3}}
    seen = train(**tables)
    made = recipe(**tables)
    samples = data.load(made.data, "cpu")
    torch.manual_seed(0)
    order = torch.Generator().manual_seed(0)
    permutation = torch.randperm(120, generator=order)
    held, rest = permutation[:24], permutation[24:]
    model = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for epoch in of(seen, "epoch"):
        shuffled = rest[torch.randperm(96, generator=order)]
        losses = []
        for batch in shuffled.split(16):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(samples.inputs[batch]), samples.targets[batch])
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert epoch["train_loss"] == pytest.approx(math.fsum(losses) / 6, abs=1e-12)
        model.eval()
        logits = model(samples.inputs[held]).detach()
        model.train()
        assert epoch["val_loss"] == pytest.approx(
            float(nn.functional.cross_entropy(logits, samples.targets[held])), abs=1e-6
        )
        assert epoch["val_accuracy"] == float((logits.argmax(-1) == samples.targets[held]).sum()) / 24
    assert [(e["epoch"], e["steps"], e["lr"]) for e in of(seen, "epoch")] == [
        (1, 6, 0.01),
        (2, 12, 0.01),
        (3, 18, 0.01),
    ]


@pytest.mark.parametrize(("min_delta", "kept"), [(0.0, 2), (50.0, 1)])
def test_each_fold_has_a_fresh_model_and_leaves_its_best_weights(train, tmp_path, recipe, min_delta, kept):
    # (In the second case the second epoch is better, and not by enough: what is left is not the last epoch's.)
    tables = {"training": {"epochs": 2, "folds": 3, "min_delta": min_delta}, "optimizer": {"lr": 0.03}}
    seen = train(raw=tmp_path / "raw", **tables)
    epochs, ends = of(seen, "epoch"), of(seen, "fold_end")
    assert [(e["fold"], e["epoch"]) for e in epochs] == [(fold, epoch) for fold in (1, 2, 3) for epoch in (1, 2)]
    assert all(e["train_loss"] > 1.5 for e in epochs if e["epoch"] == 1), "an untrained model guesses at log(10)"
    assert len({e["train_loss"] for e in epochs}) == 6
    trainer = loop.Trainer(recipe(**tables), tmp_path, device="cpu", raw=None)
    for end in ends:
        best = [e for e in epochs if e["fold"] == end["fold"]][kept - 1]
        assert (end["best_epoch"], end["why"], end["epochs"]) == (kept, "epochs", 2)
        model = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
        model.load_state_dict(torch.load(tmp_path / end["weights"], weights_only=True))
        _, held = trainer.splits[end["fold"] - 1]
        logits = model(trainer.samples.inputs[held]).detach()
        loss = nn.functional.cross_entropy(logits, trainer.samples.targets[held])
        assert float(loss) == pytest.approx(best["val_loss"], abs=1e-6)


def test_a_fold_ends_when_no_epoch_was_better_for_so_long(train):
    seen = train(training={"epochs": 50, "patience": 3, "min_delta": 100.0})
    (end,) = of(seen, "fold_end")
    assert (end["why"], end["best_epoch"], end["epochs"]) == ("patience", 1, 4)
    seen = train(training={"epochs": 4, "patience": 3})
    (end,) = of(seen, "fold_end")
    assert (end["why"], end["best_epoch"], end["epochs"]) == ("epochs", 4, 4)


def test_a_loss_that_is_not_finite_ends_the_fold_with_the_weights_before_it(train, tmp_path):
    seen = train(raw=tmp_path / "raw", optimizer={"name": "SGD", "lr": 1e30}, training={"folds": 2, "epochs": 5})
    ends = of(seen, "fold_end")
    assert [end["why"] for end in ends] == ["diverged", "diverged"]
    assert "the training loss of step" in ends[0]["diverged"]
    number = int(ends[0]["diverged"].partition("step ")[2].partition(" ")[0])
    assert 2 <= number <= ends[0]["steps"]
    assert math.isnan(of(seen, "epoch")[-1]["train_loss"])
    if ends[0]["best_epoch"] is None:
        assert ends[0]["weights"] is None
        assert not (tmp_path / "raw" / "model-fold-1.pt").exists()


def test_gradients_are_measured_at_every_so_many_steps(train):
    seen = train(telemetry={"every": 2}, training={"folds": 2})
    measured = [(values["fold"], values["step"]) for values in of(seen, "gradients")]
    assert measured == [(1, 2), (1, 4), (1, 6), (2, 2), (2, 4), (2, 6)]  # 3 batches of 16 in each of two epochs
    assert all(values["total_norm"] > 0 for values in of(seen, "gradients"))
    assert not of(train(), "gradients")


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        (
            {"optimizer": {"name": "HybridBFO", "lr": None}, "training": {"clip_norm": 1.0}},
            "clip_norm does not go with",
        ),
        ({"optimizer": {"name": "BFO", "lr": None}, "telemetry": {"every": 1}}, "telemetry does not go with BFO"),
        ({"training": {"folds": 121}}, "too few"),
    ],
)
def test_what_can_have_no_effect_is_refused(train, tables, said):
    with pytest.raises(DiagError, match=said):
        train(**tables)


USERS = """
import torch
class Fails(torch.nn.Linear):
    def __init__(self):
        super().__init__(64, 10)
        self.calls = 0
    def forward(self, x):
        self.calls += 1
        if self.calls == 3:
            raise ZeroDivisionError("of the user's")
        return super().forward(x)
def fails_at_once():
    raise ZeroDivisionError("of the user's")
"""


@pytest.mark.parametrize(
    ("name", "phase", "step", "line"), [("Fails", "step", 3, 10), ("fails_at_once", "make", None, 13)]
)
def test_what_a_users_model_raises_is_on_record_as_theirs(train, tmp_path, name, phase, step, line):
    (tmp_path / "models_of_a_user.py").write_text(USERS)
    model = {"name": None, "width": None, "factory": f"models_of_a_user.py:{name}"}
    seen = train(model=model, data={"validation": 0.1})
    (raised,) = [observation for observation in seen if observation.kind == "raised"]
    assert (raised.values["phase"], raised.values["by_target"]) == (phase, True)
    assert raised.values["type"] == "ZeroDivisionError"
    assert raised.place.line == line
    assert raised.place.step == step


def test_what_torch_raises_of_a_users_model_is_no_defect_of_ours(train, tmp_path):
    (tmp_path / "narrow_of_a_user.py").write_text("import torch\ndef net():\n    return torch.nn.Linear(3, 10)\n")
    model = {"name": None, "width": None, "factory": "narrow_of_a_user.py:net"}
    (raised,) = [observation for observation in train(model=model) if observation.kind == "raised"]
    assert raised.values["by_target"]
    assert "shapes cannot be multiplied" in raised.values["message"]


GOES_ON = {
    "Adam": {"model": {"dropout": 0.3}, "training": {"epochs": 3, "folds": 2}},
    "HybridBFO": {
        "optimizer": {"name": "HybridBFO", "lr": None, "population_size": 4, "swim_length": 1, "chem_steps": 3},
        "model": {"dropout": 0.3},
        "training": {"epochs": 2, "folds": 2},
    },
    "patience": {"training": {"epochs": 9, "folds": 2, "patience": 1, "min_delta": 0.1}, "telemetry": {"every": 2}},
    "diverging": {"optimizer": {"name": "SGD", "lr": 1e30}, "training": {"epochs": 5, "folds": 2}},
}


@pytest.mark.parametrize("name", GOES_ON)
def test_from_each_checkpoint_another_comes_to_the_very_same_end(goes_on, name):
    goes_on(**GOES_ON[name])


def test_who_goes_on_has_a_checkpoint_before_an_epoch_of_its_own_ends(recipe, tmp_path, train, same):
    tables = GOES_ON["Adam"]
    train(raw=tmp_path / "first", until=3, **tables)
    state = checkpoint.load(tmp_path / "first" / checkpoint.FILE)
    (tmp_path / "second").mkdir()
    trainer = loop.Trainer(recipe(**tables), tmp_path, device="cpu", raw=tmp_path / "second")
    next(said for said in trainer.run(state) if not isinstance(said, Observation))
    assert same(checkpoint.load(tmp_path / "second" / checkpoint.FILE), state)


def test_what_goes_on_promises_no_weights_that_it_does_not_have(train, tmp_path):
    tables = GOES_ON["Adam"]
    train(raw=tmp_path / "first", until=5, **tables)
    state = checkpoint.load(tmp_path / "first" / checkpoint.FILE)
    assert state["fold"] == 1
    resumed = train(raw=tmp_path / "second", state=state, **tables)
    assert [end["weights"] for end in of(resumed, "fold_end")] == [None, "raw/model-fold-2.pt"]


def test_the_first_bad_gradient_is_told_again_by_who_goes_on(train, tmp_path):
    tables = {**GOES_ON["diverging"], "telemetry": {"every": 1}}
    whole = train(raw=tmp_path / "raw", **tables)
    bad = [values for values in of(whole, "gradients") if values["nonfinite"]]
    assert len(bad) > 1
    state = checkpoint.load(tmp_path / "raw" / checkpoint.FILE)
    again = train(raw=tmp_path / "again", state=state, **tables)
    assert repr(of(again, "gradients")) == repr(bad[:1])


def test_a_recipe_is_trained_from_python_and_torchs_random_numbers_are_as_they_were(write):
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    seen = api.examine("run", str(write()))
    assert torch.equal(torch.rand(1), expected)
    assert seen.report.verdict.startswith("Validation loss ")
    assert [observation.kind for observation in seen.run.observations] == [
        "case",
        "recipe",
        "data",
        "epoch",
        "epoch",
        "fold_end",
    ]
    assert seen.run.header.case.kind == "recipe"
    assert seen.run.header.case.name == "small"


def test_a_training_is_the_same_whatever_was_trained_before(recipe, tmp_path):
    one = recipe(model={"dropout": 0.3}, training={"folds": 2}, compile={"enabled": True, "backend": "eager"})
    other = recipe(optimizer={"name": "HybridBFO", "lr": None, "population_size": 4, "swim_length": 1})

    def digests(made, raw):
        torch.rand(3)
        said = [seen for seen in loop.train(made, tmp_path, device="cpu", raw=raw) if isinstance(seen, Observation)]
        assert said[0].kind == "data"
        assert of(said, "fold_end")[0]["weights"] == (None if raw is None else "raw/model-fold-1.pt")
        return [end["digest"] for end in of(said, "fold_end")]

    alone, others = digests(one, tmp_path / "a" / "b"), digests(other, None)
    assert (tmp_path / "a" / "b" / "model-fold-2.pt").is_file()
    assert digests(one, None) == alone
    assert digests(other, tmp_path / "c") == others
    assert len({*alone, *others}) == 3


def test_the_digest_is_of_the_losses_and_of_the_last_weights(train, same):
    def digest(**tables):
        return of(train(**tables), "fold_end")[0]["digest"]

    assert digest() == digest()
    assert len(digest()) == 64
    assert digest() != digest(training={"epochs": 1})
    # (The weights are those of before; the loss is that of other samples.)
    frozen = {"optimizer": {"name": "SGD", "lr": 0.0}}
    assert digest(**frozen) == digest(optimizer={"name": "SGD", "lr": 0.0, "momentum": 0.5})
    assert digest(**frozen) != digest(**frozen, data={"validation": 0.5})


def test_a_fold_ends_with_the_spread_of_its_last_losses_its_size_and_its_time(train):
    seen = train(telemetry={"every": 0}, training={"epochs": 2}, data={"validation": 0.5, "batch_size": 20})
    (end,) = of(seen, "fold_end")
    assert end["parameters"] == 64 * 8 + 8 + 8 * 10 + 10
    assert end["fold_s"] == pytest.approx(sum(epoch["epoch_s"] for epoch in of(seen, "epoch")))
    samples, (rest, _) = _split(0.5)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    order = torch.Generator().manual_seed(0)
    torch.randperm(120, generator=order)
    for _ in range(2):
        losses = []
        for batch in rest[torch.randperm(60, generator=order)].split(20):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(samples.inputs[batch]), samples.targets[batch])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert end["loss_variance"] == pytest.approx(float(torch.tensor(losses, dtype=torch.float64).var()))
    one_batch = {"data": {"batch_size": 96}}
    assert of(train(**one_batch), "fold_end")[0]["loss_variance"] is None
    assert of(train(optimizer={"name": "SGD", "lr": 1e30}), "fold_end")[0]["loss_variance"] is None


def _split(validation):
    samples = data.load(Data("digits", samples=120), "cpu")
    order = torch.Generator().manual_seed(0)
    return samples, data.folds(120, Data("digits", validation=validation), Training(), order)[0]


WRONG = """
import torch
def raises():
    raise ZeroDivisionError("of the user's")
"""


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"optimizer": {"lr": -1.0}}, "Invalid learning rate"),
        ({"optimizer": {"name": "Adam", "speed": 1.0}}, "takes no such argument"),
        ({"optimizer": {"name": "Muon", "lr": None}}, "optimizer Muon"),
        ({"optimizer": {"name": "HybridBFO", "lr": None}, "training": {"clip_norm": 1.0}}, "clip_norm"),
        ({"compile": {"enabled": True, "backend": "no-such"}}, "no such backend"),
        (
            {"model": {"name": None, "width": None, "factory": "wrong_of_a_user.py:raises"}},
            "model.factory: ZeroDivisionError: of the user's",
        ),
    ],
)
def test_a_check_finds_what_is_wrong_before_anything_is_trained(recipe, tmp_path, tables, said):
    (tmp_path / "wrong_of_a_user.py").write_text(WRONG)
    trainer = loop.Trainer(recipe(**tables), tmp_path, device="cpu", raw=None)
    before = torch.get_rng_state()
    with pytest.raises(DiagError, match=said):
        trainer.check()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_check_changes_nothing(recipe, tmp_path):
    made = recipe(model={"dropout": 0.3}, training={"folds": 2})

    def trained(*, check):
        torch.manual_seed(0)
        trainer = loop.Trainer(made, tmp_path, device="cpu", raw=tmp_path)
        if check:
            trainer.check()
            assert not list(tmp_path.glob("*.pt"))
        return [end["digest"] for end in of([s for s in trainer.run() if isinstance(s, Observation)], "fold_end")]

    assert trained(check=True) == trained(check=False)
