"""Effects of factors in designs whose truth is known."""

from __future__ import annotations

import itertools
import random

import pytest

from bfo_diag.probes.sweep.effects import effects, level_name
from bfo_diag.probes.sweep.results import sweep

LR, PRESET = (0.1, 0.2), ("none", "fold", "grow")
NOISE = {0: 0.0, 1: 0.5, 2: -0.4}
"""What a seed does to every arm alike: no difference holds any of it."""


def figure(lr: float, preset: str, seed: int) -> float:
    own = random.Random(f"{lr} {preset} {seed}").gauss(0, 0.01)
    return 2.0 + {0.1: -0.2, 0.2: 0.2}[lr] + {"none": 0.0, "fold": 0.3, "grow": -0.3}[preset] + NOISE[seed] + own


def grid(lines, leave_out=(), **control):
    told = []
    for number, (lr, preset) in enumerate(itertools.product(LR, PRESET)):
        if number not in leave_out:
            values = control if number == 0 else {}
            told.append(lines.arm(number, {"optimizer.lr": lr, "turnover.preset": preset}, **values))
            told += [lines.trial(number, seed, figure(lr, preset, seed)) for seed in NOISE]
    return told


def factors(lines, **values):
    return lines.spec(
        {"name": "optimizer.lr", "values": list(LR)}, {"name": "turnover.preset", "values": list(PRESET)}, **values
    )


def test_in_a_balanced_design_a_level_is_judged_at_each_seed(record, lines):
    found = effects(sweep(record(factors(lines), *grid(lines))))
    assert found.balanced
    assert [(level.factor, level.name, len(level.arms)) for level in found.levels] == [
        ("optimizer.lr", "0.1", 3),
        ("optimizer.lr", "0.2", 3),
        ("turnover.preset", "none", 2),
        ("turnover.preset", "fold", 2),
        ("turnover.preset", "grow", 2),
    ]
    wanted = {"0.1": -0.2, "0.2": 0.2, "none": 0.0, "fold": 0.3, "grow": -0.3}
    for level in found.levels:
        assert level.effect == pytest.approx(wanted[level.name], abs=0.02)
        assert level.interval.value == pytest.approx(level.effect)
        # The seeds are half a unit apart, and the interval knows nothing of it.
        assert level.interval.high - level.interval.low < 0.1
    assert sum(level.effect for level in found.levels[:2]) == pytest.approx(0.0)
    mean = sum(figure(0.1, preset, seed) for preset in PRESET for seed in NOISE) / 9
    assert found.levels[0].mean == pytest.approx(mean)


def test_where_an_arm_is_missing_the_arms_are_what_varies(record, lines):
    found = effects(sweep(record(factors(lines), *grid(lines, leave_out=(5,)))))
    assert not found.balanced
    assert "not balanced" in found.about
    assert len(found.arms) == 5
    slow = found.levels[0]
    assert slow.interval.high - slow.interval.low > 1.0
    fast_grow = next(level for level in found.levels if level.name == "grow")
    assert (len(fast_grow.arms), fast_grow.interval) == (1, None)


def test_an_arm_that_failed_is_missing(record, lines):
    told = grid(lines)
    told[-1] = lines.trial(5, 2, None, status="failed", why="boom")
    found = effects(sweep(record(factors(lines), *told)))
    assert not found.balanced
    assert 5 not in [arm.number for arm in found.arms]


def test_a_control_that_is_no_cell_of_the_design_is_left_out(record, lines):
    own = [lines.arm(9, {"optimizer.lr": 0.3, "turnover.preset": "none"}, control=True, cells=0)]
    own += [lines.trial(9, seed, 50.0) for seed in NOISE]
    rest = grid(lines, control=False)
    found = effects(sweep(record(factors(lines), *rest, *own)))
    assert found.balanced
    assert found.about.startswith("over 6 complete arms, the control apart")
    assert all(abs(level.effect) < 1 for level in found.levels)
    inside = effects(sweep(record(factors(lines), *grid(lines))))
    assert inside.about.startswith("over 6 complete arms, in which")


