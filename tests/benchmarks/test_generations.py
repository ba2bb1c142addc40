from __future__ import annotations

import itertools
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import compiled_generations  # noqa: E402
import generation_sides  # noqa: E402
import generations  # noqa: E402
import gpu_generations  # noqa: E402
from generation_sides import BARE, NO_CUDA, OURS, SIDES, Setting  # noqa: E402
from generations import Network, Quartiles, Times, in_turn  # noqa: E402

from bfo_diag.cases.digits_mlp import digits  # noqa: E402
from pytorch_bfo_optimizer import covariance, momentum  # noqa: E402

CPU = torch.device("cpu")
Side = Callable[[], object]


@pytest.fixture
def small() -> Network:
    return Network((64, 5, 10), CPU, rows=20)


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class TestNetwork:
    @pytest.mark.parametrize("widths", [(64, 32, 10), (64, 7, 9, 10), (64, 10)])
    def test_its_losses_are_those_of_the_same_layers_one_by_one(self, widths: tuple[int, ...]):
        images, labels = digits()
        network = Network(widths, CPU, rows=50)
        pop_PD = torch.stack([network.start(seed) for seed in range(3)])
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.Tanh()]
        model = nn.Sequential(*layers[:-1])
        assert network.dimension == sum(param.numel() for param in model.parameters())
        for weights_D, loss in zip(pop_PD, network.losses(pop_PD), strict=True):
            nn.utils.vector_to_parameters(weights_D, model.parameters())
            with torch.no_grad():
                expected = nn.functional.cross_entropy(model(images[:50]), labels[:50])
            torch.testing.assert_close(loss, expected)

    def test_it_starts_within_the_usual_reach_and_from_its_seed(self):
        network = Network((64, 32, 10), CPU, rows=1)
        first_D = network.start(0)
        assert torch.equal(first_D, network.start(0))
        assert not torch.equal(first_D, network.start(1))
        inner, outer = first_D[: 65 * 32], first_D[65 * 32 :]
        assert 0.12 < inner.abs().max() <= 1 / math.sqrt(64)
        assert 0.16 < outer.abs().max() <= 1 / math.sqrt(32)


def notes_calls(name: str, calls: list[str]) -> Side:
    return lambda: calls.append(name)


class TestTurns:
    def test_sides_take_turns_in_an_order_that_turns_round(self):
        calls: list[str] = []
        sides = {name: notes_calls(name, calls) for name in "abc"}

        def timer(side: Side, count: int) -> float:
            side()
            return 1.0

        in_turn(sides, timer, rounds=3, block_s=0.0)
        # how many calls fill a block; the round that is thrown away; three rounds
        assert "".join(calls) == "abc" + "abc" + "cba" + "abc" + "cba"

    def test_a_block_is_as_many_calls_as_fill_it_and_the_first_round_does_not_count(self):
        asked: list[tuple[str, int]] = []

        def timer(side: Side, count: int) -> float:
            asked.append((str(side()), count))
            return {"quick": 0.001, "slow": 3.0}[str(side())] * (100 if len(asked) <= 4 else 1)

        times = in_turn({"quick": lambda: "quick", "slow": lambda: "slow"}, timer, rounds=2, block_s=1.0)
        assert dict(asked[2:]) == {"quick": 10, "slow": 1}
        assert times.blocks == {"quick": [0.001, 0.001], "slow": [3.0, 3.0]}

    def test_ratios_and_differences_are_taken_round_by_round(self):
        times = Times({"a": [2.0, 30.0, 400.0], "b": [1.0, 10.0, 100.0]})
        assert times.ratio("a", "b") == (2.5, 3.0, 3.5)
        assert times.beyond("a", "b") == (10.5, 20.0, 160.0)
        assert times.of("b").middle == 10.0

    def test_quartiles_are_those_of_the_blocks_themselves(self):
        values = [5.0, 1.0, 4.0, 2.0, 3.0]
        assert Quartiles.of(values) == tuple(statistics.quantiles(values, n=4, method="inclusive")) == (2, 3, 4)
        assert Quartiles.of(values).shown(".1f") == "3.0 (2.0 to 4.0)"


def spoilt(pop_PD: Tensor) -> Tensor:
    """The sphere function, but for one member that is NaN and one that is -inf."""
    loss_P = generations.sphere(pop_PD)
    loss_P[0], loss_P[3] = math.nan, -math.inf
    return loss_P


