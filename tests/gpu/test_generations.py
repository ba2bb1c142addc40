"""Generations of an adaptive colony on a CUDA device. Skipped, by name, where there is none."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from pytorch_bfo_optimizer import AdaptiveBFO, FunctionObjective, covariance, differential, momentum
from pytorch_bfo_optimizer.seasons import COVARIANCE, DIFFERENTIAL, MOMENTUM

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

CPU, DEVICE = torch.device("cpu"), torch.device("cuda")
MEMBERS, MANY, FEW = 16, 100, 8
"""P, and D of the momentum drift and of the two others."""


def ellipsoid(x_PD: Tensor) -> Tensor:
    """A bowl, steeper in each coordinate than in the one before."""
    return (x_PD.square() * torch.linspace(1, 10, x_PD.shape[1], dtype=x_PD.dtype, device=x_PD.device)).sum(dim=1)


def normal(source: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=source, dtype=torch.float64)


def uniform(source: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=source, dtype=torch.float64)


State = tuple[Tensor, ...]


@dataclass(frozen=True)
class Kernel:
    """The pure functions of one season, between which only tensors pass."""

    begin: Callable[[torch.device], State]
    draw: Callable[[torch.Generator], State]
    """The noise of one generation, float64, on the CPU."""
    generation: Callable[..., State]
    """(state, noise) -> state."""

    def after(self, generations: int, device: torch.device) -> State:
        """What is known after so many, from noise that is the same on every device."""
        source, state = torch.Generator().manual_seed(0), self.begin(device)
        for _ in range(generations):
            state = self.generation(state, [drawn.to(device) for drawn in self.draw(source)])
        return state


def begin_momentum(device: torch.device) -> State:
    centre_D = torch.ones(MANY, dtype=torch.float64, device=device)
    drift = momentum.begin(centre_D, 0.1, torch.ones_like(centre_D))
    return (*drift, *momentum.pairs(MEMBERS, torch.float64, device))


def momentum_generation(state: State, noise: list[Tensor]) -> State:
    drift, by = momentum.Drift(*state[:4]), momentum.Pairs(*state[4:])
    return (*momentum.learn(drift, by, noise[0], ellipsoid(momentum.spread(drift, by, noise[0]))), *by)


def begin_covariance(device: torch.device) -> State:
    return covariance.begin(torch.ones(FEW, dtype=torch.float64, device=device), 0.3, torch.float64)


def covariance_generation(state: State, noise: list[Tensor]) -> State:
    """With bounds that hold members back, and C factorised."""
    drift = covariance.Drift(*state)
    by = covariance.rates(MEMBERS, FEW, torch.float64, drift.centre.device)
    _, position_PD = covariance.spread(drift, noise[0])
    position_PD = position_PD.clamp(-1.0, 1.1)
    noise_PD, tumble_PD = covariance.repaired(drift, position_PD)
    return covariance.learn(drift, by, noise_PD, tumble_PD, ellipsoid(position_PD), age=by.refactor_every)


def begin_differential(device: torch.device) -> State:
    position_PD = normal(torch.Generator().manual_seed(1), MEMBERS, FEW).to(device)
    swarm = differential.begin(position_PD, torch.float64)
    return (position_PD, *swarm._replace(loss=ellipsoid(position_PD)))


def differential_generation(state: State, noise: list[Tensor]) -> State:
    position_PD, swarm = state[0], differential.Swarm(*state[1:])
    high = torch.full((1,), 2.0, dtype=torch.float64, device=position_PD.device)
    made = differential.moves(swarm, position_PD, *noise, -high, high)
    swarm, position_PD = differential.learn(swarm, position_PD, made, ellipsoid(made.position))
    return (position_PD, *swarm)


def differential_noise(source: torch.Generator) -> State:
    choice_PK, normal_P = uniform(source, MEMBERS, differential.UNIFORM_COLUMNS), normal(source, MEMBERS)
    return choice_PK, normal_P, uniform(source, MEMBERS, FEW)


KERNELS = {
    "momentum": Kernel(begin_momentum, lambda source: (normal(source, MEMBERS // 2, MANY),), momentum_generation),
    "covariance": Kernel(begin_covariance, lambda source: (normal(source, MEMBERS, FEW),), covariance_generation),
    "differential": Kernel(begin_differential, differential_noise, differential_generation),
}
every_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)


# --- the pure functions ---


@every_kernel
def test_the_same_noise_leads_to_the_same_place_as_on_the_cpu(kernel: Kernel) -> None:
    begun, here, there = kernel.begin(CPU), kernel.after(40, CPU), kernel.after(40, DEVICE)
    assert not torch.equal(begun[0], here[0])
    for ours, theirs in zip(here, there, strict=True):
        assert theirs.device.type == DEVICE.type
        torch.testing.assert_close(theirs.cpu(), ours, rtol=1e-8, atol=1e-11, equal_nan=True)


@every_kernel
def test_the_host_waits_for_nothing_inside_a_generation(kernel: Kernel) -> None:
    state, noise = kernel.after(1, DEVICE), [drawn.to(DEVICE) for drawn in kernel.draw(torch.Generator())]
    with waits() as seen:
        for _ in range(3):
            state = kernel.generation(state, noise)
    assert not seen


@every_kernel
def test_a_captured_generation_replays_as_it_runs(kernel: Kernel) -> None:
    source = torch.Generator().manual_seed(2)
    state = [tensor.clone() for tensor in kernel.after(1, DEVICE)]  # makes what is made once, outside of the capture
    expected, held = tuple(tensor.clone() for tensor in state), [drawn.to(DEVICE) for drawn in kernel.draw(source)]
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        kernel.generation(tuple(state), held)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for kept, new in zip(state, kernel.generation(tuple(state), held), strict=True):
            if kept is not new:
                kept.copy_(new)
    for _ in range(5):
        noise = [drawn.to(DEVICE) for drawn in kernel.draw(source)]
        for place, drawn in zip(held, noise, strict=True):
            place.copy_(drawn)
        graph.replay()
        expected = kernel.generation(expected, noise)
    for ours, theirs in zip(state, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14, equal_nan=True)


@pytest.mark.compile
@pytest.mark.filterwarnings("ignore")  # what torch warns of while it compiles is its own
@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
def test_a_compiled_generation_goes_where_the_eager_one_does(mode: str | None) -> None:
    kernel = KERNELS["momentum"]
    compiled = torch.compile(kernel.generation, fullgraph=True, mode=mode)
    source, state = torch.Generator().manual_seed(0), kernel.begin(DEVICE)
    for _ in range(5):
        if mode is not None:
            torch.compiler.cudagraph_mark_step_begin()
        state = tuple(new.clone() for new in compiled(state, [drawn.to(DEVICE) for drawn in kernel.draw(source)]))
    for ours, theirs in zip(state, kernel.after(5, DEVICE), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@contextmanager
def waits() -> Iterator[list[str]]:
    """Collect what made the host wait for the device, as torch's sync debug mode sees it."""
    before, seen = torch.cuda.get_sync_debug_mode(), []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield seen
        finally:
            torch.cuda.set_sync_debug_mode(before)
            seen += [str(each.message) for each in caught if "synchronizing CUDA operation" in str(each.message)]


