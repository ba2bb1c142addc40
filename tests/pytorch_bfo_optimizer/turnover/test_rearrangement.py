from __future__ import annotations

import torch

from pytorch_bfo_optimizer.turnover.rearrangement import Rearrangement

OLD_HI = torch.arange(8.0).reshape(4, 2)


def test_a_cut_keeps_rows_in_the_order_given_and_appends_the_newborn() -> None:
    cut = Rearrangement.cut(torch.tensor([3, 0]), 2)
    assert cut.width == 4
    assert cut.newborn.tolist() == [2, 3]
    assert cut.of(OLD_HI, 0, born=torch.tensor([[9.0, 8.0], [7.0, 6.0]])).tolist() == [[6, 7], [0, 1], [9, 8], [7, 6]]
    assert cut.of(OLD_HI.T, 1, born=5.0).tolist() == [[6, 0, 5, 5], [7, 1, 5, 5]]


def test_a_replacement_leaves_the_others_where_they_are() -> None:
    replaced = Rearrangement.replaced(4, torch.tensor([2, 1]))
    assert replaced.newborn.tolist() == [2, 1]
    assert replaced.of(OLD_HI, 0, born=torch.tensor([[9.0, 9.0], [8.0, 8.0]])).tolist() == [
        [0, 1],
        [8, 8],
        [9, 9],
        [6, 7],
    ]
    assert replaced.of(OLD_HI, 0).tolist() == [[0, 1], [0, 0], [0, 0], [6, 7]]


def test_copies_share_by_the_power_that_is_asked_for() -> None:
    split = Rearrangement.split(4, torch.tensor([1, 1, 3]))
    assert split.source.tolist() == [0, 1, 2, 3, 1, 1, 3]
    ones = torch.ones(2, 4)
    assert torch.equal(split.of(ones, 1, divided=1)[0], torch.tensor([1, 1 / 3, 1, 1 / 2, 1 / 3, 1 / 3, 1 / 2]))
    assert torch.equal(split.of(ones.T, 0, divided=2)[:, 0], torch.tensor([1, 1 / 9, 1, 1 / 4, 1 / 9, 1 / 9, 1 / 4]))
    assert torch.equal(split.of(ones, 1), torch.ones(2, 7))


def test_rows_are_followed_twins_included() -> None:
    rows = torch.tensor([0, 3])
    assert Rearrangement.cut(torch.tensor([3, 1]), 1).moved(rows).tolist() == [0]
    assert Rearrangement.replaced(4, torch.tensor([3])).moved(rows).tolist() == [0]
    assert Rearrangement.split(4, torch.tensor([3, 1])).moved(rows).tolist() == [0, 3, 4]
    assert Rearrangement.cut(torch.tensor([1]), 3).moved(rows).tolist() == []


def test_the_old_tensor_is_not_written_to() -> None:
    before = OLD_HI.clone()
    Rearrangement.split(4, torch.tensor([1])).of(OLD_HI, 0, divided=1).zero_()
    assert torch.equal(OLD_HI, before)
