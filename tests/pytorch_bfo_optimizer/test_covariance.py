from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from pytorch_bfo_optimizer import covariance
from pytorch_bfo_optimizer.covariance import Drift

Loss = Callable[[Tensor], Tensor]


def rates(members: int, dimension: int) -> covariance.Rates:
    return covariance.rates(members, dimension, torch.float64, torch.device("cpu"))


@dataclass
class Drifting:
    """A drift on a landscape, whose noise passes through an orthogonal matrix on its way."""

    drift: Drift
    loss: Loss
    seed: int = 0
    members: int = 10
    turn: Tensor | None = None
    age: int = 0

    def __post_init__(self) -> None:
        self.source = torch.Generator().manual_seed(self.seed)

    def generation(self) -> Tensor:
        self.age += 1
        noise_PD = torch.randn(self.members, len(self.drift.centre), generator=self.source, dtype=torch.float64)
        if self.turn is not None:
            noise_PD = noise_PD @ self.turn.T
        tumble_PD, position_PD = covariance.spread(self.drift, noise_PD)
        by, loss_P = rates(*noise_PD.shape), self.loss(position_PD)
        self.drift = covariance.learn(self.drift, by, noise_PD, tumble_PD, loss_P, age=self.age)
        return noise_PD

    def run(self, generations: int) -> Drift:
        for _ in range(generations):
            self.generation()
        return self.drift


def at(place: list[float], scale: float = 0.5) -> Drift:
    return covariance.begin(torch.tensor(place, dtype=torch.float64), scale, torch.float64)


def banana(x_PD: Tensor) -> Tensor:
    return (100 * (x_PD[:, 1:] - x_PD[:, :-1] ** 2) ** 2 + (1 - x_PD[:, :-1]) ** 2).sum(dim=1)


def orthogonal(size: int) -> Tensor:
    noise = torch.randn(size, size, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    return torch.linalg.qr(noise)[0]


# --- an independent twin ---


class Tutorial:
    """CMA-ES in numpy, from arXiv:1604.00772 line by line; the numbers are those of its equations.

    The package's own: C = A A^T by Cholesky, from time to time; p_sigma in the coordinates of the noise; no
    delta(h_sigma) in C; sigma grows by a factor e at most.
    """

    def __init__(self, mean: np.ndarray, sigma: float, members: int, refactor_every: int) -> None:
        n, lam = len(mean), members
        self.n, self.lam, self.refactor_every, self.g = n, lam, refactor_every, 0
        raw = np.log((lam + 1) / 2) - np.log(np.arange(1, lam + 1))  # 49
        self.mu = lam // 2
        self.mu_eff = raw[: self.mu].sum() ** 2 / (raw[: self.mu] ** 2).sum()
        mu_eff_minus = raw[self.mu :].sum() ** 2 / (raw[self.mu :] ** 2).sum()
        self.c_sigma = (self.mu_eff + 2) / (n + self.mu_eff + 5)  # 55
        self.d_sigma = 1 + 2 * max(0, math.sqrt((self.mu_eff - 1) / (n + 1)) - 1) + self.c_sigma
        self.c_c = (4 + self.mu_eff / n) / (n + 4 + 2 * self.mu_eff / n)  # 56
        self.c_1 = 2 / ((n + 1.3) ** 2 + self.mu_eff)  # 57
        self.c_mu = min(
            1 - self.c_1, 2 * (1 / 4 + self.mu_eff + 1 / self.mu_eff - 2) / ((n + 2) ** 2 + 2 * self.mu_eff / 2)
        )  # 58
        alpha = min(
            1 + self.c_1 / self.c_mu,  # 50
            1 + 2 * mu_eff_minus / (self.mu_eff + 2),  # 51
            (1 - self.c_1 - self.c_mu) / (n * self.c_mu),  # 52
        )
        self.w = np.where(raw >= 0, raw / raw[raw >= 0].sum(), -alpha * raw / raw[raw < 0].sum())  # 53
        self.expected = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n**2))
        self.mean, self.sigma = mean.copy(), sigma
        self.p_sigma, self.p_c = np.zeros(n), np.zeros(n)
        self.cov, self.a = np.eye(n), np.eye(n)
        self.held_back, self.grown = 0, [1.0]

    def generation(self, z: np.ndarray, loss: Loss) -> None:
        self.g += 1
        y = np.array([self.a @ row for row in z])  # 39
        x = self.mean + self.sigma * y  # 40
        order = np.argsort(loss(torch.from_numpy(x)).numpy(), kind="stable")
        y, z = y[order], z[order]
        y_w = sum(self.w[i] * y[i] for i in range(self.mu))  # 41
        z_w = sum(self.w[i] * z[i] for i in range(self.mu))
        self.mean = self.mean + self.sigma * y_w  # 42
        gain = math.sqrt(self.c_sigma * (2 - self.c_sigma) * self.mu_eff)
        self.p_sigma = (1 - self.c_sigma) * self.p_sigma + gain * z_w  # 43
        length = np.linalg.norm(self.p_sigma)
        stationary = math.sqrt(1 - (1 - self.c_sigma) ** (2 * self.g))
        self.p_c = (1 - self.c_c) * self.p_c  # 45
        if length / stationary < (1.4 + 2 / (self.n + 1)) * self.expected:
            self.p_c = self.p_c + math.sqrt(self.c_c * (2 - self.c_c) * self.mu_eff) * y_w
        else:
            self.held_back += 1
        self.cov = (1 - self.c_1 - self.c_mu * self.w.sum()) * self.cov + self.c_1 * np.outer(self.p_c, self.p_c)  # 47
        for i in range(self.lam):
            w = self.w[i] if self.w[i] >= 0 else self.w[i] * self.n / (z[i] @ z[i])  # 46
            self.cov = self.cov + self.c_mu * w * np.outer(y[i], y[i])
        self.grown.append(math.exp(min(1.0, self.c_sigma / self.d_sigma * (length / self.expected - 1))))  # 44
        self.sigma *= self.grown[-1]
        if self.g % self.refactor_every == 0:
            self.a = np.linalg.cholesky(self.cov)