class TestGenerations:
    def test_a_momentum_generation_is_spread_evaluate_and_learn(self):
        centre_D, noise_HD = torch.ones(6), torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
        drift, by = momentum.begin(centre_D, 0.1, torch.ones(6)), momentum.pairs(8, torch.float32, CPU)
        after = generations.momentum_generation(spoilt)(drift, by, noise_HD)
        loss_P = generations.sphere(momentum.spread(drift, by, noise_HD)).double()
        loss_P[[0, 3]] = math.inf
        for ours, theirs in zip(after, momentum.learn(drift, by, noise_HD, loss_P), strict=True):
            assert torch.equal(ours, theirs)
        assert bool(after.centre.isfinite().all())

    def test_a_covariance_generation_is_spread_evaluate_and_learn(self):
        noise_PD = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
        drift, by = covariance.begin(torch.ones(3), 0.1, torch.float64), covariance.rates(8, 3, torch.float64, CPU)
        after = generations.covariance_generation(spoilt, by, age=by.refactor_every)(drift, noise_PD)
        tumble_PD, position_PD = covariance.spread(drift, noise_PD.double())
        loss_P = generations.sphere(position_PD.float()).double()
        loss_P[[0, 3]] = math.inf
        expected = covariance.learn(drift, by, noise_PD.double(), tumble_PD, loss_P, age=by.refactor_every)
        for ours, theirs in zip(after, expected, strict=True):
            assert torch.equal(ours, theirs)
        assert not torch.equal(after.factor, drift.factor)


class TestSides:
    def test_bytes_are_counted_as_the_benchmark_says(self, small: Network):
        setting = Setting.of(small, 6, compiles=False)
        noise, positions, layers = 3 * small.dimension, 6 * small.dimension, 6 * 20 * (5 + 10)
        assert setting.own_bytes == 4 * (3 * noise + positions)
        assert setting.whole_bytes == 4 * (3 * noise + 2 * positions + 2 * layers)

    def test_a_step_moves_the_drift_by_noise_that_is_new(self, small: Network):
        setting = Setting.of(small, 6, compiles=False)
        seen: list[tuple[Tensor, Tensor]] = []

        def generation(drift: momentum.Drift, by: momentum.Pairs, noise_HD: Tensor) -> momentum.Drift:
            seen.append((drift.centre, noise_HD.clone()))
            return generations.momentum_generation(small.losses)(drift, by, noise_HD)

        step = generation_sides.stepping(setting, generation)
        step()
        assert len(seen) == 4
        assert len({centre_D.sum().item() for centre_D, _ in seen}) == 4
        assert len({noise_HD.sum().item() for _, noise_HD in seen}) == 4

    def test_a_side_that_fails_is_a_line_of_the_report(self, small: Network, monkeypatch: pytest.MonkeyPatch):
        def failing(setting: Setting) -> Side:
            raise torch.OutOfMemoryError("too much\nof it")

        def failing_later(setting: Setting) -> Side:
            return lambda: 1 / 0

        monkeypatch.setattr(
            generation_sides, "SIDES", {"a": failing, "b": failing_later, "c": lambda setting: lambda: None}
        )
        sides, missing = generation_sides.prepared(Setting.of(small, 4, compiles=False))
        assert list(sides) == ["c"]
        assert missing == {
            "a": "not measured: OutOfMemoryError: too much",
            "b": "not measured: ZeroDivisionError: division by zero",
        }


def small_run(**options: str) -> dict[str, Any]:
    given = {"device": "cpu", "rounds": "2", "block": "0", "populations": "4", "networks": "64-5-10", "rows": "10"}
    return gpu_generations.main([word for name, value in {**given, **options}.items() for word in (f"--{name}", value)])


