from __future__ import annotations

import itertools
import math
import re

import pytest

from bfo_diag.render.charts import as_table, cited, drawing, remarks, svg
from bfo_diag.render.strokes import WIDTH
from bfo_diag.shown import Cell, Chart, Series

NAN = math.nan
NUMBER = r"-?\d+(?:\.\d+)?"


def life(name: str, row: float, born: float, ended: float, *, parents: str = "", alive: bool = True) -> Series:
    line = (7,) if born else ()
    return Series(name, ((born, row), (ended, row)), (), line, tuple(parents.split()), tone="alive" if alive else "")


def tree(*lives: Series, **how: object) -> Chart:
    return Chart("lineage", "Lineage", "step", "row of mlp.0", lives, "caption", **how)


@pytest.fixture
def replaced() -> Chart:
    """Three founders; the second is replaced at step 50 by a child of the first; the third lives on alone."""
    return tree(
        life("0", 0, 0, 100),
        life("1", 1, 0, 50, alive=False),
        life("2", 2, 0, 100),
        life("3", 1, 50, 100, parents="0"),
    )


def strokes(chart: Chart) -> dict[str, list[str]]:
    """Return the strokes of the tree (not those of its legend) by their class."""
    found = {}
    for path in drawing(chart).paths:
        parts = re.findall(r"M[^M]+", path.d)
        below = [part for part in parts if float(re.match(rf"M{NUMBER} ({NUMBER})", part)[1]) > 40]
        if below:
            found.setdefault(path.kind, []).extend(below)
    return found


def bar(stroke: str) -> tuple[float, float, float]:
    """Return left, right and middle of a bar."""
    x, y, length, height = map(
        float, re.fullmatch(rf"M({NUMBER}) ({NUMBER})h({NUMBER})v({NUMBER})h.*z", stroke).groups()
    )
    return x, x + length, y + height / 2


def test_each_neuron_is_a_bar_from_birth_to_death_in_its_row(replaced):
    drawn = strokes(replaced)
    (first, second), (child,) = map(bar, drawn["neuron founder"]), map(bar, drawn["neuron"])
    assert first[0] == second[0] < child[0] < child[1]
    assert child[1] == pytest.approx(first[1], abs=0.2)
    assert second[1] < child[0] < second[1] + 2  # the child begins where its forerunner ends, a gap apart
    assert second[2] == child[2] > first[2]
    assert child[0] - first[0] == pytest.approx((first[1] - first[0]) / 2, abs=0.1)
    (death,) = drawn["death"]
    assert float(re.match(rf"M({NUMBER})", death)[1]) == pytest.approx(child[0], abs=1)


def test_a_child_is_joined_to_its_parent(replaced):
    drawn = strokes(replaced)
    parent, child = bar(drawn["neuron founder"][0]), bar(drawn["neuron"][0])
    (link,) = drawn["descent"]
    places = [tuple(map(float, pair)) for pair in re.findall(rf"({NUMBER}) ({NUMBER})", link)]
    assert places[0][1] == pytest.approx(parent[2], abs=0.1)
    assert parent[0] < places[0][0] < child[0]
    assert places[-1] == pytest.approx((child[0], child[2]), abs=0.1)


def test_a_parent_that_died_before_is_left_from_its_end_and_two_parents_give_two_strokes():
    lives = (life("0", 0, 0, 20, alive=False), life("1", 1, 0, 100), life("2", 2, 90, 100, parents="0 1"))
    drawn = strokes(tree(*lives))
    assert len(drawn["descent"]) == 2
    dead = next(bar(one) for one in drawn["neuron founder"] if bar(one)[1] < 200)
    starts = [tuple(map(float, re.match(rf"M({NUMBER}) ({NUMBER})", link).groups())) for link in drawn["descent"]]
    assert any(x == pytest.approx(dead[1], abs=1.1) and y == pytest.approx(dead[2], abs=0.1) for x, y in starts)


def test_founders_to_which_nothing_happened_are_one_band(replaced):
    texts = [text.text for text in drawing(replaced).texts]
    assert "1 founder lives throughout, without children" in texts
    assert len(strokes(replaced)["quiet"]) == 1
    still = tree(*(life(str(n), n, 0, 100) for n in range(512)))
    assert set(strokes(still)) == {"grid", "ruler", "quiet"}
    assert "512 founders live throughout, without children" in [text.text for text in drawing(still).texts]
    assert remarks(still) == []
    assert len(svg(still)) < 1500


