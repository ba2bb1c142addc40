from __future__ import annotations

import json
import math

import pytest

from pytorch_bfo_optimizer.turnover import Lineage, TurnoverEvent


def event(kind: str, step: int, neurons: list[int], parents: list[tuple[int, ...]] | None = None) -> TurnoverEvent:
    given = tuple(parents) if parents is not None else ((),) * len(neurons)
    return TurnoverEvent(step, "a", kind, tuple(neurons), given, "", 4, tuple(range(len(neurons))))


@pytest.fixture
def lineage() -> Lineage:
    """Four founders: 0 dies for a child of 1 and 2, that one for a child of 3, and 3 for one of nobody."""
    events = [
        event("fade", 4, [0]),
        event("death", 5, [0]),
        event("birth", 5, [4], [(1, 2)]),
        event("death", 9, [4, 3]),
        event("birth", 9, [5, 6], [(4,), ()]),
    ]
    return Lineage({"a": 4, "b": 2}, events)


def test_who_lives_and_who_descends_from_whom(lineage: Lineage) -> None:
    assert lineage.alive("a") == (1, 2, 5, 6)
    assert lineage.alive("b") == (0, 1)
    assert lineage.edges() == (("a", 1, 4), ("a", 2, 4), ("a", 4, 5))
    assert lineage.edges("b") == ()


def test_survival_of_founders_and_of_each_cohort(lineage: Lineage) -> None:
    assert (lineage.founders_alive("a"), lineage.founders_alive("b"), lineage.founders_alive()) == (2, 2, 4)
    assert lineage.survival("a") == 0.5
    assert lineage.survival() == 4 / 6
    assert [(one.step, one.born, one.alive, one.survival) for one in lineage.cohorts("a")] == [
        (0, 4, 2, 0.5),
        (5, 1, 0, 0.0),
        (9, 2, 2, 1.0),
    ]
    assert Lineage({}).survival() == 1.0


def test_diversity_goes_back_to_the_first_ancestors(lineage: Lineage) -> None:
    diversity = lineage.diversity("a")
    assert (diversity.founders, diversity.ancestors) == (2, 3)  # 1, 2, and 6 who is born of nobody
    shares = [1.5 / 4, 1.5 / 4, 1 / 4]  # 5 is of 4, who is half of 1 and half of 2
    assert diversity.effective == pytest.approx(math.exp(-sum(share * math.log(share) for share in shares)))
    everywhere = lineage.diversity()
    assert (everywhere.founders, everywhere.ancestors) == (4, 5)
    assert Lineage({"a": 7}).diversity().effective == pytest.approx(7)
    assert Lineage({}).diversity().effective == 0.0


def test_plain_values_and_back(lineage: Lineage) -> None:
    plain = json.loads(json.dumps(lineage.plain()))
    assert plain["nodes"] == [
        ["a", 0, [], 0, 5],
        ["a", 3, [], 0, 9],
        ["a", 4, [1, 2], 5, 9],
        ["a", 5, [4], 9, None],
        ["a", 6, [], 9, None],
    ]
    back = Lineage.of(plain)
    assert back.plain() == lineage.plain()
    assert back.diversity() == lineage.diversity()
    assert back.cohorts() == lineage.cohorts()
    assert back.alive("a") == lineage.alive("a")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (event("birth", 10, [5]), "neuron 5 of 'a' is born a second time"),
        (event("birth", 10, [7], [(9,)]), r"parents that never were: \[9\]"),
        (event("death", 10, [0]), "neuron 0 of 'a' dies at step 10, and is not alive"),
        (event("death", 10, [8]), "not alive"),
    ],
)
def test_a_record_that_is_none_is_refused(lineage: Lineage, wrong: TurnoverEvent, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        lineage.add(wrong)
