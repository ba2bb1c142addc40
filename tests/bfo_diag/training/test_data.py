from __future__ import annotations

import pytest
import torch

from bfo_diag.errors import DiagError
from bfo_diag.training import data
from bfo_diag.training.recipe import Data, Training


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_each_sample_is_held_back_by_one_fold_and_trained_on_by_the_others():
    splits = data.folds(23, Data("digits"), Training(folds=4), generator())
    assert sorted(torch.cat([held for _, held in splits]).tolist()) == list(range(23))
    assert [len(held) for _, held in splits] == [6, 6, 6, 5]
    for train, held in splits:
        assert sorted([*train.tolist(), *held.tolist()]) == list(range(23))


@pytest.mark.parametrize(("share", "held_back"), [(None, 20), (0.5, 50), (0.013, 1)])
def test_one_fold_holds_back_the_recipes_share(share, held_back):
    ((train, held),) = data.folds(100, Data("digits", validation=share), Training(), generator())
    assert len(held) == held_back
    assert sorted([*train.tolist(), *held.tolist()]) == list(range(100))


@pytest.mark.parametrize(("count", "share", "folds"), [(3, 0.1, 1), (2, 0.9, 1), (3, None, 4)])
def test_a_split_without_samples_on_one_side_is_refused(count, share, folds):
    with pytest.raises(DiagError, match=f"{count} samples are too few"):
        data.folds(count, Data("digits", validation=share), Training(folds=folds), generator())


def test_the_split_depends_on_the_generator_alone():
    one, same, other = (data.folds(50, Data("digits"), Training(), generator(seed))[0][1] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_batches_of_an_epoch_are_shuffled_whole_and_without_repeats():
    indices, source = torch.arange(100, 123), generator()
    first, second = data.shuffled(indices, 5, source), data.shuffled(indices, 5, source)
    assert [len(batch) for batch in first] == [5, 5, 5, 5]
    drawn = torch.cat(first).tolist()
    assert len({*drawn}) == 20
    assert {*drawn} <= {*indices.tolist()}
    assert drawn != sorted(drawn)
    assert drawn != torch.cat(second).tolist()
    assert [len(batch) for batch in data.shuffled(indices, 64, source)] == [23]


def test_text_is_cut_into_pieces_whose_targets_are_one_character_later():
    samples = data.load(Data("text", context=7, samples=50), "cpu")
    assert samples.inputs.shape == samples.targets.shape == (50, 7)
    assert torch.equal(samples.inputs[:, 1:], samples.targets[:, :-1])
    assert torch.equal(samples.inputs[1:, 0], samples.targets[:-1, -1])
    assert int(samples.inputs.max()) < samples.classes
    inputs, targets = samples.at(torch.tensor([3, 4]))
    assert torch.equal(inputs, samples.inputs[3:5])
    assert torch.equal(targets, samples.targets[3:5])


def test_digits_are_all_there_or_the_first():
    assert len(data.load(Data("digits"), "cpu")) == 1797
    samples = data.load(Data("digits", samples=10), "cpu")
    assert samples.inputs.shape == (10, 64)
    assert samples.targets.tolist() == list(range(10))
    assert samples.classes == 10
