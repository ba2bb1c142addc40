from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from pytorch_bfo_optimizer import momentum

Loss = Callable[[Tensor], Tensor]


def noise_of(seed: int, pairs: int, dimension: int) -> Tensor:
    return torch.randn(pairs, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pairs_of(noise_HD: Tensor) -> momentum.Pairs:
    return momentum.pairs(2 * len(noise_HD), noise_HD.dtype, noise_HD.device)


def at(start_D: Tensor, scale: float) -> momentum.Drift:
    return momentum.begin(start_D, scale, torch.ones_like(start_D))


def generation(drift: momentum.Drift, noise_HD: Tensor, loss: Loss) -> tuple[momentum.Drift, Tensor]:
    """The drift after a generation, and the positions that were evaluated."""
    by = pairs_of(noise_HD)
    position_PD = momentum.spread(drift, by, noise_HD)
    return momentum.learn(drift, by, noise_HD, loss(position_PD)), position_PD


def drifted(drift: momentum.Drift, loss: Loss, generations: int, *, pairs: int = 8) -> momentum.Drift:
    for age in range(generations):
        drift, _ = generation(drift, noise_of(age, pairs, len(drift.centre)), loss)
    return drift


def bowl(x_PD: Tensor) -> Tensor:
    return (x_PD**2).sum(dim=1)


# --- an independent twin ---


@pytest.mark.parametrize(("pairs", "dimension"), [(2, 1), (3, 7), (10, 200)])
def test_it_equals_pairs_ranks_and_clip_up_in_numpy(pairs: int, dimension: int) -> None:
    """Salimans et al. 2017 with the centred ranks of pairs; ClipUp (Toklu et al. 2020), algorithm 1, in numpy."""
    sigma, keep, stride = 0.3, 0.9, 0.25
    centre = np.linspace(-1, 2, dimension)
    velocity = np.zeros(dimension)
    drift = at(torch.from_numpy(centre), sigma)
    clipped = 0
    for age in range(40):
        noise = noise_of(age, pairs, dimension)
        if age % 10 == 0:
            noise[0] = 0
        z = noise.numpy()
        plus, minus = centre + sigma * z, centre - sigma * z
        losses = [float(np.abs(x).sum() + (x**2).sum()) for x in (*plus, *minus)]
        if age % 10 == 0:
            losses[pairs] += 1e-9  # the pair at the centre is a tie, and its order no matter
        told_P = torch.tensor(losses, dtype=torch.float64)
        drift, position_PD = generation(drift, noise, lambda _, told_P=told_P: told_P)
        rank = np.argsort(np.argsort(losses))
        utility = 0.5 - rank / (2 * pairs - 1)
        push = sum((utility[i] - utility[pairs + i]) * z[i] for i in range(pairs))
        length = stride * sigma * math.sqrt(dimension)
        velocity = keep * velocity + length * push / np.linalg.norm(push)
        if np.linalg.norm(velocity) > 2 * length:
            velocity = velocity * (2 * length / np.linalg.norm(velocity))
            clipped += 1
        centre = centre + velocity
        assert np.allclose(position_PD.numpy(), np.concatenate([plus, minus]), rtol=0, atol=1e-12)
        assert np.allclose(drift.velocity.numpy(), velocity, rtol=0, atol=1e-12)
        assert np.allclose(drift.centre.numpy(), centre, rtol=0, atol=1e-12)
    assert 0 < clipped < 40


# --- invariance ---


def test_only_the_order_of_the_losses_counts() -> None:
    start_D = torch.linspace(-1, 2, 30, dtype=torch.float64)
    plain = drifted(at(start_D, 0.1), bowl, 40)
    other = drifted(at(start_D, 0.1), lambda x_PD: 3 * bowl(x_PD) ** 3 - 7, 40)
    assert torch.equal(plain.centre, other.centre)
    assert torch.equal(plain.velocity, other.velocity)


def test_a_turned_landscape_with_turned_noise_is_the_same() -> None:
    start_D, turn_DD = torch.linspace(-1, 2, 30, dtype=torch.float64), torch.linalg.qr(noise_of(99, 30, 30))[0]
    weight_D = torch.logspace(0, 2, 30, dtype=torch.float64)
    plain, turned = at(start_D, 0.1), at(turn_DD @ start_D, 0.1)
    for age in range(60):
        noise_HD = noise_of(age, 8, 30)
        plain, _ = generation(plain, noise_HD, lambda x_PD: bowl(x_PD * weight_D))
        turned, _ = generation(turned, noise_HD @ turn_DD.T, lambda x_PD: bowl(x_PD @ turn_DD * weight_D))
    assert torch.allclose(turn_DD.T @ turned.centre, plain.centre, rtol=0, atol=1e-9)


def test_where_zero_is_and_how_long_a_unit_is_does_not_count() -> None:
    start_D = torch.linspace(-1, 2, 30, dtype=torch.float64)
    plain = drifted(at(start_D, 0.125), bowl, 40)
    longer = drifted(at(start_D * 8, 1.0), bowl, 40)
    assert torch.equal(longer.centre / 8, plain.centre)
    shifted = drifted(at(start_D + 3, 0.125), lambda x_PD: bowl(x_PD - 3), 40)
    assert torch.allclose(shifted.centre - 3, plain.centre, rtol=0, atol=1e-9)


# --- known behaviour ---


def test_the_first_push_is_a_quarter_of_a_tumble_along_the_ranked_mean() -> None:
    drift = at(torch.zeros(50, dtype=torch.float64), 0.2)
    noise_HD = noise_of(0, 4, 50)
    learnt, position_PD = generation(drift, noise_HD, lambda x_PD: x_PD[:, 3])
    assert float(learnt.velocity.norm()) == pytest.approx(0.25 * 0.2 * math.sqrt(50))
    assert learnt.velocity[3] < 0
    order = position_PD[:, 3].argsort().tolist()
    mean_D = sum((0.5 - rank / 7) * position_PD[i] for rank, i in enumerate(order))
    assert torch.allclose(learnt.velocity / learnt.velocity.norm(), mean_D / mean_D.norm())
    assert torch.equal(learnt.centre, learnt.velocity)


def test_the_velocity_is_never_longer_than_two_pushes() -> None:
    drift, dimension = at(torch.zeros(40, dtype=torch.float64), 0.1), 40
    longest = 2 * 0.25 * 0.1 * math.sqrt(dimension)
    for age in range(60):
        drift, _ = generation(drift, noise_of(age, 30, dimension), lambda x_PD: x_PD.sum(dim=1))
        assert float(drift.velocity.norm()) <= longest * (1 + 1e-12)
    assert float(drift.velocity.norm()) == pytest.approx(longest)
    assert drift.centre.sum() < -60 * longest  # downhill, at full speed most of the time


def test_it_gets_down_a_bowl_of_a_thousand_coordinates() -> None:
    start_D = torch.full((1000,), 1.0, dtype=torch.float64)
    assert bowl(drifted(at(start_D, 0.05), bowl, 300, pairs=14).centre.unsqueeze(0)) < 300  # of 1000


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_pair_at_the_centre_has_no_say(dtype: torch.dtype) -> None:
    noise_HD = noise_of(0, 3, 20).to(dtype)
    noise_HD[0] = 0
    drift = at(torch.ones(20, dtype=dtype), 0.1)
    pushes = []
    for loss in (0.0, 9.0):
        told_P = torch.tensor([loss, 2.0, 3.0, loss, 4.0, 5.0])
        learnt, position_PD = generation(drift, noise_HD, lambda _, told_P=told_P: told_P)
        pushes.append(learnt.velocity)
        assert torch.equal(position_PD[0], drift.centre)
        assert torch.equal(position_PD[3], drift.centre)
    # the others move up or down together, and the differences within their pairs stay
    assert torch.allclose(pushes[0], pushes[1], rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-15, 0.3, 1e15])