@pytest.mark.parametrize(("members", "dimension"), [(4, 1), (6, 2), (7, 3), (10, 10), (45, 6), (16, 64)])
def test_it_equals_the_tutorial_in_numpy(members: int, dimension: int) -> None:
    weight_D = torch.logspace(0, 4, dimension, dtype=torch.float64)

    def loss(x_PD: Tensor) -> Tensor:
        return (weight_D * (x_PD - 0.5) ** 2).sum(dim=1) + 10 * x_PD[:, 0].abs()

    start = torch.linspace(-1, 2, dimension, dtype=torch.float64) + 30
    drifting = Drifting(at(start.tolist()), loss, members=members, seed=3)
    twin = Tutorial(start.numpy(), 0.5, members, rates(members, dimension).refactor_every)
    for _ in range(30):
        twin.generation(drifting.generation().numpy(), loss)
        mine = drifting.drift
        for ours, theirs in zip(mine, (twin.mean, twin.p_sigma, twin.p_c, twin.sigma, twin.cov, twin.a), strict=True):
            assert np.allclose(ours.numpy(), theirs, rtol=1e-11, atol=1e-12)
    assert twin.g / twin.refactor_every > 2
    assert twin.held_back > 0 or dimension > 10, "the path was never too long: that branch was not compared"


def test_sigma_grows_by_a_factor_of_e_at_most() -> None:
    drift, by = at([0.0, 0.0]), rates(6, 2)
    noise_PD = torch.full((6, 2), 50.0, dtype=torch.float64)
    tumble_PD, _ = covariance.spread(drift, noise_PD)
    learnt = covariance.learn(drift, by, noise_PD, tumble_PD, torch.arange(6.0), age=1)
    assert float(learnt.scale) == pytest.approx(0.5 * math.e)


# --- invariance ---