def test_neurons_and_rows_are_named_where_they_have_room(replaced):
    names = [text.text for text in drawing(replaced).texts if text.kind == "serial"]
    assert names == ["0", "1", "3"]
    assert [text.text for text in drawing(replaced).texts if text.kind == "tick end"] == ["0", "1"]
    many = tree(*(life(str(n), n, 0, 50, alive=False) for n in range(100)))
    assert not [text for text in drawing(many).texts if text.kind in ("serial", "tick end")]


def test_the_legend_tells_only_what_occurs(replaced):
    legend = {"founder", "born later", "died", "parent to child"}
    assert legend <= {text.text for text in drawing(replaced).texts}
    grown = tree(life("0", 0, 0, 100), life("1", 1, 50, 100))
    assert legend & {text.text for text in drawing(grown).texts} == {"born later"}
    strange = tree(life("0", 0, 0, 100), life("1", 1, 50, 100, parents="77 1"))  # an unknown parent, and itself
    assert "parent to child" not in {text.text for text in drawing(strange).texts}
    assert "descent" not in strokes(strange)


def test_hundreds_of_neurons_stay_small_in_bytes_and_inside_the_drawing():
    lives = [life(str(n), n, 0, 10 * (n + 1), alive=False) for n in range(300)]
    lives += [life(str(300 + n), n, 10 * (n + 1), 9000, parents=f"{n + 1} {n + 2}") for n in range(298)]
    chart = tree(*lives)
    drawn = drawing(chart)
    assert len(svg(chart)) < 30_000
    assert len(drawn.paths) < 30
    assert drawn.height < 600
    for text in drawn.texts:
        assert -5 <= text.x <= WIDTH + 5
        assert 0 <= text.y <= drawn.height
    places = [tuple(map(float, re.match(rf"M({NUMBER}) ({NUMBER})", stroke).groups()))
              for found in strokes(chart).values() for stroke in found]  # fmt: skip
    assert all(0 <= x <= WIDTH and 0 <= y <= drawn.height for x, y in places)
    assert "more neurons are in the table, and not drawn: the latest of those alive" in " ".join(remarks(chart))


@pytest.mark.parametrize("lives", [(), (Series("0", ()),), (Series("0", ((NAN, 0.0), (1.0, 0.0))),)])
def test_what_holds_no_neuron_with_a_place_says_not_measured(lives):
    assert [text.text for text in drawing(tree(*lives)).texts] == ["not measured"]
    assert "0 founders, 0 born later, 0 died" in svg(tree(*lives))


def test_extreme_steps_and_rows_are_drawn_inside_the_drawing():
    for born, ended, row in itertools.product((0.0, -1e300, 1e300, 5e-324), repeat=3):
        chart = tree(life("0", row, born, ended, alive=False), life("1", 1, 1, 2, parents="0"))
        drawn = drawing(chart)
        found = [float(value) for path in drawn.paths for value in re.findall(r"(?<![\w.])\d+(?:\.\d+)?", path.d)]
        assert all(math.isfinite(value) and value <= 600 for value in found)


def test_the_table_has_a_line_for_each_neuron_to_which_something_happened(replaced):
    table = as_table(replaced)
    assert table.columns == ("neuron", "born at step", "row of mlp.0", "parents", "died at step", "children")
    assert table.rows == (
        ("0", "0", "0", Cell("founder", "muted"), Cell("alive", "muted"), "1"),
        ("1", "0", "1", Cell("founder", "muted"), "50", "0"),
        ("3", "50", "1", "0", Cell("alive", "muted"), "0"),
    )
    twins = tree(*replaced.series, life("4", 3, 60, 100, parents="0"))
    assert as_table(twins).rows[0][-1] == "2"
    assert table.caption == "beside them, 1 founder lives throughout, without children"


def test_words_remarks_and_log_lines(replaced):
    assert "caption. 3 founders, 1 born later, 1 died. As one band: 1 founder lives throughout" in svg(replaced)
    assert cited(replaced) == (("births and deaths", (7,)),)
    assert remarks(replaced) == []
    lost = tree(*replaced.series, Series("9", ((NAN, 0.0), (1.0, 0.0))))
    assert remarks(lost) == ["1 of 5 neurons have no finite steps and rows, and are not drawn"]
    crossed = tree(*replaced.series[:3], life("3", 1, 50, 100, parents="2"))
    assert remarks(crossed) == ["the rows lie beside those that they descend from, not in the order of their numbers"]