def test_tiny_and_huge_scales_move_as_well(dtype: torch.dtype, scale: float) -> None:
    drift = at(torch.zeros(4, dtype=dtype), scale)
    assert drift.scale == torch.tensor(scale, dtype=dtype)
    learnt, _ = generation(drift, noise_of(0, 4, 4).to(dtype), lambda x_PD: x_PD[:, 0])
    assert float((learnt.velocity / scale).norm()) == pytest.approx(0.5, rel=1e-5)


def test_without_any_tumble_nothing_moves() -> None:
    drift = at(torch.ones(5), 0.1)
    learnt, _ = generation(drift, torch.zeros(3, 5), bowl)
    assert torch.equal(learnt.centre, drift.centre)
    assert bool(learnt.velocity.isfinite().all())


# --- compiled ---


@pytest.mark.compile
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_generation_is_one_graph(backend: str) -> None:
    by = momentum.pairs(10, torch.float64, torch.device("cpu"))

    def one(drift: momentum.Drift, noise_HD: Tensor) -> momentum.Drift:
        return momentum.learn(drift, by, noise_HD, bowl(momentum.spread(drift, by, noise_HD)))

    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(one, fullgraph=True, backend=backend)
    mine = theirs = at(torch.linspace(-1, 2, 100, dtype=torch.float64), 0.1)
    for age in range(6):
        noise_HD = noise_of(age, 5, 100)
        mine, theirs = compiled(mine, noise_HD), one(theirs, noise_HD)
    assert all(torch.equal(ours, other) for ours, other in zip(mine, theirs, strict=True))
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