def test_an_arm_weighs_as_many_cells_as_it_stands_for(record, lines):
    told = []
    for number, (level, cells, value) in enumerate((("a", 2, 1.0), ("b", 1, 4.0), ("b", 1, 8.0))):
        told.append(lines.arm(number, {"f": level, "g": f"{number}"}, cells=cells))
        told += [lines.trial(number, seed, value + 0.1 * seed * number) for seed in NOISE]
    found = effects(sweep(record(lines.spec({"name": "f", "values": ["a", "b"]}), *told)))
    assert found.balanced
    assert [len(level.arms) for level in found.levels] == [1, 2]
    # (1 + 1 + 4.1 + 8.2) / 4
    assert [level.effect for level in found.levels] == pytest.approx([1 - 3.575, 6.15 - 3.575])


def test_repeated_cells_count_in_the_balance(record, lines):
    def of(*cells):
        told = []
        for number, (pair, count) in enumerate(zip(itertools.product("ab", "xy"), cells, strict=True)):
            told.append(lines.arm(number, dict(zip("fg", pair, strict=True)), cells=count))
            told += [lines.trial(number, seed, 1.0 + number + seed) for seed in NOISE]
        spec = lines.spec({"name": "f", "values": ["a", "b"]}, {"name": "g", "values": ["x", "y"]})
        return effects(sweep(record(spec, *told)))

    assert of(2, 2, 2, 2).balanced
    assert not of(2, 1, 1, 1).balanced


def test_a_range_is_told_by_thirds(record, lines):
    values = [0.001, 0.002, 0.01, 0.02, 0.1, 0.2]
    told = []
    for number, value in enumerate(values):
        told.append(lines.arm(number, {"optimizer.lr": value}))
        told += [lines.trial(number, seed, 1.0 + number + 0.1 * seed) for seed in NOISE]
    spec = lines.spec({"name": "optimizer.lr", "values": None, "low": 1e-3, "high": 1.0, "log": True})
    found = effects(sweep(record(spec, *told)))
    assert [(level.name, len(level.arms)) for level in found.levels] == [
        ("0.001 to 0.002", 2),
        ("0.01 to 0.02", 2),
        ("0.1 to 0.2", 2),
    ]
    assert [level.effect for level in found.levels] == pytest.approx([-2.0, 0.0, 2.0])
    assert not found.balanced


def test_equal_values_of_a_range_are_in_one_third_and_what_is_no_number_in_none(record, lines):
    told = []
    for number, value in enumerate([None, 1, 1, 1, 2]):
        told.append(lines.arm(number, {"model.width": value}))
        told += [lines.trial(number, seed, 1.0 + number) for seed in NOISE]
    spec = lines.spec({"name": "model.width", "values": None, "low": 1, "high": 2, "log": False})
    found = effects(sweep(record(spec, *told)))
    assert [(level.name, [arm.number for arm in level.arms]) for level in found.levels] == [
        ("1", [1, 2, 3]),
        ("2", [4]),
    ]


def test_too_little_has_no_effects(record, lines):
    one = [lines.arm(0, {"preset": "none"}), *(lines.trial(0, seed, 1.0) for seed in NOISE)]
    assert effects(sweep(record(lines.spec("preset"), *one))) is None
    assert effects(sweep(record(lines.spec("preset"), *one, lines.arm(1, {"preset": "a"}, "waiting")))) is None


@pytest.mark.parametrize(
    ("level", "name"),
    [
        ("fold", "fold"),
        (0.1, "0.1"),
        (1e-4, "0.0001"),
        (3, "3"),
        (True, "true"),
        (None, "not set"),
        ({"name": "SGD", "lr": 0.1, "nesterov": True}, "SGD (lr 0.1, nesterov true)"),
        ({"name": "SGD"}, "SGD"),
        ({"every": 5}, "every 5"),
        ([1, 2], "[1, 2]"),
    ],
)
def test_levels_have_names(level, name):
    assert level_name(level) == name
