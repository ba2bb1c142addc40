"""A shift A -> B -> A: what B is, and the figures against a training written by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bfo_diag.training import data
from bfo_diag.training.recipe import Data, Training
from bfo_diag.training.shifting import shifted

SHIFT = {
    "model": {"width": 16, "dropout": 0.2},
    "optimizer": {"lr": 0.03},
    "training": {"epochs": None},
    "data": {"validation": 0.25},
}
PERMUTED = {**SHIFT, "shift": {"kind": "permute", "epochs": [4, 2, 3], "check_every": 3}}
LABELS = {**SHIFT, "shift": {"kind": "labels", "epochs": [8, 6, 1], "check_every": 1}}


def of(seen, kind):
    return [observation.values for observation in seen if observation.kind == kind]


def test_permuted_digits_are_the_same_pixels_in_another_order():
    a = data.load(Data("digits", samples=50), "cpu")
    torch.manual_seed(1)
    b = shifted(a, "permute")
    assert torch.equal(b.targets, a.targets)
    assert not torch.equal(b.inputs, a.inputs)
    assert torch.equal(b.inputs.sort(dim=1).values, a.inputs.sort(dim=1).values)
    order = [(a.inputs == b.inputs[:, index, None]).all(dim=0).nonzero().flatten().tolist() for index in range(64)]
    assert all(order), "one order for all images"
    torch.manual_seed(2)
    assert torch.equal(shifted(a, "permute").inputs, b.inputs), "whatever the seed"


def test_permuted_text_is_the_same_text_in_another_alphabet():
    a = data.load(Data("text", samples=40, context=16), "cpu")
    b = shifted(a, "permute")
    assert torch.equal(b.inputs[:, 1:], b.targets[:, :-1])
    pairs = {*zip(a.inputs.flatten().tolist(), b.inputs.flatten().tolist(), strict=True)}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    assert sum(a != b for a, b in pairs) > len(pairs) / 2
    assert int(b.inputs.max()) < b.classes


def test_rotated_labels_leave_the_images_alone():
    a = data.load(Data("digits", samples=50), "cpu")
    b = shifted(a, "labels")
    assert torch.equal(b.inputs, a.inputs)
    assert [(one + 1) % 10 for one in a.targets.tolist()] == b.targets.tolist()


class ByHand:
    """The same training in plain torch: Adam on batches of 16, a quarter of 120 digits held back."""

    def __init__(self, kind):
        samples = data.load(Data("digits", samples=120), "cpu")
        self.samples = {"A": samples, "B": shifted(samples, kind)}
        self.order = torch.Generator().manual_seed(0)
        ((self.train, self.held),) = data.folds(120, Data("digits", validation=0.25), Training(), self.order)
        self.begin()

    def begin(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 10))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.03)

    def steps(self, of):
        for batch in data.shuffled(self.train, 16, self.order):
            self.optimizer.zero_grad()
            inputs, targets = self.samples[of].at(batch)
            nn.functional.cross_entropy(self.model(inputs), targets).backward()
            self.optimizer.step()
            yield

    def epoch(self, of):
        for _ in self.steps(of):
            pass

    def loss(self, of):
        inputs, targets = self.samples[of].at(self.held)
        self.model.eval()
        logits = self.model(inputs).detach()
        self.model.train()
        return float(nn.functional.cross_entropy(logits, targets))


@pytest.mark.parametrize("tables", [PERMUTED, LABELS])
def test_losses_forgetting_plasticity_and_steps_are_those_of_a_training_by_hand(train, tables):
    seen = train(**tables)
    hand = ByHand(tables["shift"]["kind"])
    phases = [*zip("ABA", tables["shift"]["epochs"], strict=True)]
    lines = iter(of(seen, "shift"))
    losses, back, steps = {}, None, 0
    for phase, (name, epochs) in enumerate(phases, 1):
        if phase == 2:
            order = hand.order.get_state()
        if phase == 3 and hand.loss("A") <= losses[1][0]:
            back = 0
        for _ in range(epochs):
            for _ in hand.steps(name):
                steps += phase == 3
                looked = phase == 3 and back is None and steps % tables["shift"]["check_every"] == 0
                if looked and hand.loss("A") <= losses[1][0]:
                    back = steps
            line = next(lines)
            assert (line["phase"], line["data"]) == (phase, name)
            assert line["val_loss_a"] == pytest.approx(hand.loss("A"), abs=1e-5)
            assert line["val_loss_b"] == pytest.approx(hand.loss("B"), abs=1e-5)
        losses[phase] = (hand.loss("A"), hand.loss("B"))
    hand.begin()
    hand.order.set_state(order)
    for _ in range(phases[1][1]):
        hand.epoch("B")
    (summary,) = of(seen, "shift_summary")
    assert summary["forgetting"] == pytest.approx(losses[2][0] - losses[1][0], abs=1e-5)
    assert summary["plasticity"] == pytest.approx(losses[2][1] - hand.loss("B"), abs=1e-5)
    assert summary["b_fresh"] == pytest.approx(hand.loss("B"), abs=1e-5)
    assert summary["a_at_end"] == pytest.approx(losses[3][0], abs=1e-5)
    assert summary["reconsolidation_steps"] == back
    assert back == (None if tables is LABELS else 3), "both cases are tried; at step 2 nobody looks"
    assert [epoch["val_loss"] for epoch in of(seen, "epoch")] == [line["val_loss_a"] for line in of(seen, "shift")]


def test_who_forgets_nothing_is_back_at_once(train):
    tables = {**PERMUTED, "optimizer": {"name": "SGD", "lr": 0.0}}
    (summary,) = of(train(**tables), "shift_summary")
    assert (summary["forgetting"], summary["plasticity"], summary["reconsolidation_steps"]) == (0.0, 0.0, 0)


def test_what_it_did_not_come_to_is_not_measured(train):
    seen = train(**{**PERMUTED, "optimizer": {"name": "SGD", "lr": 1e30}})
    (summary,) = of(seen, "shift_summary")
    assert of(seen, "fold_end")[0]["why"] == "diverged"
    assert summary["forgetting"] is None
    assert summary["plasticity"] is None
    assert summary["reconsolidation_steps"] is None
    assert summary["a_at_end"] is None


def test_a_shift_is_gone_on_from_at_each_of_its_epochs(goes_on):
    seen = goes_on(**PERMUTED)
    assert [line["phase"] for line in of(seen, "shift")] == [1, 1, 1, 1, 2, 2, 3, 3, 3]
