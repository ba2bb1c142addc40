from __future__ import annotations

import gc
import math
import random
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pytorch_bfo_optimizer import GradientCollector, TelemetryConfig, TelemetryError

NORMS_ALONE = TelemetryConfig(zero_every=0)


def randn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_every_number_is_that_of_the_twin(mixed: dict[str, Tensor], parameters: Callable, twin: Callable) -> None:
    mixed["row"][:100] = 0
    mixed["small"] = randn(50, seed=10) * 1e-12
    mixed["large"] = randn(50, seed=11) * 1e6
    expected = {name: twin(gradient) for name, gradient in mixed.items()}
    collector = GradientCollector(parameters(mixed).items(), config=TelemetryConfig(zero_every=1))
    found = collector.collect(step=3).materialize()
    slow = [each.norm for each in expected.values()]
    sizes = [gradient.numel() for gradient in mixed.values()]
    assert found.step == 3
    assert found.names == tuple(mixed)
    assert found.norms == pytest.approx(slow, rel=1e-6, abs=0)
    assert found.total_norm == pytest.approx(math.hypot(*slow), rel=1e-6, abs=0)
    assert (found.min_norm, found.max_norm) == pytest.approx((min(slow), max(slow)), rel=1e-6, abs=0)
    assert found.mean_norm == pytest.approx(sum(slow) / len(slow), rel=1e-6, abs=0)
    assert (found.vanishing, found.exploding) == (1, 1)
    assert found.zero_shares == pytest.approx([e.zeros / n for e, n in zip(expected.values(), sizes, strict=True)])
    assert found.zero_share == pytest.approx(sum(each.zeros for each in expected.values()) / sum(sizes))
    assert found.elements == sum(sizes)
    assert (found.nan_counts, found.inf_counts, found.non_finite, found.missing) == ({}, {}, (), ())
    assert found.health == pytest.approx(1 - 0.5 / 11 - 0.8 / 11)
    assert found.status == "exploding"


def test_the_total_is_that_of_torchs_own_function(mixed: dict[str, Tensor], parameters: Callable) -> None:
    torchs = torch.nn.utils.get_total_norm([gradient.double() for gradient in mixed.values()])
    pending = GradientCollector(parameters(mixed).items()).collect()
    assert (pending.total_norm.dtype, pending.total_norm.shape) == (torch.float64, ())
    assert pending.total_norm.item() == pytest.approx(torchs.item(), rel=1e-6, abs=0)
    assert pending.materialize().total_norm == pytest.approx(torchs.item(), rel=1e-6, abs=0)


def test_three_thousand_random_placements_are_all_found_and_nothing_else(
    mixed: dict[str, Tensor], parameters: Callable
) -> None:
    placed = parameters(mixed)
    collector = GradientCollector(placed.items(), config=NORMS_ALONE)
    chance = random.Random(0)
    clean = {name: gradient.clone() for name, gradient in mixed.items()}
    for _ in range(3000):
        wanted: dict[str, dict[str, int]] = {"nan": {}, "inf": {}}
        hit = chance.sample(list(mixed), chance.choice([1, 1, 1, 2, 3]))
        for name in hit:
            places = chance.sample(range(mixed[name].numel()), min(mixed[name].numel(), chance.choice([1, 1, 2, 5])))
            for place in places:
                value = chance.choice([math.nan, math.inf, -math.inf])
                where = torch.unravel_index(torch.tensor(place), mixed[name].shape)
                mixed[name][where] = value
                counts = wanted["inf" if math.isinf(value) else "nan"]
                counts[name] = counts.get(name, 0) + 1
        found = collector.collect().materialize()
        assert (found.nan_counts, found.inf_counts) == (wanted["nan"], wanted["inf"])
        assert set(found.non_finite) == set(hit)
        assert (found.health, found.status, found.not_counted) == (0.0, "non-finite", ())
        assert not math.isfinite(found.total_norm)
        for name in hit:
            mixed[name].copy_(clean[name])


def test_clean_gradients_of_any_size_raise_no_alarm(parameters: Callable) -> None:
    chance = random.Random(1)
    for seed in range(500):
        scale = 10.0 ** chance.uniform(-44, 38)
        gradients = {"a": randn(1500, seed=seed) * scale, "b": randn(seed=seed, dtype=torch.float64) * scale**7}
        gradients = {name: gradient.nan_to_num() for name, gradient in gradients.items()}
        found = GradientCollector(parameters(gradients).items(), config=NORMS_ALONE).collect().materialize()
        assert (found.nan_counts, found.inf_counts, found.not_counted) == ({}, {}, ())
        assert found.health > 0
        assert found.status != "non-finite"
        assert all(map(math.isfinite, found.norms))