def test_the_debug_mode_sees_a_wait() -> None:
    place = torch.ones(3, device=DEVICE)
    with waits() as seen:
        place.sum().item()
    assert seen


# --- the optimizer ---


def colony(season: int) -> AdaptiveBFO:
    """A colony on the device, a few generations into this season."""
    size = MANY if season == MOMENTUM else FEW
    params = [torch.full((size // 2,), 2.0, device=DEVICE, requires_grad=True) for _ in range(2)]
    generator = torch.Generator(DEVICE).manual_seed(0)
    optimizer = AdaptiveBFO(params, population_size=MEMBERS, bounds=(-5.0, 5.0), generator=generator)
    plain = FunctionObjective(lambda x_PD: torch.zeros_like(x_PD[:, 0]))
    for _ in range(300):  # on a plain every season ends
        optimizer.step(plain)
        if optimizer.state[params[0]]["season"] == season:
            break
    assert optimizer.state[params[0]]["season"] == season
    for _ in range(3):
        optimizer.step(FunctionObjective(ellipsoid))
    return optimizer


every_season = pytest.mark.parametrize(
    "season", [COVARIANCE, MOMENTUM, DIFFERENTIAL], ids=["covariance", "momentum", "differential"]
)


@every_season
def test_a_generation_of_minimize_waits_once(season: int) -> None:
    counts = []
    for generations in (2, 3):
        optimizer = colony(season)
        cost = optimizer.population.shape[0]
        with waits() as seen:
            optimizer.minimize(FunctionObjective(ellipsoid), max_evaluations=generations * cost)
        counts.append(len(seen))
    assert counts[1] - counts[0] == 1


@every_season
def test_a_resumed_colony_goes_on_bit_by_bit(season: int) -> None:
    optimizer, objective = colony(season), FunctionObjective(ellipsoid)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    params = [param.detach().clone().requires_grad_() for param in optimizer.param_groups[0]["params"]]
    file.seek(0)
    resumed = AdaptiveBFO(params, population_size=MEMBERS, bounds=(-5.0, 5.0))
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(12):
        assert resumed.step(objective) == optimizer.step(objective)
    assert resumed.population.device.type == DEVICE.type
    assert torch.equal(resumed.population, optimizer.population)
    for ours, theirs in zip(resumed.best_params, optimizer.best_params, strict=True):
        assert torch.equal(ours, theirs)


def test_where_memory_runs_out_the_population_is_evaluated_in_parts(caplog: pytest.LogCaptureFixture) -> None:
    """A row takes 16 MiB; there is room for 300 MiB more than is in use: 64 and 32 rows fail, 16 fit."""
    width = 4 * 2**20
    calls: list[int] = []

    def wide(x_PD: Tensor) -> Tensor:
        calls.append(len(x_PD))
        return ellipsoid(x_PD) + 0 * x_PD[:, :1].expand(-1, width).contiguous().amax(dim=1)

    def trained(**settings: Any) -> AdaptiveBFO:
        params = [torch.full((MANY,), 2.0, device=DEVICE)]
        generator = torch.Generator(DEVICE).manual_seed(0)
        optimizer = AdaptiveBFO(params, population_size=64, generator=generator, **settings)
        for _ in range(3):
            optimizer.step(FunctionObjective(wide))
        return optimizer

    expected = trained(chunk_size=16)
    calls.clear()
    torch.cuda.empty_cache()
    room = torch.cuda.memory_reserved(DEVICE) + 300 * 2**20
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.get_device_properties(DEVICE).total_memory)
    try:
        with caplog.at_level(logging.WARNING, logger="pytorch_bfo_optimizer"):
            found: list[Any] = [trained()]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    assert calls == [64, 32, *[16] * 12]
    assert [record.args for record in caplog.records] == [(16, 16)]
    assert found[0].evaluations == 3 * 64
    assert torch.equal(found[0].population, expected.population)
