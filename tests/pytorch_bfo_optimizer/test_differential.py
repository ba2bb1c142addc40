from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from pytorch_bfo_optimizer import differential
from pytorch_bfo_optimizer.differential import HISTORY, Moves, Swarm

Loss = Callable[[Tensor], Tensor]


def scattered(members: int, dimension: int, seed: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.rand(members, dimension, generator=source, dtype=torch.float64) * 10 - 5


def sensed(position_PD: Tensor, loss: Loss) -> Swarm:
    return differential.begin(position_PD, torch.float64)._replace(loss=loss(position_PD))


class Noise:
    def __init__(self, seed: int) -> None:
        self.source = torch.Generator().manual_seed(seed)

    def draw(self, members: int, dimension: int) -> tuple[Tensor, Tensor, Tensor]:
        uniform_PK = torch.rand(members, differential.UNIFORM_COLUMNS, generator=self.source)
        normal_P = torch.randn(members, generator=self.source)
        return uniform_PK, normal_P, torch.rand(members, dimension, generator=self.source)


WALLS = (torch.tensor([-5.0], dtype=torch.float64), torch.tensor([5.0], dtype=torch.float64))
NOWHERE = (torch.tensor([-math.inf], dtype=torch.float64), torch.tensor([math.inf], dtype=torch.float64))


def ripples(x_PD: Tensor) -> Tensor:
    return (x_PD**2 + 10 - 10 * torch.cos(2 * math.pi * x_PD)).sum(dim=1)


# --- an independent twin ---


class Shade:
    """L-SHADE in plain loops over floats (Tanabe, Fukunaga 2014), with the package's three changes."""

    def __init__(self, places: list[list[float]], losses: list[float], low: float, high: float) -> None:
        self.x, self.loss, self.low, self.high = [list(row) for row in places], list(losses), low, high
        self.ring: list[list[float] | None] = [None] * len(places)
        self.ever = 0
        self.m_f, self.m_cr, self.k = [0.5] * HISTORY, [0.5] * HISTORY, 0

    def tumble(self, i: int, uniform: list[float], normal: float, mix: list[float]) -> tuple[list[float], float, float]:
        count, size = len(self.x), len(self.x[0])
        entry = int(uniform[0] * HISTORY)
        # the Cauchy law above 0 alone, by its inverse
        below = 0.5 + math.atan(-self.m_f[entry] / 0.1) / math.pi
        f = self.m_f[entry] + 0.1 * math.tan(math.pi * (below + (1 - below) * uniform[1] - 0.5))
        f = min(max(f, 0.0), 1.0)
        cr = 0.0 if math.isnan(self.m_cr[entry]) else min(max(self.m_cr[entry] + 0.1 * normal, 0.0), 1.0)
        ranked = sorted(range(count), key=lambda j: self.loss[j])
        best = ranked[int(uniform[2] * max(2, round(0.11 * count)))]
        first = (i + 1 + int(uniform[3] * (count - 1))) % count
        pool = [*self.x, *(row for row in self.ring if row is not None)]
        second = int(uniform[4] * len(pool))
        while second in (i, first):
            second = (second + 1) % len(pool)
        assert len({i, first, second}) == 3
        drawn = int(uniform[5] * size)
        there = []
        for j, here in enumerate(self.x[i]):
            if not (mix[j] < cr or j == drawn):
                there.append(here)
                continue
            v = here + f * (self.x[best][j] - here + self.x[first][j] - pool[second][j])
            there.append((here + self.low) / 2 if v < self.low else (here + self.high) / 2 if v > self.high else v)
        return there, f, cr

    def learn(self, made: list[tuple[list[float], float, float]], losses: list[float]) -> None:
        paid = []
        for i, ((there, f, cr), loss) in enumerate(zip(made, losses, strict=True)):
            if loss < self.loss[i]:
                self.ring[self.ever % len(self.ring)] = self.x[i]
                self.ever += 1
                paid.append((min(self.loss[i] - loss, 1.7e308), f, cr))
            if loss <= self.loss[i]:
                self.x[i], self.loss[i] = there, loss
        if not paid:
            return
        highest = max(gain for gain, _, _ in paid)
        share = [gain / highest for gain, _, _ in paid]

        def lehmer(values: list[float]) -> float:
            above = sum(s * v * v for s, v in zip(share, values, strict=True))
            return above / sum(s * v for s, v in zip(share, values, strict=True))

        entry = self.k % HISTORY
        self.m_f[entry] = lehmer([f for _, f, _ in paid])
        rates = [cr for _, _, cr in paid]
        dead = math.isnan(self.m_cr[entry]) or max(rates) == 0
        self.m_cr[entry] = math.nan if dead else lehmer(rates)
        self.k += 1

    def shrink(self, count: int) -> None:
        order = sorted(range(len(self.x)), key=lambda j: self.loss[j])[:count]
        self.x, self.loss = [self.x[j] for j in order], [self.loss[j] for j in order]
        self.ring, self.ever = self.ring[:count], min(self.ever, count)


def assert_equal(swarm: Swarm, position_PD: Tensor, twin: Shade) -> None:
    close: dict[str, Any] = {"rel": 1e-12, "abs": 1e-12, "nan_ok": True}
    assert position_PD.flatten().tolist() == pytest.approx([x for row in twin.x for x in row], **close)
    assert swarm.loss.tolist() == pytest.approx(twin.loss, **close)
    assert swarm.history[0].tolist() == pytest.approx(twin.m_f, **close)
    assert swarm.history[1].tolist() == pytest.approx(twin.m_cr, **close)
    assert int(swarm.archived) == twin.ever
    assert int(swarm.written) == twin.k
    filled = [row for row in twin.ring if row is not None]
    assert swarm.archive[: len(filled)].flatten().tolist() == pytest.approx([x for row in filled for x in row], **close)


@pytest.mark.parametrize("walls", [True, False])
@pytest.mark.parametrize(("members", "dimension", "seed"), [(4, 1, 0), (5, 2, 1), (12, 3, 2), (40, 6, 3)])
def test_it_equals_the_paper_in_plain_loops(walls: bool, members: int, dimension: int, seed: int) -> None:
    position_PD, noise = scattered(members, dimension, seed), Noise(seed)
    swarm, (lower, upper) = sensed(position_PD, ripples), WALLS if walls else NOWHERE
    twin = Shade(position_PD.tolist(), swarm.loss.tolist(), float(lower), float(upper))
    turned_back = 0
    for generation in range(1, 61):
        uniform_PK, normal_P, mix_PD = noise.draw(*position_PD.shape)
        made = differential.moves(swarm, position_PD, uniform_PK, normal_P, mix_PD, lower, upper)
        theirs = [
            twin.tumble(i, uniform_PK[i].tolist(), float(normal_P[i]), mix_PD[i].tolist())
            for i in range(len(position_PD))
        ]
        assert torch.allclose(made.position, torch.tensor([u for u, _, _ in theirs]).double(), rtol=0, atol=1e-5)
        turned_back += int((made.position.abs() > 4.9).any()) if walls else 0
        loss_P = ripples(made.position)
        swarm, position_PD = differential.learn(swarm, position_PD, made, loss_P)
        twin.learn(theirs, loss_P.tolist())
        if generation % 20 == 0 and len(position_PD) > 4:
            left = max(4, len(position_PD) // 2)
            swarm, position_PD = differential.shrink(swarm, position_PD, left)
            twin.shrink(left)
        assert_equal(swarm, position_PD, twin)
    assert twin.k > 5


def test_the_terminal_value_of_the_rates_is_for_good() -> None:
    """Where only single coordinates have paid, CR = 0 from then on."""
    position_PD = scattered(6, 3)
    swarm = sensed(position_PD, ripples)
    made = Moves(position_PD * 0.99, torch.full((6,), 0.7).double(), torch.zeros(6, dtype=torch.float64))
    paid, _ = differential.learn(swarm, position_PD, made, swarm.loss - 1)
    assert paid.history[:, 0].tolist() == pytest.approx([0.7, math.nan], nan_ok=True)
    for _ in range(HISTORY):
        made = made._replace(rate=torch.full((6,), 0.4, dtype=torch.float64))
        paid, _ = differential.learn(paid, position_PD, made, paid.loss - 1)
    assert math.isnan(paid.history[1, 0])
    assert paid.history[1, 1:].tolist() == pytest.approx([0.4] * (HISTORY - 1))
    all_dead = paid._replace(history=paid.history.clone().index_fill(0, torch.tensor([1]), math.nan))
    made = differential.moves(all_dead, position_PD, *Noise(1).draw(6, 3), *NOWHERE)
    assert made.rate.tolist() == [0.0] * 6
    assert ((made.position != position_PD).sum(dim=1) <= 1).all()


# --- what is drawn ---


@pytest.mark.parametrize("archived", [0, 3, 100])
@pytest.mark.parametrize("members", [4, 5, 9])
def test_no_member_is_drawn_twice(members: int, archived: int) -> None:
    """Every pair that can be drawn. Members stand at powers of a base: where one would go tells who was drawn."""
    position_PD = (3.0 ** torch.arange(members, dtype=torch.float64)).unsqueeze(1)
    archive_PD = (3.0 ** torch.arange(members, 2 * members, dtype=torch.float64)).unsqueeze(1)
    everyone = torch.cat([position_PD, archive_PD]).flatten()
    swarm = sensed(position_PD, lambda x_PD: x_PD[:, 0])
    swarm = swarm._replace(
        archive=archive_PD,
        archived=torch.tensor(archived),
        history=torch.full_like(swarm.history, 1000.0),  # F = 1, so that u = x_pbest + x_r1 - x_r2
    )
    pool = members + min(archived, members)
    for offset in range(members - 1):
        for index in range(pool):
            uniform_K = torch.tensor([0.0, 0.5, 0.0, (offset + 0.5) / (members - 1), (index + 0.5) / pool, 0.0])
            uniform_PK, others = uniform_K.expand(members, -1), torch.zeros(members, 1)
            made = differential.moves(swarm, position_PD, uniform_PK, others[:, 0], others, *NOWHERE)
            for i, there in enumerate(made.position[:, 0].tolist()):
                first, second = (i + 1 + offset) % members, index
                while second in (i, first):
                    second = (second + 1) % pool
                assert there == float(everyone[0] + everyone[first] - everyone[second])


def test_weights_are_drawn_from_a_cauchy_law_cut_at_zero() -> None:
    position_PD = scattered(20_000, 1)
    swarm = sensed(position_PD, ripples)
    swarm = swarm._replace(history=torch.tensor([[0.2] * HISTORY, [0.9] * HISTORY], dtype=torch.float64))
    made = differential.moves(swarm, position_PD, *Noise(0).draw(20_000, 1), *NOWHERE)
    below = 0.5 + math.atan(-2) / math.pi
    for value in (0.05, 0.15, 0.2, 0.3, 0.6):
        law = (0.5 + math.atan((value - 0.2) / 0.1) / math.pi - below) / (1 - below)
        assert float((made.weight <= value).double().mean()) == pytest.approx(law, abs=0.01)
    assert made.weight.min() >= 0
    assert made.weight.max() == 1
    for value in (0.8, 0.9, 0.99):
        law = 0.5 * (1 + math.erf((value - 0.9) / 0.1 / math.sqrt(2)))
        assert float((made.rate <= value).double().mean()) == pytest.approx(law, abs=0.01)
    assert made.rate.max() == 1


def test_at_least_one_coordinate_tumbles_and_as_many_as_the_rate_says() -> None:
    position_PD = scattered(4000, 10)
    for rate, share in [(-1.0, 0.1), (0.4, 0.46), (2.0, 1.0)]:
        swarm = sensed(position_PD, ripples)
        swarm = swarm._replace(history=torch.stack([swarm.history[0], torch.full((HISTORY,), rate).double()]))
        made = differential.moves(swarm, position_PD, *Noise(0).draw(4000, 10), *NOWHERE)
        changed_PD = made.position != position_PD
        assert changed_PD.any(dim=1).double().mean() > 0.98  # a weight of 0 changes nothing
        assert float(changed_PD.double().mean()) == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_no_tumble_leaves_the_bounds(dtype: torch.dtype) -> None:
    lower, upper = (torch.tensor([wall] * 3, dtype=dtype) for wall in (-0.1001, 0.3003))
    share_PD = scattered(30, 3).to(torch.float64) / 10 + 0.5
    position_PD = (lower + share_PD * (upper - lower)).to(dtype).clamp(lower, upper)
    position_PD[:5], position_PD[5:10] = lower, upper
    swarm = differential.begin(position_PD, torch.float64)._replace(loss=position_PD.double().sum(dim=1))
    noise, reached = Noise(0), 0
    for _ in range(100):
        made = differential.moves(swarm, position_PD, *noise.draw(30, 3), lower, upper)
        assert made.position.dtype == dtype
        assert bool(((made.position >= lower) & (made.position <= upper)).all())
        reached += int((made.position == lower).sum())
    assert reached


# --- what is kept ---


def test_no_loss_rises_and_a_tie_moves() -> None:
    position_PD = scattered(3, 2)
    swarm = sensed(position_PD, ripples)
    made = Moves(position_PD + 1, torch.full((3,), 0.5).double(), torch.full((3,), 0.5).double())
    loss_P = swarm.loss + torch.tensor([-1.0, 0.0, 1.0])
    learnt, moved_PD = differential.learn(swarm, position_PD, made, loss_P)
    assert torch.equal(moved_PD, torch.stack([position_PD[0] + 1, position_PD[1] + 1, position_PD[2]]))
    assert torch.equal(learnt.loss, torch.stack([loss_P[0], loss_P[1], swarm.loss[2]]))
    assert torch.equal(learnt.archive[0], position_PD[0])  # the tie is not archived, and teaches nothing
    assert int(learnt.archived) == 1
    assert float(learnt.history[0, 0]) == pytest.approx(0.5)


def test_a_generation_that_does_not_pay_teaches_nothing() -> None:
    position_PD = scattered(5, 2)
    swarm = sensed(position_PD, ripples)
    made = differential.moves(swarm, position_PD, *Noise(0).draw(5, 2), *NOWHERE)
    for loss_P in (swarm.loss + 1, torch.full((5,), math.inf, dtype=torch.float64)):
        learnt, moved_PD = differential.learn(swarm, position_PD, made, loss_P)
        assert torch.equal(moved_PD, position_PD)
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(learnt, swarm, strict=True))


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_gains_of_any_size_teach_the_same(scale: float) -> None:
    position_PD = scattered(8, 2)
    swarm = sensed(position_PD, ripples)
    made = differential.moves(swarm, position_PD, *Noise(0).draw(8, 2), *NOWHERE)
    plain, _ = differential.learn(swarm, position_PD, made, swarm.loss - swarm.loss / 3)
    scaled = swarm._replace(loss=swarm.loss * scale)
    learnt, _ = differential.learn(scaled, position_PD, made, scaled.loss - scaled.loss / 3)
    assert torch.allclose(learnt.history, plain.history, rtol=1e-9)


def test_a_loss_that_was_not_finite_can_be_improved_on() -> None:
    position_PD = scattered(4, 2)
    swarm = sensed(position_PD, ripples)
    swarm = swarm._replace(loss=swarm.loss.index_fill(0, torch.tensor([1, 2]), math.inf))
    made = differential.moves(swarm, position_PD, *Noise(0).draw(4, 2), *NOWHERE)
    learnt, _ = differential.learn(swarm, position_PD, made, torch.tensor([99.0, 5.0, math.inf, 1e9]).double())
    assert learnt.loss.tolist()[1:3] == [5.0, math.inf]
    assert bool(learnt.history.isfinite().all())
    assert float(learnt.history[0, 0]) == pytest.approx(float(made.weight[1]))


def test_the_archive_is_a_ring_that_the_oldest_leave_first() -> None:
    position_PD = scattered(4, 1)
    swarm = sensed(position_PD, ripples)
    rows = []
    for turn in range(3):
        made = Moves(position_PD - 1, torch.full((4,), 0.5).double(), torch.full((4,), 0.5).double())
        pays = torch.tensor([True, turn < 2, False, True])
        rows += [row for row, paid in zip(position_PD.tolist(), pays.tolist(), strict=True) if paid]
        swarm, position_PD = differential.learn(swarm, position_PD, made, torch.where(pays, swarm.loss - 1, math.inf))
    assert int(swarm.archived) == len(rows) == 8
    assert swarm.archive.tolist() == rows[4:]


# --- the colony shrinks ---


def test_the_size_falls_in_a_straight_line_to_four() -> None:
    sizes = [differential.size_after(40, spent, 1000) for spent in range(-10, 1200, 10)]
    assert sizes[0] == sizes[1] == 40
    assert sizes == sorted(sizes, reverse=True)
    assert differential.size_after(40, 500, 1000) == 22
    assert sizes[101] == sizes[-1] == 4
    assert differential.size_after(3, 500, 1000) == 3  # no colony grows


def test_the_best_members_stay() -> None:
    position_PD = scattered(9, 2)
    swarm = sensed(position_PD, ripples)._replace(archived=torch.tensor(20), archive=position_PD + 1)
    left, kept_PD = differential.shrink(swarm, position_PD, 4)
    assert torch.equal(left.loss, swarm.loss.sort().values[:4])
    assert torch.equal(ripples(kept_PD), left.loss)
    assert left.archive.shape == (4, 2)
    assert int(left.archived) == 4
    few, _ = differential.shrink(swarm._replace(archived=torch.tensor(2)), position_PD, 4)
    assert int(few.archived) == 2


# --- compiled ---


@pytest.mark.compile
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_generation_is_one_graph(backend: str) -> None:
    def generation(swarm: Swarm, position_PD: Tensor, *noise: Tensor) -> tuple[Swarm, Tensor]:
        made = differential.moves(swarm, position_PD, *noise, *WALLS)
        return differential.learn(swarm, position_PD, made, ripples(made.position))

    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(generation, fullgraph=True, backend=backend)
    start_PD, noise = scattered(12, 3), Noise(0)
    mine = theirs = (sensed(start_PD, ripples), start_PD)
    for _ in range(6):
        drawn = noise.draw(12, 3)
        mine, theirs = compiled(*mine, *drawn), generation(*theirs, *drawn)
    assert torch.equal(mine[1], theirs[1])
    assert all(torch.equal(ours, other) for ours, other in zip(mine[0], theirs[0], strict=True))
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
