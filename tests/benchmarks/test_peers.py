from __future__ import annotations

import logging
import math
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

from peers import (  # noqa: E402
    comparison,
    cost,
    cost_report,
    cost_sides,
    digits_loss,
    digits_report,
    quality,
    quality_report,
    results,
    runners,
    shade_mutation,
)
from peers.comparison import Cell  # noqa: E402
from peers.digits import DigitsRun  # noqa: E402
from peers.functions import MAIN, VARIANTS, Function, Problem, problem  # noqa: E402
from peers.held_out import HELD_OUT  # noqa: E402
from peers.recorder import SOLVED, Recorder, Stop  # noqa: E402

EVERY = [*MAIN.values(), *HELD_OUT.values()]
every_problem = pytest.mark.parametrize("dim", [2, 10, 30])
every_variant = pytest.mark.parametrize("variant", VARIANTS)
every_function = pytest.mark.parametrize("function", EVERY, ids=lambda function: function.name)


@pytest.fixture(autouse=True)
def heard():
    """A measurement silences peers for the life of its process; here that is the tests' process."""
    disabled, floating = logging.root.manager.disable, np.geterr()
    yield
    logging.disable(disabled)
    np.seterr(**floating)


class TestFunctions:
    @every_function
    @every_variant
    @every_problem
    def test_the_minimum_is_zero_and_in_the_box(self, function: Function, variant, dim: int):
        made = Problem(function, dim, variant)
        random = np.random.default_rng(0)
        assert abs(made.numpy(made.optimum)) < 1e-12
        assert np.all((made.optimum >= made.low) & (made.optimum <= made.high))
        wide = random.uniform(3 * made.low, 3 * made.high, (2000, dim))
        near = made.optimum + 1e-3 * random.standard_normal((2000, dim))
        assert made.numpy(wide).min() > 0
        assert made.numpy(near).min() > 0

    @every_function
    @every_variant
    def test_batches_single_vectors_and_torch_agree(self, function: Function, variant):
        made = Problem(function, 5, variant)
        pop_PD = np.random.default_rng(1).uniform(made.low, made.high, (9, 5))
        values = made.numpy(pop_PD)
        assert values.shape == (9,)
        np.testing.assert_allclose([made.numpy(x) for x in pop_PD], values, rtol=1e-9)
        by_torch = made.torch(torch.as_tensor(pop_PD))
        assert by_torch.dtype == torch.float64
        np.testing.assert_allclose(by_torch.numpy(), values, rtol=1e-9)

    @every_function
    def test_a_variant_follows_from_name_and_dimension_alone(self, function: Function):
        first, again = (Problem(function, 10, "shifted-rotated") for _ in range(2))
        shift, rotation_DD, _ = first.moved
        assert np.array_equal(again.moved[0], shift)
        assert np.array_equal(again.moved[1], rotation_DD)
        np.testing.assert_allclose(rotation_DD @ rotation_DD.T, np.eye(10), atol=1e-12)
        assert np.abs(rotation_DD - np.eye(10)).max() > 0.1
        middle, width = (first.low + first.high) / 2, first.high - first.low
        assert np.all(np.abs(shift - middle) <= 0.4 * width)
        assert np.ptp(shift) > 0.1 * width
        assert not np.allclose(Problem(function, 11, "shifted-rotated").optimum[:10], shift)

    def test_the_shifts_of_two_functions_differ_and_one_is_pinned(self):
        shares = [Problem(one, 3, "shifted-rotated").optimum / one.bounds[1] for one in EVERY]
        assert len({tuple(share.round(3)) for share in shares}) == len(EVERY)
        pinned = [2.9605572, -2.6675502]
        made = problem("sphere", 2, "shifted-rotated")
        np.testing.assert_allclose(made.optimum, pinned, rtol=1e-6)
        np.testing.assert_allclose(made.moved[1][0], [-0.6532223, 0.7571661], rtol=1e-6)

    @pytest.mark.parametrize(
        ("name", "x", "value"),
        [
            ("sphere", [1.0, 2.0, 3.0], 14.0),
            ("rosenbrock", [0.0, 0.0, 0.0], 2.0),
            ("rosenbrock", [1.0, 2.0, 4.0], 100.0 + 1.0),
            ("rastrigin", [1.0, -2.0, 0.5], 1.0 + 4.0 + 20.25),
            ("ellipsoid", [1.0, 1.0, 2.0], 1.0 + 1e3 + 4e6),
            ("ackley", [3.0, 3.0, 3.0], 20.0 - 20.0 * math.exp(-0.6)),
            ("griewank", [2 * math.pi, 0.0, 0.0], math.pi**2 / 1000),
            ("griewank", [0.0, math.pi * math.sqrt(2), 0.0], 2 * math.pi**2 / 4000 + 2.0),
            ("levy", [5.0, 1.0, 1.0], 1.0 + 10.0 * math.sin(1.0) ** 2),
            ("levy", [1.0, 1.0, 3.0], 0.25),
            ("schwefel", [0.0, 0.0, 0.0], 3 * 418.982887),
        ],
    )
    def test_known_values(self, name: str, x: list[float], value: float):
        assert problem(name, 3).numpy(np.array(x)) == pytest.approx(value, rel=1e-8)

    def test_schwefel_rises_outside_the_box(self):
        made = problem("schwefel", 2)
        edge, outside = made.numpy(np.array([500.0, 0.0])), made.numpy(np.array([700.0, 0.0]))
        assert outside == pytest.approx(edge + 0.01 * 200**2)

    def test_unknown_names_and_variants_are_refused(self):
        with pytest.raises(ValueError, match="no function 'spehre': there are sphere"):
            problem("spehre", 2)
        with pytest.raises(ValueError, match="must be one of plain, shifted-rotated"):
            problem("sphere", 2, "rotated")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="two coordinates"):
            problem("sphere", 1)