def test_only_the_order_of_the_losses_counts() -> None:
    trails = []
    for rising in (lambda loss: loss, lambda loss: loss.log1p(), lambda loss: 3 * loss**3 - 7):
        drifting = Drifting(at([-1.0, 2.0, 0.5]), lambda x_PD, rising=rising: rising(banana(x_PD)))
        trails.append(drifting.run(60))
    for drift in trails[1:]:
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(trails[0], drift, strict=True))


def test_where_zero_is_and_how_long_a_unit_is_does_not_count() -> None:
    plain = Drifting(at([-1.0, 2.0, 0.5]), banana).run(60)
    shift_D = torch.tensor([4.0, -2.0, 1.0], dtype=torch.float64)
    shifted = at([3.0, 0.0, 1.5])
    moved = Drifting(shifted, lambda x_PD: banana(x_PD - shift_D)).run(60)
    assert torch.allclose(moved.centre - shift_D, plain.centre, rtol=0, atol=1e-9)
    assert torch.allclose(moved.covariance, plain.covariance, rtol=1e-7)
    longer = Drifting(at([-8.0, 16.0, 4.0], scale=4.0), lambda x_PD: banana(x_PD / 8)).run(60)
    assert torch.equal(longer.centre / 8, plain.centre)  # by a power of two: to the bit
    assert torch.equal(longer.scale / 8, plain.scale)
    assert torch.equal(longer.covariance, plain.covariance)


def test_a_shape_that_is_known_from_the_start_is_as_good_as_round() -> None:
    """Cholesky factors follow a lower triangular map B: chol(B C B^T) = B chol(C). So the noise may stay as it is."""
    plain = Drifting(at([-1.0, 2.0, 0.5]), banana).run(60)
    map_DD = torch.tensor([[3.0, 0, 0], [1.0, 0.5, 0], [-2.0, 0.3, 7.0]], dtype=torch.float64)
    start = at((map_DD @ torch.tensor([-1.0, 2.0, 0.5], dtype=torch.float64)).tolist())
    start = start._replace(covariance=map_DD @ map_DD.T, factor=map_DD)
    back_DD = torch.linalg.inv(map_DD)
    sheared = Drifting(start, lambda x_PD: banana(x_PD @ back_DD.T)).run(60)
    assert torch.allclose(back_DD @ sheared.centre, plain.centre, rtol=1e-7)
    assert torch.allclose(back_DD @ sheared.covariance @ back_DD.T, plain.covariance, rtol=1e-6)
    assert torch.allclose(sheared.path, plain.path, rtol=1e-6, atol=1e-9)
    assert float(sheared.scale) == pytest.approx(float(plain.scale), rel=1e-7)


def test_a_turned_landscape_with_turned_noise_is_the_same_until_the_factor_is_renewed() -> None:
    members, turn_DD = 80, orthogonal(20)
    generations = rates(members, 20).refactor_every
    assert generations == 10
    start = [0.3 * k for k in range(20)]
    turned_start = (turn_DD @ torch.tensor(start, dtype=torch.float64)).tolist()
    plain = Drifting(at(start), banana, members=members).run(generations)
    turned = Drifting(at(turned_start), lambda x_PD: banana(x_PD @ turn_DD), members=members, turn=turn_DD)
    turned.run(generations)
    assert torch.allclose(turn_DD.T @ turned.drift.centre, plain.centre, rtol=1e-9)
    assert torch.allclose(turn_DD.T @ turned.drift.velocity, plain.velocity, rtol=1e-9)
    assert torch.allclose(turn_DD.T @ turned.drift.covariance @ turn_DD, plain.covariance, rtol=1e-9, atol=1e-12)
    factor_DD = turned.drift.factor
    assert torch.allclose(factor_DD @ factor_DD.T, turned.drift.covariance, rtol=1e-9, atol=1e-12)
    assert float(turned.drift.scale) == pytest.approx(float(plain.scale))


def test_a_mirrored_landscape_with_mirrored_noise_is_the_same_for_good() -> None:
    """The factor follows a change of signs S: chol(S C S) = S chol(C) S."""
    sign_D = torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)
    plain = Drifting(at([-1.0, 2.0, 0.5]), banana).run(80)
    mirrored = Drifting(at([-1.0, -2.0, -0.5]), lambda x_PD: banana(x_PD * sign_D), turn=torch.diag(sign_D)).run(80)
    assert torch.equal(mirrored.centre * sign_D, plain.centre)
    assert torch.equal(mirrored.covariance * torch.outer(sign_D, sign_D), plain.covariance)