def test_all_nan_is_no_perfect_health(parameters: Callable) -> None:
    found = GradientCollector(parameters({"a": torch.full((4,), math.nan)}).items()).collect().materialize()
    assert (found.health, found.status, found.nan_counts) == (0.0, "non-finite", {"a": 4})
    assert (found.min_norm, found.max_norm, found.mean_norm) == (None, None, None)
    assert math.isnan(found.total_norm)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_overflow_of_the_squares_is_told_from_inf(dtype: torch.dtype, parameters: Callable) -> None:
    huge = torch.full((5000,), 1e20 if dtype is torch.float32 else 1e200, dtype=dtype)
    broken = huge.clone()
    broken[17] = math.inf
    gradients = {"huge": huge, "broken": broken}
    found = GradientCollector(parameters(gradients).items()).collect().materialize()
    assert found.norms[0] == pytest.approx(float(huge[0]) * math.sqrt(5000), rel=1e-6, abs=0)
    assert (found.inf_counts, found.non_finite, found.exploding) == ({"broken": 1}, ("broken",), 1)
    del gradients["broken"]
    alone = GradientCollector(parameters(gradients).items()).collect().materialize()
    assert alone.total_norm == pytest.approx(found.norms[0])
    assert (alone.status, alone.health) == ("exploding", pytest.approx(0.2))


@pytest.mark.parametrize("zero_every", [0, 1])
def test_squares_that_underflow_are_no_zeros(zero_every: int, parameters: Callable) -> None:
    gradients = {"tiny": torch.full((5000,), 1e-25), "zero": torch.zeros(5000)}
    config = TelemetryConfig(zero_every=zero_every)
    found = GradientCollector(parameters(gradients).items(), config=config).collect().materialize()
    assert found.norms == (pytest.approx(1e-25 * math.sqrt(5000), rel=1e-6, abs=0), 0.0)
    assert found.vanishing == 2


@pytest.mark.parametrize("gradient", [None, torch.zeros(0)])
def test_without_gradients_it_says_so(gradient: Tensor | None, parameters: Callable) -> None:
    collector = GradientCollector(parameters({"a": gradient}).items(), {"host": ["a"]}, TelemetryConfig(zero_every=1))
    pending = collector.collect()
    assert pending.total_norm == 0
    assert pending.clip_(1.0) == 0
    found = pending.materialize()
    assert (found.status, found.health, found.total_norm, found.zero_share) == ("no gradients", None, None, None)
    assert found.missing == (("a",) if gradient is None else ())
    assert (found.groups["host"].norm, found.groups["host"].root_mean_square, found.elements) == (0.0, None, 0)


def test_a_tensor_without_elements_is_neither_healthy_nor_vanishing(parameters: Callable) -> None:
    gradients = {"empty": torch.zeros(0, 3), "one": torch.ones(4), "lost": torch.zeros(4)}
    found = GradientCollector(parameters(gradients).items()).collect().materialize()
    assert (found.vanishing, found.health) == (1, 0.75)
    assert found.norms[0] == 0.0


def test_frozen_parameters_are_not_missing() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    assert GradientCollector(model.named_parameters()).collect().materialize().missing == ("weight",)


def test_groups_have_their_norm_and_their_ratio_by_size(parameters: Callable) -> None:
    gradients = {"host.a": torch.full((90,), 2.0), "host.b": torch.full((10,), 2.0), "seed": torch.full((4,), 8.0)}
    found = GradientCollector(parameters(gradients).items(), {"host": ["host"], "seed": ["seed"]}).collect()
    stats = found.materialize()
    assert stats.groups["host"].norm == pytest.approx(20.0)
    assert (stats.groups["host"].tensors, stats.groups["host"].elements) == (2, 100)
    assert stats.groups["seed"].root_mean_square == pytest.approx(8.0)
    assert stats.ratio == pytest.approx(0.25)


def test_a_group_keeps_its_nan_to_itself(parameters: Callable) -> None:
    gradients = {"a": torch.tensor([math.nan]), "b": torch.tensor([math.inf]), "c": torch.ones(1)}
    groups = {"broken": ["a", "b"], "clean": ["c"]}
    found = GradientCollector(parameters(gradients).items(), groups).collect().materialize()
    assert math.isnan(found.groups["broken"].norm)
    assert (found.groups["clean"].norm, found.ratio) == (1.0, None)