class TestRecorder:
    """On the sphere in two dimensions: the value of (r, 0) is r squared."""

    @staticmethod
    def points(*radii: float) -> Tensor:
        return torch.tensor([[radius, 0.0] for radius in radii], dtype=torch.float64)

    def test_single_vectors_stop_at_the_budget(self):
        recorder = Recorder(problem("sphere", 2), [2, 4])
        for radius in (3.0, 2.0, 1.0):
            recorder.single(np.array([radius, 0.0]))
        with pytest.raises(Stop, match="budget"):
            recorder.single(np.array([4.0, 0.0]))
        assert recorder.gaps() == {2: 4.0, 4: 1.0}
        with pytest.raises(Stop):
            recorder.single(np.array([0.5, 0.0]))
        assert recorder.evaluations == 4
        assert recorder.gaps() == {2: 4.0, 4: 1.0}

    def test_a_batch_is_cut_at_the_budget_and_a_checkpoint_within_it_is_kept(self):
        recorder = Recorder(problem("sphere", 2), [2, 4])
        with pytest.raises(Stop, match="budget"):
            recorder.torch(self.points(3.0, 2.0, 1.5, 1.0, 0.1))
        assert recorder.evaluations == 4
        assert recorder.gaps() == {2: 4.0, 4: 1.0}

    def test_one_who_ends_early_keeps_what_it_had(self):
        recorder = Recorder(problem("sphere", 2), [2, 100])
        recorder.torch(self.points(3.0))
        recorder.torch(self.points(2.0, 1.0))
        assert recorder.gaps() == {2: 4.0, 100: 1.0}
        assert recorder.solved_at is None

    def test_solved_ends_the_run(self):
        recorder = Recorder(problem("sphere", 2), [2, 100])
        with pytest.raises(Stop, match="solved"):
            recorder.torch(self.points(3.0, 2.0, 1e-4, 1.0))
        assert recorder.solved_at == 3
        assert recorder.gaps()[2] == 4.0
        assert recorder.gaps()[100] <= SOLVED
        single = Recorder(problem("sphere", 2), [100])
        single.single(np.array([1.0, 0.0]))
        with pytest.raises(Stop, match="solved"):
            single.single(np.array([1e-4, 0.0]))
        assert single.solved_at == 2

    def test_nan_is_never_the_best(self):
        recorder = Recorder(problem("sphere", 2), [100])
        recorder.torch(self.points(math.nan, 2.0, math.nan))
        recorder.single(np.array([math.nan, 0.0]))
        assert recorder.gaps() == {100: 4.0}
        assert recorder.evaluations == 4


