from __future__ import annotations

import pytest

from bfo_diag.render.text import cut, cut_apart


def test_a_long_name_loses_its_middle_and_a_short_one_nothing():
    assert cut("abcdefghij", 10) == "abcdefghij"
    assert cut("abcdefghijk", 10) == "abcd…ghijk"
    assert cut("abcdefghijk", 10, head=0) == "…cdefghijk"
    assert cut("abcdefghijk", 10, head=9) == "abcdefghi…"
    assert cut("a\x1bb\nc", 20) == "a\\x1bb c"


def test_names_that_differ_in_their_middle_still_do_when_they_are_cut():
    names = [f"encoder.layers.{n}.attention.output.dense.weight" for n in range(12)]
    shown = cut_apart(names, 24)
    assert len(set(shown)) == 12
    assert all(len(name) <= 24 for name in shown)
    assert shown[7].startswith("…7.att")
    assert shown[7].endswith("dense.weight")


def test_names_are_told_apart_by_their_letters_not_by_a_dot():
    shown = cut_apart(["0.self_attention.in_proj_weight", "0.self_attention.out_proj.weight", "1.norm.bias"], 24)
    assert [name.rpartition("…")[2].replace("_", ".") for name in shown[:2]] == ["n.proj.weight", "t.proj.weight"]


@pytest.mark.parametrize("names", [[], [""], ["a.b"], ["x.weight", "x.bias"]])
def test_names_that_have_room_stay_as_they_are(names):
    assert cut_apart(names, 8) == names


@pytest.mark.parametrize("most", range(2, 12))
def test_no_name_is_longer_than_its_room(most):
    names = ["a.b.c.d.e.f.g", "a.b.c.d.e.f.g", "a.b.c", "a.b.c." + "x" * 50, "\x1b\n" * 9]
    assert max(map(len, cut_apart(names, most))) <= most
    assert max(map(len, cut_apart(names[:4], most))) <= most
