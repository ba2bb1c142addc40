"""Gradient telemetry on a CUDA device: waits, memory and norms as they really are. Skipped, by name, without one."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from pytorch_bfo_optimizer import GradientCollector, GradientStats, TelemetryConfig

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def parameters(gradients: dict[str, Tensor]) -> dict[str, nn.Parameter]:
    made = {}
    for name, gradient in gradients.items():
        made[name] = nn.Parameter(torch.zeros_like(gradient))
        made[name].grad = gradient
    return made


def randn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to("cuda", dtype)


def mixed() -> dict[str, Tensor]:
    found = {str(dtype): randn(3000, 7, dtype=dtype, seed=seed) for seed, dtype in enumerate(DTYPES)}
    found["channels-last"] = randn(8, 3, 9, 9).to(memory_format=torch.channels_last)
    found["0-dim"] = randn()
    return found


@contextmanager
def waits() -> Iterator[list[str]]:
    """Collect what torch says of each call that waits for the device."""
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield said
        finally:
            torch.cuda.set_sync_debug_mode("default")
            said += [str(each.message) for each in caught if "synchronizing CUDA operation" in str(each.message)]


@contextmanager
def no_wait() -> Iterator[None]:
    """Raise where anything waits for the device."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("zero_every", [0, 1])
@pytest.mark.parametrize("scale", [None, 2.0])
def test_nothing_waits_to_collect_and_one_call_to_read(zero_every: int, scale: float | None) -> None:
    collector = GradientCollector(parameters(mixed()).items(), config=TelemetryConfig(zero_every=zero_every))
    collector.collect().materialize()  # (the first use of a kernel may wait for its module)
    torch.cuda.synchronize()
    with no_wait():
        pending = collector.collect(scale=scale)
        _ = pending.total_norm
    with waits() as said:
        pending.materialize()
    assert len(said) == 1


@pytest.mark.parametrize("special", [math.nan, math.inf])
def test_non_finite_numbers_cost_one_wait_more(special: float) -> None:
    gradients = mixed()
    collector = GradientCollector(parameters(gradients).items())
    gradients["torch.float32"][5, 3] = special
    with no_wait():
        pending = collector.collect()
    with waits() as said:
        found = pending.materialize()
    assert len(said) == 2
    assert found.non_finite == ("torch.float32",)


def test_clipping_does_not_wait() -> None:
    collector = GradientCollector(parameters({"a": randn(5000), "b": randn(40, 40)}).items())
    collector.collect().clip_(1e9)
    torch.cuda.synchronize()
    pending = collector.collect()
    with no_wait():
        pending.clip_(1.5)
    assert collector.collect().materialize().total_norm == pytest.approx(1.5, rel=1e-5)


def test_a_watch_waits_once_a_sample() -> None:
    torch.manual_seed(0)
    model = nn.Linear(30, 10, device="cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen: list[GradientStats] = []
    x = torch.ones(4, 30, device="cuda")

    def step() -> None:
        optimizer.zero_grad()
        model(x).pow(2).mean().backward()
        optimizer.step()

    with GradientCollector(model.named_parameters()).watch(optimizer, [seen.append], every=2):
        step()
        with waits() as said:
            for _ in range(4):
                step()
    assert (len(seen), len(said)) == (3, 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_norms_and_zeros_are_those_of_float64(dtype: torch.dtype) -> None:
    gradient = randn(3_000_001, dtype=dtype)
    gradient[::5] = 0
    collector = GradientCollector(parameters({"a": gradient}).items(), config=TelemetryConfig(zero_every=1))
    found = collector.collect().materialize()
    wide = gradient.cpu().double()
    assert found.norms[0] == pytest.approx(torch.linalg.vector_norm(wide).item(), rel=1e-6, abs=0)
    assert found.zero_share == pytest.approx((wide == 0).double().mean().item(), abs=1e-12)


@pytest.mark.parametrize(
    ("dtype", "magnitude"),
    [(torch.float32, 1e20), (torch.float32, 1e-25), (torch.float64, 1e200), (torch.float64, 1e-200)],
)
def test_squares_beyond_the_range(dtype: torch.dtype, magnitude: float) -> None:
    gradient = torch.full((5000,), magnitude, dtype=dtype, device="cuda")
    found = GradientCollector(parameters({"a": gradient}).items()).collect().materialize()
    assert found.norms[0] == pytest.approx(magnitude * math.sqrt(5000), rel=1e-6, abs=0)
    assert found.non_finite == ()


def test_random_placements_are_all_found() -> None:
    gradients = mixed()
    collector = GradientCollector(parameters(gradients).items(), config=TelemetryConfig(zero_every=0))
    clean = {name: gradient.clone() for name, gradient in gradients.items()}
    chance = random.Random(0)
    for _ in range(300):
        name = chance.choice(list(gradients))
        special = chance.choice([math.nan, math.inf, -math.inf])
        where = torch.unravel_index(torch.tensor(chance.randrange(gradients[name].numel())), gradients[name].shape)
        gradients[name][where] = special
        found = collector.collect().materialize()
        assert found.non_finite == (name,)
        assert (found.nan_counts if math.isnan(special) else found.inf_counts) == {name: 1}
        gradients[name].copy_(clean[name])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zero_every", [0, 1])
def test_a_gradient_of_256_mib_takes_no_memory_more(dtype: torch.dtype, zero_every: int) -> None:
    gradient = torch.ones(2**28 // dtype.itemsize, dtype=dtype, device="cuda")
    collector = GradientCollector(parameters({"a": gradient}).items(), config=TelemetryConfig(zero_every=zero_every))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.max_memory_allocated()
    collector.collect().materialize()
    assert torch.cuda.max_memory_allocated() - before < 2**22


def test_gradients_of_a_cpu_and_a_gpu_together() -> None:
    gradients = {"cpu": torch.full((2000,), 3.0), "gpu": torch.full((2000,), 4.0, device="cuda")}
    collector = GradientCollector(parameters(gradients).items(), config=TelemetryConfig(zero_every=1))
    for _ in range(20):  # (a copy to the CPU that nobody waits for would be read too early now and then)
        pending = collector.collect()
        assert pending.total_norm.device.type == "cuda"
        found = pending.materialize()
        assert found.norms == pytest.approx((3 * math.sqrt(2000), 4 * math.sqrt(2000)))
        assert found.zero_share == 0


@pytest.mark.parametrize("fused", [False, True])
def test_a_real_grad_scaler(fused: bool) -> None:
    weight = nn.Parameter(torch.ones(4, device="cuda"))
    optimizer = torch.optim.Adam([weight], lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**16)
    seen: list[GradientStats] = []
    GradientCollector([("weight", weight)]).watch(optimizer, [seen.append])
    for step in range(3):
        optimizer.zero_grad()
        scaler.scale((weight * (math.inf if step == 1 else 1.0)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    good = [stats.norms[0] for stats in seen if stats.status == "healthy"]
    assert good == pytest.approx([2.0, 2.0])
    assert [stats.inf_counts for stats in seen if stats.status != "healthy"] == ([{"weight": 4}] if fused else [])
