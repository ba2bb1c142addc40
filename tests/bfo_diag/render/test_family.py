from __future__ import annotations

import math
from collections import defaultdict
from itertools import pairwise

from bfo_diag.render.family import MOST_NEURONS, MOST_ROWS, Family, family
from bfo_diag.shown import Chart, Series

END = 1000.0


def life(name: int, row: int, born: float = 0.0, ended: float = END, parents: tuple[int, ...] = ()) -> Series:
    alive = "alive" if ended == END else ""
    return Series(str(name), ((born, row), (ended, row)), parents=tuple(map(str, parents)), tone=alive)


def tree(*lives: Series) -> Family:
    return family(Chart("lineage", "t", "step", "row", lives))


def names(neurons) -> list[str]:
    return [neuron.name for neuron in neurons]


def lane_of(found: Family) -> dict[str, int]:
    return dict(zip(names(found.drawn), found.lanes, strict=True))


def test_founders_are_those_of_the_first_step_and_the_quiet_ones_have_no_lane():
    found = tree(
        life(0, 0), life(1, 1), life(2, 2, ended=300.0), life(3, 2, born=300.0, parents=(0,)), life(4, 3, born=300.0)
    )
    assert [neuron.name for neuron in found.neurons if neuron.founder] == ["0", "1", "2"]
    assert (found.founders, found.deaths) == (3, 1)
    assert names(found.quiet) == ["1"]
    assert names(found.drawn) == ["0", "2", "3", "4"]
    early = tree(life(0, 0), life(1, 1, parents=(0,)))
    assert [neuron.founder for neuron in early.neurons] == [True, False]
    assert found.unchanged == "1 founder lives throughout, without children"


def test_who_followed_another_in_a_row_shares_its_lane_and_who_lives_beside_it_does_not():
    found = tree(life(0, 0, ended=300.0), life(1, 0, born=300.0, ended=600.0), life(2, 0, born=500.0))
    assert lane_of(found) == {"0": 0, "1": 0, "2": 1}
    assert found.rows == (0.0, 0.0)


def test_rows_lie_beside_those_that_they_descend_from():
    # Row 9 descends from row 0, row 5 from row 9; row 1 has a child in row 7.
    found = tree(
        *(life(n, n, ended=100.0 if n in (5, 7, 9) else END) for n in (0, 1, 5, 7, 9)),
        life(20, 9, born=100.0, parents=(0,)),
        life(21, 7, born=100.0, parents=(1,)),
        life(22, 5, born=200.0, parents=(20,)),
    )
    assert found.rows == (0.0, 9.0, 5.0, 1.0, 7.0)


def test_no_two_of_a_lane_live_at_the_same_time_and_there_are_never_more_than_have_room():
    # Forty events in a layer of 600, each newborn with two parents: far more than have room.
    alive, rows, lives, born = list(range(600)), {n: n for n in range(600)}, {}, {}
    for step in range(20, 820, 20):
        for k in range(30):
            dead, new = alive.pop(0), 10_000 + step * 100 + k
            lives[dead] = (born.get(dead, (0.0, ())), float(step))
            rows[new], born[new] = rows[dead], (float(step), (alive[17 * k % 500], alive[31 * k % 500]))
            alive.append(new)
    made = [life(n, rows[n], start, ended, parents) for n, ((start, *_), ended) in lives.items()
            for parents in [born.get(n, (0.0, ()))[1]]]  # fmt: skip
    made += [life(n, rows[n], *(born[n][0], END, born[n][1]) if n in born else ()) for n in alive]
    found = tree(*made)
    assert len(found.neurons) == 600 + 1200
    assert len(found.drawn) <= MOST_NEURONS
    assert len(set(found.rows)) == MOST_ROWS
    in_lane = defaultdict(list)
    for neuron, lane in zip(found.drawn, found.lanes, strict=True):
        assert found.rows[lane] == neuron.row
        in_lane[lane].append((neuron.born, neuron.ended))
    assert len(in_lane) == len(found.rows)
    for spans in in_lane.values():
        spans.sort()
        assert all(a[1] <= b[0] for a, b in pairwise(spans))
    newest = max(neuron.born for neuron in found.neurons)
    assert {neuron.name for neuron in found.neurons if neuron.born == newest} <= set(names(found.drawn))


def test_of_too_many_the_latest_of_those_alive_come_first_then_their_ancestors():
    # All founders died; 200 were replaced at step 1, 140 of those again, each by the child of one that is left.
    founders = [life(n, n, ended=1.0) for n in range(200)]
    first = [life(200 + n, n, born=1.0, ended=500.0 if n < 140 else END) for n in range(200)]
    second = [life(400 + n, n, born=500.0, parents=(200 + 140 + n % 60,)) for n in range(140)]
    found = tree(*founders, *first, *second)
    drawn = set(names(found.drawn))
    assert {str(400 + n) for n in range(140)} <= drawn
    assert len({neuron.row for neuron in found.drawn}) == MOST_ROWS
    assert {str(200 + n) for n in range(140, 150)} <= drawn  # ten more rows: alive, and parents
    assert len(found.drawn) <= MOST_NEURONS


def test_what_has_no_finite_place_is_counted_and_a_circle_of_parents_is_no_trap():
    found = tree(
        life(0, 0),
        Series("1", ((math.nan, 1.0), (5.0, 1.0))),
        Series("2", ()),
        life(3, 1, born=5.0, parents=(4,)),
        life(4, 2, born=5.0, parents=(3, 4, 99)),
    )
    assert found.lost == 2
    assert names(found.drawn) == ["3", "4"]
    many = [life(n, n, born=5.0, parents=(n - 1 if n > 5 else 500,)) for n in range(5, 501)]
    assert len(tree(life(0, 0), *many).drawn) == MOST_ROWS


def test_no_neurons_at_all():
    assert tree() == Family((), (), (), (), (), 0)