class TestComparison:
    def test_solved_by_both_is_level_whatever_the_numbers(self):
        assert comparison.outcome([1e-9] * 5, [1e-30] * 5) == "level"
        assert comparison.by_median([1e-9] * 5, [1e-30] * 5) == "level"

    def test_a_clear_difference_wins_and_loses(self):
        low, high = [1.0, 1.1, 1.2, 1.3, 1.4], [2.0, 2.1, 2.2, 2.3, 2.4]
        assert comparison.outcome(low, high) == "win"
        assert comparison.outcome(high, low) == "loss"
        assert comparison.outcome([1e-9] * 5, high) == "win"

    def test_a_difference_that_chance_explains_is_level_though_a_median_is_lower(self):
        first, second = [1.0, 3.0, 5.0, 7.0, 9.0], [2.0, 4.0, 6.0, 8.0, 10.0]
        assert comparison.outcome(first, second) == "level"
        assert comparison.by_median(first, second) == "win"
        assert comparison.by_median(second, first) == "loss"
        assert comparison.outcome([1.0] * 5, [1.0] * 5) == "level"

    def test_spread_is_linear_between_the_values(self):
        assert comparison.spread([5.0, 1.0, 2.0, 3.0]) == comparison.Spread(2.5, 1.75, 3.5, 4)
        assert comparison.spread([7.0]) == comparison.Spread(7.0, 7.0, 7.0, 1)
        with pytest.raises(ValueError, match="one value"):
            comparison.spread([])

    def test_tally_counts_common_cells_alone(self):
        cells = [Cell(name, "plain", 2, 100) for name in "abcde"]
        ours = dict(zip(cells, [[1e-9] * 5, [1.0] * 5, [1.0] * 5, [3.0] * 5, [1.0] * 5], strict=True))
        theirs = dict(zip(cells[:4], [[1e-10] * 5, [10.0] * 5, [9.9] * 5, [1.0] * 5], strict=True))
        count = comparison.tally(ours, theirs)
        assert (count.win, count.level, count.loss) == (2, 1, 1)
        assert (count.better, count.tied, count.worse) == (2, 1, 1)
        assert (count.tenth, count.both_solved, count.cells) == (1, 1, 4)

    def test_a_solved_cell_is_a_tenth_only_of_a_gap_ten_times_the_threshold(self):
        cell = Cell("a", "plain", 2, 100)
        assert comparison.tally({cell: [0.0]}, {cell: [2e-8]}).tenth == 0
        assert comparison.tally({cell: [0.0]}, {cell: [2e-7]}).tenth == 1

    def test_mean_ranks_share_ties_and_leave_out_who_lacks_a_cell(self):
        first, second = Cell("a", "plain", 2, 100), Cell("b", "plain", 2, 100)
        ranks = comparison.mean_ranks(
            {
                "A": {first: [1e-9], second: [1.0]},
                "B": {first: [1e-12], second: [3.0]},
                "C": {first: [1.0], second: [2.0]},
                "D": {first: [0.0]},
            },
            [first, second],
        )
        assert ranks == {"A": 1.25, "B": 2.25, "C": 2.5}

    def test_ratios_pair_rounds(self):
        assert comparison.paired_ratios({0: 2.0, 1: 9.0, 2: 3.0}, {0: 4.0, 2: 1.0, 5: 1.0}) == [0.5, 3.0]