# --- known behaviour ---


@pytest.mark.parametrize("turn_DD", [torch.eye(5, dtype=torch.float64), orthogonal(5)], ids=["straight", "turned"])
def test_the_covariance_becomes_the_inverse_of_the_hessian(turn_DD: Tensor) -> None:
    root_D = torch.logspace(0, 2, 5, dtype=torch.float64)  # of a Hessian of condition 10^4
    drifting = Drifting(at([1.0] * 5), lambda x_PD: ((x_PD @ turn_DD * root_D) ** 2).sum(dim=1), members=8)
    drift = drifting.run(300)
    loss = float(drifting.loss(drift.centre.unsqueeze(0)))
    assert loss < 1e-12
    shaped_DD = root_D.unsqueeze(1) * (turn_DD.T @ drift.covariance @ turn_DD) * root_D
    spectrum_D = torch.linalg.eigvalsh(shaped_DD)
    assert spectrum_D[-1] / spectrum_D[0] < 10


def test_where_the_order_is_chance_nothing_is_learnt_in_the_mean() -> None:
    """Under random selection, and from paths as they are then, path and C are expected to stay, and log sigma too."""
    source, count, trials = torch.Generator().manual_seed(1), 8, 2000
    by, drift = rates(10, count), at([0.0] * count)
    factor_DD = torch.linalg.cholesky(0.5 * torch.eye(count, dtype=torch.float64) + 0.5)
    drift = drift._replace(covariance=factor_DD @ factor_DD.T, factor=factor_DD)
    squares, growth, total_DD = 0.0, 0.0, torch.zeros_like(drift.covariance)
    for noise_PD in torch.randn(trials, 12, count, generator=source, dtype=torch.float64):
        begun = drift._replace(path=noise_PD[10], velocity=factor_DD @ noise_PD[11])
        tumble_PD, _ = covariance.spread(begun, noise_PD[:10])
        learnt = covariance.learn(begun, by, noise_PD[:10], tumble_PD, torch.arange(10.0), age=1000)
        squares += float(learnt.path.square().sum()) / trials
        growth += math.log(float(learnt.scale) / 0.5) / trials
        total_DD += learnt.covariance / trials
    assert squares == pytest.approx(count, rel=0.03)
    assert abs(growth) < 0.01
    assert torch.allclose(total_DD, drift.covariance, rtol=0, atol=0.005)


def test_downhill_without_end_the_steps_grow() -> None:
    drift = Drifting(at([0.0] * 5), lambda x_PD: x_PD[:, 2]).run(150)
    assert drift.scale > 100
    assert drift.centre[2] < -1000


def test_the_covariance_stays_positive_though_failures_count_against_it() -> None:
    for members, dimension in [(4, 2), (6, 20), (60, 3)]:
        drifting = Drifting(at([1.0] * dimension), lambda x_PD: (x_PD**2).sum(dim=1), members=members)
        for _ in range(60):
            drifting.generation()
            assert torch.linalg.eigvalsh(drifting.drift.covariance)[0] > 0


def test_a_covariance_that_is_none_leaves_the_factor_as_it_was() -> None:
    drift, by = at([1.0, 2.0, 3.0]), replace(rates(6, 3), refactor_every=1)
    noise_PD = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    broken = drift._replace(covariance=-100 * torch.eye(3, dtype=torch.float64))
    learnt = covariance.learn(broken, by, noise_PD, noise_PD, torch.arange(6.0), age=1)
    assert torch.equal(learnt.factor, drift.factor)
    assert not torch.equal(learnt.centre, drift.centre)


