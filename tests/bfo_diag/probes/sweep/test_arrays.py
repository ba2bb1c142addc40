"""Orthogonal arrays are verified before use: all of pydoe's, whatever they are called, and broken ones by column."""

from __future__ import annotations

import itertools
import sys
from collections import Counter

import numpy as np
import pytest

from bfo_diag.errors import DiagError
from bfo_diag.probes.sweep import arrays

L4 = ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0))


def orthogonal(columns):
    """Return whether each level, and each pair of levels of two columns, is equally frequent, by a matrix product."""
    one_hot = [np.eye(max(column) + 1, dtype=int)[list(column)] for column in columns]
    for one, other in itertools.combinations(one_hot, 2):
        counts = one.T @ other
        if counts.min() != counts.max():
            return False
    return all(hot.sum(0).min() == hot.sum(0).max() for hot in one_hot)


def test_of_pydoes_arrays_one_is_none_and_is_found():
    found = {name: list(arrays.faults(rows)) for name, rows in arrays.library().items()}
    broken = {name for name, faults in found.items() if faults}
    assert broken == {name for name, rows in arrays.library().items() if not orthogonal(list(zip(*rows, strict=True)))}
    # (A later pydoe may have mended it, or brought another.)
    assert {"L4(2^3)", "L9(3^4)", "L18(6^1 3^6)", "L36(3^23)", "L81(3^40)"} <= found.keys() - broken
    if "L64(2^31)" in broken:
        with pytest.raises(DiagError) as caught:
            arrays.fitted((2, 2), "L64(2^31)")
        assert "L64(2^31) is not orthogonal" in caught.value.message
        assert "column 28; column 29; columns 1 and 28, and 58 more" in caught.value.message


@pytest.mark.parametrize(
    ("rows", "faults"),
    [
        (L4, []),
        (((0,), (1,), (1,)), ["column 1"]),
        (((0,), (2,)), ["column 1"]),
        (((0, 0), (0, 0), (1, 1), (1, 1)), ["columns 1 and 2"]),
        ((*L4[:3], (1, 1, 1)), ["column 3", "columns 1 and 3", "columns 2 and 3"]),
        # (Each pair is there, and each column balanced; yet some pairs are more frequent.)
        (((0, 0), (0, 0), (0, 1), (1, 0), (1, 1), (1, 1)), ["columns 1 and 2"]),
    ],
)
def test_what_is_not_equally_frequent_is_named_by_its_columns(rows, faults):
    assert list(arrays.faults(rows)) == faults


def test_an_array_that_is_none_is_refused_by_name_and_passed_over_otherwise(monkeypatch):
    broken = ((0, 0, 0), (0, 1, 1), (1, 0, 1))
    monkeypatch.setattr(arrays, "library", lambda: {"L3": broken, "L4": L4, "L8": L4 + L4})
    with pytest.raises(DiagError, match="the array L3 is not orthogonal"):
        arrays.fitted((2,), "L3")
    assert arrays.fitted((2,))[0].name == "L4"
    assert arrays.fitted((2,), "L8")[0].name == "L8"


@pytest.mark.parametrize(
    ("counts", "name", "columns"),
    [
        ((), "L4(2^3)", ()),
        ((2, 2, 2), "L4(2^3)", (0, 1, 2)),
        ((2, 2, 2, 2), "L8(2^7)", (0, 1, 2, 3)),
        ((3, 3, 3, 3), "L9(3^4)", (0, 1, 2, 3)),
        ((4, 4), "L16(4^5)", (0, 1)),
        ((2, 4), "L16(4^5)", (1, 0)),
        ((3, 6), "L18(6^1 3^6)", (1, 0)),
        ((2, 3), "L18(6^1 3^6)", (0, 1)),
        ((5, 2), "L50(2^1 5^11)", (1, 0)),
        ((3,) * 8, "L27(2^1 3^12)", tuple(range(8))),
        ((2, 2, 3), "L36(3^23)", (0, 1, 11)),
    ],
)
def test_the_smallest_array_that_fits_is_taken(counts, name, columns):
    array, found = arrays.fitted(counts)
    assert (array.name, found) == (name, columns)
    assert [array.counts[column] % count for column, count in zip(found, counts, strict=True)] == [0] * len(counts)


@pytest.mark.parametrize("counts", [(2, 3), (2, 4), (2, 2, 3), (2, 3, 3), (5, 2), (2, 2, 2, 4, 4), (6, 3, 3)])
def test_levels_stay_equally_frequent_in_columns_with_more_of_them(counts):
    array, columns = arrays.fitted(counts)
    used = [[row[column] % count for row in array.rows] for column, count in zip(columns, counts, strict=True)]
    assert orthogonal(used)
    assert [len(Counter(column)) for column in used] == list(counts)


def test_what_fits_no_array_is_refused_with_the_counts():
    with pytest.raises(DiagError, match="factors of 7, 2 levels") as caught:
        arrays.fitted((7, 2))
    assert "random" in caught.value.mend
    with pytest.raises(DiagError, match="factors of 3, 2, 6 levels"):  # one column of six, and none of two beside it
        arrays.fitted((3, 2, 6))
    with pytest.raises(DiagError, match=r"L9\(3\^4\) does not fit factors of 2, 3 levels: .* 4 of 3"):
        arrays.fitted((2, 3), "L9(3^4)")
    with pytest.raises(DiagError, match="does not fit factors of 2, 2, 2, 2"):
        arrays.fitted((2, 2, 2, 2), "L4(2^3)")
    with pytest.raises(DiagError, match="there is no array L9") as caught:
        arrays.fitted((3,), "L9")
    assert "L9(3^4)" in caught.value.mend


def test_without_pydoe_the_extra_is_named(monkeypatch):
    arrays.library.cache_clear()
    monkeypatch.setitem(sys.modules, "pydoe", None)
    with pytest.raises(DiagError, match="needs pydoe") as caught:
        arrays.fitted((2,))
    assert caught.value.mend == "pip install 'bfo-diag[sweep]'"