class TestOnACpu:
    def test_the_gpu_benchmark_runs_in_small_and_says_what_it_could_not_measure(self, tmp_path: Path, capsys: Any):
        log = tmp_path / "deep" / "log.txt"
        facts = small_run(log=str(log))
        printed = capsys.readouterr().out
        assert log.read_text() == printed
        assert json.loads(printed.splitlines()[-1]) == json.loads(json.dumps(facts))
        (found,) = facts["settings"]
        assert found["population"] == 4
        assert found["dimension"] == 65 * 5 + 6 * 10
        assert {BARE, "eager", OURS} <= set(found["seconds"])
        assert set(found["seconds"]) | set(found["missing"]) == set(SIDES)
        assert found["missing"]["CUDA graph"] == found["missing"]["reduce-overhead"] == NO_CUDA
        assert found["missing"]["compiled"] == "not measured: --compile was not given"
        assert set(found["waits"].values()) == {NO_CUDA}
        assert all(low <= middle <= high for low, middle, high in found["seconds"].values())
        assert found["to_bare"][BARE] == (1, 1, 1)
        for name in SIDES:
            assert f"| {name} | " in printed

    def test_a_generation_of_minimize_is_what_one_takes_of_a_call_of_many(self, small: Network):
        made: list[int] = []
        losses = small.losses
        small.losses = lambda pop_PD: made.append(len(pop_PD)) or losses(pop_PD)  # type: ignore[method-assign]
        generation_sides.minimising(Setting.of(small, 6, compiles=False), 5)()
        assert made == [6] * 5

    def test_limits_are_bytes_over_the_speed_of_a_copy(self, small: Network):
        found = gpu_generations.measured(Setting.of(small, 4, compiles=False), 1e6, rounds=2, block_s=0.0)
        assert found["limit_s"] == {"own": found["own_bytes"] / 1e6, "whole": found["whole_bytes"] / 1e6}
        found["seconds"]["eager"] = Quartiles(1.0, 2.0, 3.0)
        found["beyond_bare_s"]["eager"] = Quartiles(0.25, 0.5, 1.0)
        found["to_bare"]["eager"] = Quartiles(1.1, 1.2, 1.3)
        whole, own = 2 / found["limit_s"]["whole"], 0.5 / found["limit_s"]["own"]
        expected = f"| eager | 2000.0000 (1000.0000 to 3000.0000) | 1.20 (1.10 to 1.30) | {whole:.1f} | {own:.1f} |"
        assert gpu_generations.row("eager", found) == expected

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
    def test_without_a_cuda_device_it_says_how_to_run(self, capsys: Any):
        with pytest.raises(SystemExit):
            small_run(device="cuda")
        assert "no CUDA device here: --device cpu" in capsys.readouterr().err

    def test_quartiles_need_two_rounds(self, capsys: Any):
        with pytest.raises(SystemExit):
            small_run(rounds="1")
        assert "--rounds" in capsys.readouterr().err


class TestCompiled:
    @pytest.mark.compile
    def test_it_compiles_each_season_once_and_compares_with_eager(self, capsys: Any):
        given = "--backend eager --momentum 3 --covariance 2 --population 8 --rounds 3 --block 0"
        facts = compiled_generations.main(given.split())
        printed = capsys.readouterr().out
        assert json.loads(printed.splitlines()[-1]) == json.loads(json.dumps(facts))
        assert [(found["season"], found["dimension"]) for found in facts["settings"]] == [
            ("momentum", 3),
            ("covariance", 2),
        ]
        for found in facts["settings"]:
            assert {"eager", "compiled", "eager again (A/A)"} <= set(found["seconds"])
        assert facts["never_slower"] == all(found["verdict"] != "slower" for found in facts["settings"])
        said = "reached" if facts["never_slower"] else "not reached"
        assert f"never slower than eager: {said}\n" in printed

    @pytest.mark.parametrize(
        ("ratio", "control", "expected"),
        [
            ((1.2, 1.3, 1.4), (0.9, 1.0, 1.1), "slower"),
            ((1.05, 1.3, 1.4), (0.9, 1.0, 1.1), "not told apart"),
            ((0.95, 0.97, 0.99), (0.8, 0.85, 0.9), "not told apart"),
            ((0.7, 0.75, 0.8), (0.9, 1.0, 1.1), "faster"),
            ((0.7, 0.75, 0.95), (0.9, 1.0, 1.1), "not told apart"),
            ((1.02, 1.05, 1.1), (1.2, 1.3, 1.4), "not told apart"),
        ],
    )
    def test_a_verdict_takes_the_noise_of_the_machine_into_account(
        self, ratio: tuple[float, ...], control: tuple[float, ...], expected: str
    ):
        assert compiled_generations.verdict(Quartiles(*ratio), Quartiles(*control)) == expected

    def test_a_side_repeats_one_generation_with_new_noise(self):
        """A drift that went on for thousands of generations would end in denormal numbers."""
        seen: list[momentum.Drift] = []
        losses: list[Tensor] = []

        def through(generation: Callable[..., Any]) -> Callable[..., Any]:
            def noted(drift: momentum.Drift, *rest: Any) -> momentum.Drift:
                seen.append(drift)
                losses.append(rest[-1].clone())
                return generation(drift, *rest)

            return noted

        side = compiled_generations.momentum_side(5, 8)(through)
        for _ in range(3):
            side()
        assert len(seen) == 6
        assert seen[3] is seen[4] is seen[5]
        assert not torch.equal(seen[3].centre, seen[0].centre)
        assert len({noise.sum().item() for noise in losses}) == 6


def test_the_suite_is_no_part_of_the_tests_and_says_what_it_needs():
    root = BENCHMARKS.parent
    without = "import sys; sys.modules['pytest_benchmark'] = None; import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    ran = subprocess.run(
        [sys.executable, "-c", without, "-p", "no:benchmark", "benchmarks/suite", "--collect-only", "-q"],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == pytest.ExitCode.USAGE_ERROR
    assert "pip install 'bfo-diag[bench]'" in ran.stderr