class TestRules:
    @staticmethod
    def everyone(ours: float, theirs: float) -> dict[str, dict[Cell, list[float]]]:
        cells = [Cell(name, "plain", 2, 100) for name in "abcde"]
        mine = {cell: [ours] * 5 for cell in cells}
        other = {cell: [theirs] * 5 for cell in cells}
        return {runners.OURS: mine, "SciPy DE": other, "NiaPy BFO": other, "pycma": other}

    def test_all_reached(self):
        page = quality_report.rules(self.everyone(1.0, 10.0), (0, 0))
        assert page.count("| yes |") == 4
        assert "5 of 5 (100%); both solve 0 more" in page

    def test_none_reached(self):
        page = quality_report.rules(self.everyone(2.0, 1.0), (0, 0))
        assert page.count("**no**") == 4
        assert "0 of 5 (0%), 0 tied, 5 higher" in page

    def test_better_but_not_ten_times(self):
        page = quality_report.rules(self.everyone(1.0, 9.0), (0, 0))
        assert page.count("| yes |") == 3
        assert page.count("**no**") == 1

    def test_ties_stand_apart(self):
        everyone = self.everyone(1.0, 2.0)
        for cell in list(everyone[runners.OURS])[:2]:
            everyone[runners.OURS][cell] = everyone["SciPy DE"][cell] = [1e-9] * 5
        assert "3 of 5 (60%), 2 tied, 0 higher; without the ties 100% | **no** (yes without the ties)" in (
            quality_report.rules(everyone, (1, 2))
        )
        assert "4 of 5 (80%); sooner in 1 of the 2 both solve | yes |" in quality_report.rules(everyone, (1, 2))

    def test_without_ours_nothing_is_claimed(self):
        everyone = self.everyone(1.0, 2.0)
        del everyone[runners.OURS]
        assert "not measured" in quality_report.rules(everyone, (1, 2))
        assert quality_report.counts(everyone) == ""

    def test_tables_show_counts_ranks_and_every_cell(self):
        everyone = self.everyone(1.0, 10.0)
        everyone["pycma"] = {cell: gaps for cell, gaps in everyone["pycma"].items() if cell.function != "a"}
        assert "| pycma | 4 / 0 / 0 |" in quality_report.counts(everyone)
        ranked = quality_report.ranks(everyone)
        assert f"| {runners.OURS} | 1.00 |" in ranked
        assert "pycma" not in ranked
        (cells,) = quality_report.cells(everyone)
        assert "| a | plain | 1 (1 to 1; 5) | 10 (1e+01 to 1e+01; 5) | 10 (1e+01 to 1e+01; 5) | not measured |" in cells


class TestResults:
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
        monkeypatch.setattr(results, "version_of", lambda distribution: f"{distribution} 1")
        return tmp_path / "results"

    @staticmethod
    def run(optimizer: str = "pycma", seed: int = 0, **changed: object) -> results.Run:
        values = {
            "optimizer": optimizer,
            "version": "cma 1",
            "function": "sphere",
            "variant": "plain",
            "dim": 2,
            "seed": seed,
            "budget": 200,
            "gaps": {"100": 1.0, "200": 0.5},
            "evaluations": 200,
            "solved_at": None,
            "cpu_s": 0.1,
        }
        return results.Run(**(values | changed))  # type: ignore[arg-type]

    def test_round_trip_and_a_line_cut_short(self, folder: Path):
        assert list(results.read("main", "pycma")) == []
        results.append("main", self.run())
        with results.path("main", "pycma").open("a") as out:
            out.write('{"optimizer": "pyc')
        results.append("main", self.run(seed=1))
        assert list(results.read("main", "pycma")) == [self.run(), self.run(seed=1)]
        assert results.path("main", "pycma") == folder / "main-pycma.jsonl"

    def tasks(self, *arguments: str) -> list[quality.Task]:
        common = ["--functions", "sphere", "--variants", "plain", "--budgets", "100,200", "--dims", "2"]
        return list(quality.missing(quality.options([*common, *arguments])))

    def test_what_is_done_is_not_run_again(self):
        assert [task.seed for task in self.tasks("--optimizers", "pycma", "--seeds", "0-2")] == [0, 1, 2]
        results.append("main", self.run(seed=1))
        assert [task.seed for task in self.tasks("--optimizers", "pycma", "--seeds", "0-2")] == [0, 2]
        results.append("main", self.run(seed=2, version="cma 0"))
        results.append("main", self.run(seed=0, gaps={"100": 1.0}))
        left = self.tasks("--optimizers", "pycma", "--seeds", "0-2")
        assert [(task.seed, task.checkpoints) for task in left] == [(0, (200,)), (2, (100, 200))]

    def test_one_who_plans_by_the_budget_runs_once_a_budget_and_seeds_are_outermost(self):
        tasks = self.tasks("--optimizers", "NiaPy L-SHADE,pycma", "--seeds", "0,3")
        shown = [(task.seed, task.optimizer, task.checkpoints) for task in tasks]
        assert shown == [
            (seed, *rest)
            for seed in (0, 3)
            for rest in (("NiaPy L-SHADE", (100,)), ("NiaPy L-SHADE", (200,)), ("pycma", (100, 200)))
        ]

    def test_the_report_reads_the_present_version_the_later_line_and_lends_18_d_the_default_in_30(self):
        results.append("main", self.run())
        results.append("main", self.run(gaps={"200": 0.25}))
        results.append("main", self.run(seed=1, version="cma 0"))
        results.append("main", self.run("NiaPy L-SHADE", version="niapy 1", dim=30))
        results.append("main", self.run("NiaPy L-SHADE 18D", version="niapy 1"))
        everyone = quality_report.load("main")
        assert everyone["pycma"] == {Cell("sphere", "plain", 2, 100): [1.0], Cell("sphere", "plain", 2, 200): [0.25]}
        assert Cell("sphere", "plain", 30, 200) in everyone["NiaPy L-SHADE 18D"]
        assert set(everyone) == {"pycma", "NiaPy L-SHADE", "NiaPy L-SHADE 18D"}
        assert quality_report.seeds(everyone)["pycma"] == "1"

    def test_a_run_of_ours_is_counted_and_repeatable(self):
        task = quality.Task("main", "BFO", "ours 1", "rastrigin", "shifted-rotated", 2, 3, (300, 600))
        first, again = quality.perform(task), quality.perform(task)
        assert first.gaps == again.gaps
        assert set(first.gaps) == {"300", "600"}
        assert 300 < first.evaluations <= 600
        assert first.gaps["300"] >= first.gaps["600"] > SOLVED


