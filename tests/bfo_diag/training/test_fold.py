"""When a fold is over, and which epoch of it was the best."""

from __future__ import annotations

import math

import torch

from bfo_diag.training.fold import Fold
from bfo_diag.training.recipe import Training


def noted(*losses, training=None, min_delta=0.0):
    """Return the fold after epochs of three steps each with these validation losses, or when it was over."""
    fold = Fold(0)
    for loss in losses:
        if training is not None and fold.why_over(training):
            break
        fold.epoch, fold.step = fold.epoch + 1, fold.step + 3
        fold.note([1.0, 1.0, 1.0], loss, {"w": torch.tensor(loss)}, min_delta=min_delta)
    return fold


def test_the_best_epoch_is_the_first_of_the_lowest_losses():
    fold = noted(3.0, 1.0, 2.0, 1.0)
    assert (fold.best_epoch, fold.best_loss, float(fold.best["w"])) == (2, 1.0, 1.0)


def test_less_than_min_delta_is_no_improvement():
    assert noted(3.0, 2.9, 2.6, min_delta=0.5).best_epoch == 1
    assert noted(3.0, 2.9, 2.4, min_delta=0.5).best_epoch == 3
    assert noted(3.0, 2.5, min_delta=0.5).best_epoch == 1


def test_patience_counts_from_the_best_epoch():
    training = Training(epochs=100, patience=2)
    assert noted(3.0, 4.0, 2.0, 5.0, training=training).why_over(training) == ""
    fold = noted(3.0, 4.0, 2.0, 5.0, 5.0, 1.0, training=training)
    assert (fold.why_over(training), fold.epoch) == ("patience", 5)
    assert noted(*[1.0] * 50, training=Training(epochs=100)).why_over(Training(epochs=100)) == ""


def test_a_fold_is_over_after_its_epochs():
    training = Training(epochs=2, patience=9)
    assert noted(3.0).why_over(training) == ""
    assert noted(3.0, 2.0).why_over(training) == "epochs"


def test_the_step_whose_loss_was_not_finite_is_named_by_its_number_in_the_fold():
    fold = noted(3.0)
    fold.epoch, fold.step = 2, 6
    fold.note([1.0, math.inf, math.nan], 5.0, {})
    assert fold.diverged == "the training loss of step 5 is inf"
    assert fold.why_over(Training(epochs=100)) == "diverged"
    fold = noted(math.nan)
    assert (fold.diverged, fold.best_epoch) == ("the validation loss of epoch 1 is nan", 0)


def test_the_weights_of_the_best_epoch_are_a_copy():
    fold, weights = Fold(0, epoch=1), {"w": torch.zeros(2)}
    fold.note([1.0], 1.0, weights)
    weights["w"] += 7
    assert fold.best["w"].tolist() == [0.0, 0.0]


def test_the_state_of_a_fold_comes_back():
    fold = noted(3.0, 2.0)
    assert Fold.of({"model": "something else", **fold.state()}) == fold


def test_the_digest_tells_losses_names_values_and_types_apart():
    weights = {"w": torch.tensor([1.0, 2.0]), "count": torch.tensor(3), "none": torch.empty(0), "extra": object()}
    same = noted(3.0, 2.0).digest({**weights, "w": torch.tensor([[1.0], [2.0]])[:, 0], "extra": object()})
    assert noted(3.0, 2.0).digest(weights) == same
    others = [
        noted(3.0, 2.5).digest(weights),
        noted(2.0, 3.0).digest(weights),
        noted(3.0, math.nan).digest(weights),
        *(
            noted(3.0, 2.0).digest(other)
            for other in (
                {**weights, "w": torch.tensor([1.0, 2.0000002])},
                {**weights, "w": torch.tensor([[1.0, 2.0]])},
                {**weights, "w": torch.tensor([1.0, 2.0]).bfloat16()},
                {**weights, "count": torch.tensor(4)},
                {"v" if name == "w" else name: value for name, value in weights.items()},
            )
        ),
    ]
    assert len({same, *others}) == 9


def test_the_spread_of_the_losses_is_of_the_last_epoch():
    fold = Fold(0, epoch=1)
    fold.note([1.0, 2.0, 6.0], 1.0, {})
    assert fold.loss_variance == 7.0
    for trained in ([5.0], [1.0, math.inf]):
        fold.note(trained, 1.0, {})
        assert fold.loss_variance is None
