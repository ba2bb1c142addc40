from __future__ import annotations

import itertools
import math
import sys

import pytest

from bfo_diag.render.heat_cells import MOST_COLUMNS, MOST_ROWS, NOT_FINITE, SHADES, ZERO, cells, rows, shade
from bfo_diag.shown import Chart, Series

INF, NAN = math.inf, math.nan


def heat(*rows: list[float] | Series, log: bool = True) -> Chart:
    series = (row if isinstance(row, Series) else row_of(row, f"s{n}") for n, row in enumerate(rows))
    return Chart("heatmap", "title", "step", "norm", tuple(series), log_y=log)


def row_of(values: list[float], name: str = "s") -> Series:
    return Series(name, tuple((float(x), y) for x, y in enumerate(values)))


def shades(chart: Chart) -> list[list[int | None]]:
    """Return the class of each cell, None where there is none, put together from the runs."""
    found = cells(chart)
    grid: list[list[int | None]] = [[None] * len(found.columns) for _ in found.series]
    for run in found.runs():
        for column in range(run.column, run.column + run.length):
            assert grid[run.row][column] is None, "two runs hold one cell"
            grid[run.row][column] = run.shade
    return grid


def test_equal_ratios_are_equally_many_shades_apart_on_a_logarithmic_scale_and_differences_on_a_linear_one():
    powers = [10.0**n for n in range(SHADES + 1)]
    assert shades(heat(powers)) == [[0, 1, 2, 3, 4, 5, 6, 7, 7]]
    assert shades(heat(powers, log=False)) == [[0, 0, 0, 0, 0, 0, 0, 0, 7]]
    assert shades(heat([-4.0, -3.0, 0.0, 1.0, 4.0], log=False)) == [[0, 1, 4, 5, 7]]


def test_all_rows_share_one_scale():
    assert shades(heat([1.0, 10.0], [100.0, 1000.0])) == [[0, 2], [5, 7]]
    assert cells(heat([1.0, 10.0], [100.0, 1000.0])).scale == (1.0, 1000.0)


def test_zero_and_what_is_not_finite_have_classes_of_their_own_and_stretch_no_scale():
    chart = heat([1.0, 0.0, -1.0, NAN, INF, -INF, 100.0])
    assert shades(chart) == [[0, ZERO, ZERO, NOT_FINITE, NOT_FINITE, NOT_FINITE, 7]]
    assert cells(chart).scale == (1.0, 100.0)
    assert shades(heat([0.0, 1.0, NAN], log=False)) == [[0, 7, NOT_FINITE]]


def test_values_that_are_all_one_lie_in_the_middle():
    for log in (True, False):
        assert shades(heat([0.3, 0.3 * (1 + 1e-15)], log=log)) == [[SHADES // 2] * 2]
    assert shades(heat([0.0, 0.0])) == [[ZERO, ZERO]]


@pytest.mark.parametrize("log", [True, False])
def test_any_two_values_have_a_class(log):
    greatest = sys.float_info.max
    extremes = (0.0, -1.0, 5e-324, 1e-320, 1e-300, 1.0, -1e300, 1e300, greatest, -greatest, INF, NAN)
    for a, b in itertools.product(extremes, extremes):
        (row,) = shades(heat([a, b], log=log))
        assert all(one in range(NOT_FINITE + 1) for one in row)
        assert [one == NOT_FINITE for one in row] == [not math.isfinite(a), not math.isfinite(b)]
    assert shade(1.0, None, log=True) == ZERO


def test_a_series_has_a_cell_only_where_it_has_a_point():
    chart = heat(Series("a", ((0.0, 1.0), (2.0, 1.0))), Series("b", ((1.0, 1.0),)), Series("c", ()))
    assert shades(chart) == [[4, None, 4], [None, 4, None], [None] * 3]
    assert cells(chart).columns == ((0.0, 0.0), (1.0, 1.0), (2.0, 2.0))


def test_neighbours_of_one_class_are_one_run_unless_a_column_lies_between():
    found = cells(heat(Series("a", tuple((float(x), 1.0) for x in (0, 1, 3, 4, 5))), [9.0] * 6)).runs()
    assert [(run.row, run.column, run.length, run.shade) for run in found] == [(0, 0, 2, 0), (0, 3, 3, 0), (1, 0, 6, 7)]


def test_points_out_of_order_and_without_a_place_are_put_right():
    found = cells(heat(Series("a", ((2.0, 4.0), (NAN, 1.0), (INF, NAN), (0.0, 2.0), (1.0, 3.0)))))
    assert [found.values[0][column] for column in range(3)] == [2.0, 3.0, 4.0]
    assert found.lost == 2
    assert not found.shared


@pytest.mark.parametrize(
    ("values", "log", "kept"),
    [
        ([1.0, 5.0, 2.0], True, 5.0),
        ([1.0, 0.0, 2.0], True, 0.0),
        ([1.0, 0.0, 2.0], False, 2.0),
        ([1.0, -3.0, 2.0], False, -3.0),
        ([0.0, 1e300, INF, 0.0], True, INF),
        ([-1.0, NAN, 1e300], False, NAN),
    ],
)
def test_of_values_that_share_a_cell_the_most_harmful_stays_whatever_their_order(values, log, kept):
    for order in itertools.permutations(values):
        found = cells(heat(Series("a", tuple((7.0, y) for y in order)), log=log))
        assert found.shared
        assert repr(found.values[0][0]) == repr(kept)


@pytest.mark.parametrize("count", [100, 101, 199, 200, 201, 10_000, 12_345])
def test_many_columns_become_at_most_a_hundred_that_cover_all_of_them(count):
    found = cells(heat([1.0] * count))
    assert len(found.columns) <= MOST_COLUMNS
    assert len(found.columns) > MOST_COLUMNS / 2
    assert found.shared == (count > MOST_COLUMNS)
    assert found.columns[0][0] == 0
    assert found.columns[-1][1] == count - 1
    assert all(b[0] - a[1] == 1 for a, b in itertools.pairwise(found.columns))
    assert {found.column_of(float(x)) for x in range(count)} == set(range(len(found.columns)))
    assert (
        found.column_of(-1.0) is found.column_of(float(count)) is found.column_of(0.5 if count == 100 else -0.5) is None
    )


@pytest.mark.parametrize("at", [0, 49, 4_999, 9_999])
def test_one_nan_a_zero_and_a_peak_among_ten_thousand_values_are_still_there(at):
    for harm in (NAN, INF, 0.0, 1e6):
        values = [1.0 + (x % 3) for x in range(10_000)]
        values[at] = harm
        found = cells(heat(values))
        assert repr(found.values[0][at // found.stretch]) == repr(harm)


def test_of_many_rows_those_that_hold_a_nan_are_drawn_in_the_order_of_all():
    series = [row_of([1.0, NAN if n in (70, 999) else 2.0], f"s{n}") for n in range(1000)]
    shown = [one.name for one in rows(heat(*series))]
    assert shown == [f"s{n}" for n in range(MOST_ROWS - 2)] + ["s70", "s999"]
    assert rows(heat(*series[:MOST_ROWS])) == tuple(series[:MOST_ROWS])
    broken = heat(*[row_of([NAN], f"s{n}") for n in range(60)])
    assert len(rows(broken)) == MOST_ROWS


def test_columns_that_are_not_evenly_spaced_are_told():
    assert cells(heat([1.0] * 30)).even
    assert cells(heat(Series("a", tuple((0.1 * x, 1.0) for x in range(30))))).even
    assert not cells(heat(Series("a", ((0.0, 1.0), (1.0, 1.0), (10.0, 1.0))))).even
    assert cells(heat([])).even