class TestVersionOfOurs:
    def test_it_follows_the_code_and_not_its_words(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(results, "LIBRARY", tmp_path)
        name = f"{tmp_path.name}.adaptive"
        module = tmp_path / "adaptive.py"
        module.write_text('"""Doc."""\n\ndef f():\n    """Words."""\n    return 1\n')
        first = results.version_of(name)
        module.write_text('"""Other."""\n\n# a comment\ndef f():\n    return 1\n')
        assert results.version_of(name) == first
        module.write_text("def f():\n    return 2\n")
        changed = results.version_of(name)
        assert changed != first
        (tmp_path / "foraging.py").write_text("x = 1\n")
        (tmp_path / "telemetry.py").write_text("x = 1\n")
        assert results.version_of(name) == changed
        for imported in (f"from {tmp_path.name} import foraging", f"from {tmp_path.name}.foraging import x"):
            module.write_text(imported + "\n")
            before = results.version_of(name)
            (tmp_path / "telemetry.py").write_text("x = 2\n")
            assert results.version_of(name) == before
            (tmp_path / "foraging.py").write_text(f"x = {len(imported)}\n")
            assert results.version_of(name) != before


def test_numbers_are_lists_and_ranges():
    assert quality.numbers("0-2,7") == [0, 1, 2, 7]


def test_an_unknown_optimizer_is_refused_with_the_names(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        quality.options(["--optimizers", "pycma,CMA"])
    assert "no optimizer 'CMA': there are AdaptiveBFO" in capsys.readouterr().err


def test_the_other_parents_of_a_mutant_are_uniform_over_those_not_taken():
    random = np.random.default_rng(0)
    drawn = Counter(shade_mutation.integer_without(random, 6, [1, 4]) for _ in range(4000))
    assert set(drawn) == {0, 2, 3, 5}
    assert all(abs(count - 1000) < 150 for count in drawn.values())


def test_the_digits_loss_is_that_of_the_model():
    images, labels = digits_loss.digits()
    models = [digits_loss.model(seed) for seed in (0, 1)]
    pop_PD = torch.stack([digits_loss.start(seed) for seed in (0, 1)])
    assert pop_PD.shape == (2, digits_loss.DIMENSION)
    expected = [nn.functional.cross_entropy(model(images), labels).item() for model in models]
    assert digits_loss.losses(pop_PD).tolist() == pytest.approx(expected, rel=1e-5)
    assert digits_loss.losses(pop_PD[:1]).tolist() == pytest.approx(expected[:1], rel=1e-5)


def test_the_best_digits_loss_is_of_the_budget_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(digits_loss, "BUDGET", 3)
    monkeypatch.setattr(digits_loss, "losses", lambda pop_PD: pop_PD.sum(1))
    best = digits_loss.BestLoss()
    best(torch.tensor([[5.0], [math.nan]]))
    assert not best.spent
    best(torch.tensor([[4.0], [1.0]]))
    assert best.spent
    assert best.best == 4.0
    best.look_at(torch.tensor([2.0]))
    assert best.best == 2.0


class TestDigitsReport:
    @staticmethod
    def page(ours: float | None) -> str:
        runs = [("EvoX OpenES", "lr=0.1", loss) for loss in (0.5, 0.6, 0.7)]
        runs += [("EvoX OpenES", "lr=0.2", 0.4), ("EvoX PSO", "box=1", 1.5)]
        if ours is not None:
            runs.append((runners.OURS, f"population_size={digits_loss.POPULATION}", ours))
        return digits_report.section(
            [DigitsRun(name, "1", setting, seed, loss, 1, 0.0) for seed, (name, setting, loss) in enumerate(runs)]
        )

    def test_each_of_the_others_is_judged_by_its_best_setting(self):
        page = self.page(0.45)
        assert "| EvoX OpenES | lr=0.1 | 0.600 | 0.550 to 0.650 | 3 |  |" in page
        assert "| EvoX OpenES | lr=0.2 | 0.400 | 0.400 to 0.400 | 1 | best setting |" in page
        assert "| a loss at or below that of EvoX OpenES | 0.450 against 0.400 | **no** |" in page
        assert "| a loss at or below that of EvoX PSO | 0.450 against 1.500 | yes |" in page
        assert "| bfo-torch |  | not measured: not on the registry |" in page

    def test_what_is_missing_is_said(self):
        assert "AdaptiveBFO: not measured in its present version" in self.page(None)
        assert digits_report.section([]) == "not measured\n"


class TestCostReport:
    @staticmethod
    def block(name: str, index: int, *, own_s: float, subject: str = "sphere", version: str = "v1") -> cost.Block:
        return cost.Block(subject, name, version, 10, index, 2000, own_s + 1.0, 1.0)

    def test_milliseconds_are_for_1000_evaluations(self):
        block = self.block("A", 0, own_s=0.5)
        assert block.own_ms == pytest.approx(250.0)
        assert block.whole_ms == pytest.approx(750.0)

    def test_ratios_are_taken_within_a_round(self):
        blocks = [self.block(runners.OURS, index, own_s=own) for index, own in ((0, 0.5), (1, 3.0), (2, 0.25))]
        blocks += [self.block("EvoX OpenES", index, own_s=own) for index, own in ((0, 1.0), (2, 1.0))]
        blocks += [self.block(cost.BARE, 0, own_s=0.0, subject="digits")]
        blocks += [self.block(runners.OURS, 0, own_s=0.1, subject="digits")]
        page = cost_report.section(blocks, "v1")
        assert "| AdaptiveBFO / EvoX OpenES, own cost at d = 10, at most 1 | 0.375 (0.312 to 0.438; 2) | yes |" in page
        assert "| AdaptiveBFO: generations over the digits MLP / bare evaluations | 1.100 (1.100 to 1.100; 1) |" in page
        assert "| EvoX PSO: generations over the digits MLP / bare evaluations | not measured |" in page
        assert "| SciPy DE | not measured |" in page
        assert "earlier source" not in page

    def test_blocks_of_an_earlier_source_are_marked(self):
        blocks = [self.block(name, 0, own_s=own) for name, own in ((runners.OURS, 2.0), ("EvoX OpenES", 1.0))]
        page = cost_report.section(blocks, "v2")
        assert page.startswith("**Measured with an earlier source of AdaptiveBFO.**")
        assert "2.000 (2.000 to 2.000; 1) | **no** |" in page
        assert cost_report.section([], "v1") == "not measured\n"

    def test_a_block_counts_its_evaluations_and_the_first_two_generations_stay_outside(self):
        meter, seconds = cost.stepped(cost_sides.bare, cost_sides.sphere, 3, 0, least=2 * cost_sides.POPULATION + 1)
        assert meter.evaluations == 3 * cost_sides.POPULATION
        assert 0 < meter.seconds <= seconds

    def test_one_who_owns_its_loop_is_stopped_at_the_block(self):
        def endless(meter: cost_sides.Meter, dim: int, seed: int) -> None:
            while True:
                assert meter.single(np.full(dim, 2.0)) == 4.0 * dim

        meter, seconds = cost.owned(endless, 3, 0)
        assert meter.evaluations == cost_sides.BLOCK
        assert 0 < meter.seconds <= seconds