def test_zeros_are_counted_at_the_first_of_so_many_samples(parameters: Callable) -> None:
    collector = GradientCollector(parameters({"a": torch.eye(4)}).items(), config=TelemetryConfig(zero_every=3))
    shares = [collector.collect().materialize().zero_share for _ in range(7)]
    assert shares == [0.75, None, None, 0.75, None, None, 0.75]


def test_what_was_changed_is_not_counted_and_never_called_clean(parameters: Callable) -> None:
    gradients = {"a": torch.tensor([math.nan, 1.0]), "b": torch.tensor([math.inf, 1.0]), "c": torch.ones(3)}
    collector = GradientCollector(parameters(gradients).items())
    pending = collector.collect()
    for gradient in gradients.values():
        gradient.zero_()
    found = pending.materialize()
    assert found.not_counted == found.non_finite == ("a", "b")
    assert (found.nan_counts, found.inf_counts, found.status, found.health) == ({}, {}, "non-finite", 0.0)
    assert found.norms[2] == pytest.approx(math.sqrt(3))


def test_a_small_norm_is_not_taken_again_of_what_was_changed(parameters: Callable) -> None:
    gradient = torch.full((100,), 1e-18)
    pending = GradientCollector(parameters({"a": gradient}).items(), config=NORMS_ALONE).collect()
    gradient.fill_(5.0)
    assert pending.materialize().norms == (pytest.approx(1e-17, rel=1e-6, abs=0),)


def test_a_change_behind_the_back_of_autograd_is_noticed_too(parameters: Callable) -> None:
    gradients = {"a": torch.tensor([math.nan, 1.0]), "b": torch.tensor([math.inf, 1.0]), "c": torch.ones(3)}
    pending = GradientCollector(parameters(gradients).items()).collect()
    versions = [gradient._version for gradient in gradients.values()]
    for gradient in gradients.values():
        gradient.data.zero_()
    assert [gradient._version for gradient in gradients.values()] == versions  # or the test above says it all
    found = pending.materialize()
    assert found.not_counted == ("a", "b")
    assert (found.status, found.health) == ("non-finite", 0.0)


def test_gradients_that_are_replaced_are_still_those_that_were_collected(parameters: Callable) -> None:
    made = parameters({"a": torch.tensor([math.nan, 1.0])})
    pending = GradientCollector(made.items()).collect()
    made["a"].grad = None  # zero_grad()
    assert pending.materialize().nan_counts == {"a": 1}


def test_the_gradients_are_let_go_when_they_were_measured(parameters: Callable) -> None:
    made = parameters({"a": torch.tensor([math.nan, 1.0])})
    pending = GradientCollector(made.items()).collect()
    memory = weakref.ref(made["a"].grad.untyped_storage())
    gradient = weakref.ref(made["a"].grad)
    made["a"].grad = None
    gc.collect()
    assert gradient() is not None
    first = pending.materialize()
    gc.collect()
    assert (gradient(), memory()) == (None, None)
    assert pending.materialize() is first


@pytest.mark.parametrize("scale", [4.0, torch.tensor(4.0)])
def test_a_scale_is_divided_out(scale: Tensor | float, parameters: Callable) -> None:
    gradients = {"a": torch.tensor([12.0, 16.0]), "b": torch.tensor([math.inf])}
    pending = GradientCollector(parameters(gradients).items(), {"a": ["a"]}).collect(scale=scale)
    assert pending.total_norm == math.inf
    with pytest.raises(TelemetryError, match="unscale_ them before collect"):
        pending.clip_(1.0)
    found = pending.materialize()
    assert (found.norms[0], found.groups["a"].norm, found.inf_counts) == (5.0, 5.0, {"b": 1})
    del gradients["b"]
    assert GradientCollector(parameters(gradients).items()).collect(scale=scale).total_norm == 5.0


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_a_scale_that_is_none_is_refused(scale: float, parameters: Callable) -> None:
    collector = GradientCollector(parameters({"a": torch.ones(2)}).items())
    with pytest.raises(TelemetryError, match="must be a positive number"):
        collector.collect(scale=scale)
    with pytest.raises(TelemetryError, match="must be a positive number"):
        collector.collect(scale=torch.tensor(scale)).materialize()


def test_collecting_leaves_gradients_and_global_state_alone(parameters: Callable) -> None:
    gradients = {"a": randn(2000), "b": torch.tensor([math.nan, 1e20])}
    before = {name: gradient.clone() for name, gradient in gradients.items()}
    torch.manual_seed(3)
    random_state = torch.get_rng_state()
    GradientCollector(parameters(gradients).items()).collect().materialize()
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), random_state)
    for name, gradient in gradients.items():
        assert gradient._version == 0
        torch.testing.assert_close(gradient, before[name], rtol=0, atol=0, equal_nan=True)