def test_a_covariance_of_many_coordinates_is_factored_now_and_then() -> None:
    by = rates(80, 20)
    drifting = Drifting(at([1.0] * 20), banana, members=80)
    factors = [drifting.drift.factor]
    for _ in range(2 * by.refactor_every):
        drifting.generation()
        factors.append(drifting.drift.factor)
    changed = [age for age in range(1, len(factors)) if not torch.equal(factors[age], factors[age - 1])]
    assert changed == [by.refactor_every, 2 * by.refactor_every]


# --- weights, and what bounds do ---


@pytest.mark.parametrize(("members", "dimension"), [(2, 3), (3, 1), (4, 1), (5, 64), (10, 10), (1000, 2)])
def test_weights_and_rates_are_within_what_the_update_needs(members: int, dimension: int) -> None:
    by = rates(members, dimension)
    positive_P, shares_P, failed_P = by.weights
    assert float(positive_P.sum()) == pytest.approx(1)
    assert bool((positive_P.diff() <= 0).all())
    assert by.effective == pytest.approx(1 / float(positive_P.square().sum()))
    assert 1 <= by.effective <= max(members // 2, 1)
    assert 0 < by.rank_one + by.rank_many <= 1 + 1e-12
    assert 1 - by.rank_one - by.rank_many * by.total > -1e-12
    assert torch.allclose(shares_P, by.rank_many * positive_P)
    assert bool((failed_P[members // 2 :] <= 0).all())
    assert not bool(failed_P[: members // 2].any())
    assert float(positive_P.sum() + failed_P.sum() / by.rank_many / dimension) == pytest.approx(by.total)


def test_noise_and_tumbles_are_found_again_from_where_the_members_stand() -> None:
    drift = Drifting(at([-1.0, 2.0, 0.5]), banana).run(40)
    noise_PD = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tumble_PD, position_PD = covariance.spread(drift, noise_PD)
    assert torch.allclose(tumble_PD, noise_PD @ drift.factor.T)
    found_noise_PD, found_tumble_PD = covariance.repaired(drift, position_PD)
    assert torch.allclose(found_tumble_PD, tumble_PD, rtol=1e-9)
    assert torch.allclose(found_noise_PD, noise_PD, rtol=1e-9)


def test_a_colony_held_back_by_a_wall_stays_in_front_of_it() -> None:
    """The optimum is behind the wall: learnt from where the members were let go, the centre is never behind it."""
    drift, source = at([0.0, 0.0], scale=1.0), torch.Generator().manual_seed(2)
    by = rates(8, 2)
    for age in range(1, 80):
        noise_PD = torch.randn(8, 2, generator=source, dtype=torch.float64)
        position_PD = covariance.spread(drift, noise_PD)[1].clamp(max=0.25)
        noise_PD, tumble_PD = covariance.repaired(drift, position_PD)
        loss_P = (position_PD - torch.tensor([5.0, -1.0], dtype=torch.float64)).square().sum(dim=1)
        drift = covariance.learn(drift, by, noise_PD, tumble_PD, loss_P, age=age)
        assert drift.centre.max() <= 0.25 + 1e-9
    assert drift.centre.tolist() == pytest.approx([0.25, -1.0], abs=1e-3)


# --- compiled ---


@pytest.mark.compile
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_generation_is_one_graph(backend: str) -> None:
    """Two in all: one for the first age, and one for every other."""
    by = rates(10, 3)

    def generation(drift: Drift, noise_PD: Tensor, age: int) -> Drift:
        tumble_PD, position_PD = covariance.spread(drift, noise_PD)
        return covariance.learn(drift, by, noise_PD, tumble_PD, banana(position_PD), age=age)

    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(generation, fullgraph=True, backend=backend)
    mine = theirs = at([-1.0, 2.0, 0.5])
    source, graphs = torch.Generator().manual_seed(0), []
    for age in range(1, 13):
        noise_PD = torch.randn(10, 3, generator=source, dtype=torch.float64)
        mine, theirs = compiled(mine, noise_PD, age), generation(theirs, noise_PD, age)
        graphs.append(counters["stats"]["unique_graphs"])
    assert all(torch.allclose(ours, other, rtol=1e-12) for ours, other in zip(mine, theirs, strict=True))
    assert graphs == [1] + [2] * 11
    assert not counters["graph_break"]
