"""Which levels go together: every cell of a grid, the rows of an array, pairs for a check, a trial's suggestions."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest

from bfo_diag.errors import DiagError
from bfo_diag.probes.sweep import designs
from bfo_diag.probes.sweep.factors import Factor
from bfo_diag.probes.sweep.spec import Spec

ABC = (Factor("optimizer.a", (1, 2)), Factor("optimizer.b", ("x", "y", "z")), Factor("optimizer.c", (True, False)))


def spec(sampler="grid", factors=ABC, **changed):
    return Spec("s", Path("s.toml"), sampler, (0, 1, 2), {}, factors, {}, **changed)


def test_a_grid_is_every_combination_in_the_order_of_the_factors():
    found = [tuple(cell.values()) for cell in designs.cells(spec())]
    assert found == list(itertools.product((1, 2), ("x", "y", "z"), (True, False)))
    assert [*designs.cells(spec())[0]] == ["optimizer.a", "optimizer.b", "optimizer.c"]


def test_a_grid_that_nobody_waits_for_is_refused():
    many = tuple(Factor(f"optimizer.{name}", tuple(range(100))) for name in "ab")
    assert len(designs.cells(spec(factors=many))) == 10_000
    with pytest.raises(DiagError, match="the grid has 20000 cells, and 10000 are the most"):
        designs.cells(spec(factors=(*many, Factor("optimizer.c", (1, 2)))))


def test_a_design_has_every_pair_of_levels_equally_often():
    cells = designs.cells(spec("taguchi"))
    assert designs.array(spec("taguchi"))[0] == "L36(3^23)"
    assert len(cells) == 36
    for one, other in itertools.combinations(ABC, 2):
        pairs = Counter((cell[one.name], cell[other.name]) for cell in cells)
        assert set(pairs) == set(itertools.product(one.values, other.values))
        assert len(set(pairs.values())) == 1


def test_a_factor_of_one_level_takes_no_column():
    fixed = (Factor("optimizer.a", (7,)), *(Factor(f"optimizer.{name}", (0, 1)) for name in "bcd"))
    cells = designs.cells(spec("taguchi", fixed))
    assert designs.array(spec("taguchi", fixed))[0] == "L4(2^3)"
    assert {cell["optimizer.a"] for cell in cells} == {7}
    assert len({tuple(cell.values()) for cell in cells}) == 4


def test_an_array_that_is_asked_for_is_used_and_one_that_does_not_fit_is_refused_with_the_file():
    assert designs.array(spec("taguchi", ABC[:1], array="L12(2^11)"))[0] == "L12(2^11)"
    assert len(designs.cells(spec("taguchi", ABC[:1], array="L12(2^11)"))) == 12
    with pytest.raises(DiagError, match=r"s.toml: the array L4\(2\^3\) does not fit factors of 2, 3, 2 levels"):
        designs.cells(spec("taguchi", array="L4(2^3)"))
    assert designs.array(spec()) is None


def test_of_a_sampler_nothing_is_known_and_all_pairs_of_levels_are_to_be_checked():
    ranged = (*ABC[:2], Factor("optimizer.c", low=0.1, high=1.0))
    random = spec("random", ranged, trials=3)
    assert designs.cells(random) == ()
    found = list(designs.pairs(random))
    for one, other in itertools.combinations(ranged, 2):
        assert {(cell[one.name], cell[other.name]) for cell in found} == set(
            itertools.product(one.corners, other.corners)
        )
    assert all(cell.keys() == {factor.name for factor in ranged} for cell in found)
    alone = spec("tpe", (Factor("optimizer.a", low=1, high=9),), trials=3)
    assert list(designs.pairs(alone)) == [{"optimizer.a": 1}, {"optimizer.a": 9}]


def test_optuna_suggests_the_levels_themselves_and_keeps_what_it_can():
    import optuna

    tables = ({"name": "SGD"}, {"name": "Adam", "betas": [0.8, 0.9]})
    factors = (
        Factor("optimizer", tables),
        Factor("turnover.preset", ("none", "hybrid")),
        Factor("compile.enabled", (1, True)),
        Factor("training.epochs", low=1, high=3),
        Factor("model.dropout", low=1e-3, high=0.5, log=True),
        Factor("training.clip_norm", (0.5, 1)),
        Factor("turnover.every", low=1, high=1000, log=True),
    )
    suggesting = spec("random", factors, trials=9)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found = []
    for _ in range(40):
        trial = study.ask()
        found.append(designs.suggest(suggesting, trial))
        assert found[-1].keys() == {factor.name for factor in factors}
        study.tell(trial, 0.0)
    assert [any(level["optimizer"] == table for level in found) for table in tables] == [True, True]
    assert {level["turnover.preset"] for level in found} == {"none", "hybrid"}
    assert {repr(level["compile.enabled"]) for level in found} == {"1", "True"}
    assert {repr(level["training.epochs"]) for level in found} == {"1", "2", "3"}
    assert {repr(level["training.clip_norm"]) for level in found} == {"0.5", "1"}
    dropouts = sorted(level["model.dropout"] for level in found)
    assert 1e-3 <= dropouts[0] < 1e-2 < 0.1 < dropouts[-1] <= 0.5
    logged = study.trials[0].distributions
    drawn_by_logarithm = {name for name in logged if getattr(logged[name], "log", False)}
    assert drawn_by_logarithm == {"model.dropout", "turnover.every"}
    assert set(logged["turnover.preset"].choices) == {"none", "hybrid"}
