"""HybridBFO against Adam, each on its own clock: time to a loss on a smooth task, loss after a time on multimodal ones.

    OMP_NUM_THREADS=1 python benchmarks/hybrid_against_adam.py [SEEDS] [SECONDS]

All contenders of a seed take turns in one process, some steps each, so that a busy machine is busy for all of them;
each is charged for its own turns alone, in CPU and in wall-clock time. What is measured of them in between is free.
Prints markdown: medians (quartiles) over SEEDS seeds, at most 5 of them on the smooth task; on the multimodal ones each
contender has SECONDS seconds of wall-clock time. HybridBFO is as it comes, with two closures. Adam has its learning
rate tuned afterwards, for each line of the tables anew, and is given the best loss that it saw on its way.
"""

from __future__ import annotations

import itertools
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bfo_diag.cases.digits_mlp import digits
from pytorch_bfo_optimizer import HybridBFO

LEARNING_RATES = (1e-3, 3e-3, 1e-2, 3e-2)
TARGETS = (0.3, 0.1, 0.03, 0.01)
SMOOTH = {"full batch": (None, 400), "batches of 64": (64, 1500), "batches of 128": (128, 1500)}
"""Batch size, and most steps."""
TURN = 10
"""Steps in a turn."""
RESTART = 200
"""Steps of multi-start Adam from one random start."""

Group = list["Contender"]
"""The same contender on all seeds."""


@dataclass
class Contender:
    """An optimizer at work, on its own clock."""

    kind: str
    rate: float
    step: Callable[[], float]
    """Makes a step, and returns the loss that it saw."""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    steps: int = 0
    best: float = math.inf
    reached: dict[float, tuple[float, float, int]] = field(default_factory=dict)
    """Target -> wall-clock seconds, CPU seconds and steps that it took."""

    def turn(self) -> None:
        """Make some steps on the clock."""
        cpu, wall = time.process_time(), time.perf_counter()
        losses = [self.step() for _ in range(TURN)]
        self.seconds += time.perf_counter() - wall
        self.cpu_seconds += time.process_time() - cpu
        self.steps += TURN
        self.best = min([self.best, *(loss for loss in losses if not math.isnan(loss))])


def adam_step(loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> Callable[[], float]:
    """The step of a plain training loop; it returns a number, as ours does."""

    def step() -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        return value.item()

    return step


def best_rate(done: dict[tuple[str, float], Group], kind: str, of: Callable[[Contender], float]) -> Group:
    """The group of a kind whose median is the least."""
    groups = [group for (name, _), group in done.items() if name == kind]
    return min(groups, key=lambda group: statistics.median(map(of, group)))


def spread(values: list[float]) -> str:
    """Median (quartiles)."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"


# --- smooth: the digits ---


def training(kind: str, rate: float, seed: int, batch: int | None) -> tuple[Contender, nn.Module]:
    """One contender on the digits, with a model and an order of batches that depend on the seed alone."""
    images, labels = digits()
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    source = torch.Generator().manual_seed(seed)
    at_hand = [images, labels]

    def loss() -> Tensor:
        return nn.functional.cross_entropy(model(at_hand[0]), at_hand[1])

    if kind == "HybridBFO":
        hybrid = HybridBFO(model.parameters(), population_size=8, generator=torch.Generator().manual_seed(seed))
        inner: Callable[[], float] = lambda: hybrid.step(loss, loss)  # noqa: E731
    else:
        inner = adam_step(loss, torch.optim.Adam(model.parameters(), lr=rate, fused=kind == "fused Adam"))

    def step() -> float:
        if batch is not None:
            rows = torch.randint(len(images), (batch,), generator=source)
            at_hand[:] = images[rows], labels[rows]
        return inner()

    return Contender(kind, rate, step), model


TRAINED = [
    ("HybridBFO", 0.0),
    *(("Adam", rate) for rate in LEARNING_RATES),
    *(("fused Adam", rate) for rate in LEARNING_RATES[2:]),
]


def smooth(batch: int | None, most_steps: int, seeds: int) -> dict[tuple[str, float], Group]:
    """The contenders of each seed, until they have reached every target."""
    images, labels = digits()
    done: dict[tuple[str, float], Group] = {each: [] for each in TRAINED}
    for seed in range(seeds):
        running = [training(*each, seed, batch) for each in TRAINED]
        for contender, _ in running:
            done[contender.kind, contender.rate].append(contender)
        while running:
            for contender, model in list(running):
                contender.turn()
                with torch.no_grad():
                    now = nn.functional.cross_entropy(model(images), labels).item()
                for target in TARGETS:
                    if now <= target:
                        contender.reached.setdefault(
                            target, (contender.seconds, contender.cpu_seconds, contender.steps)
                        )
                if len(contender.reached) == len(TARGETS) or contender.steps >= most_steps:
                    running.remove((contender, model))
    return done


def time_table(seeds: int) -> Iterator[str]:
    """Time and steps to each target: ours, and the rate of Adam that got there first."""
    for contender in [training(*each, seed=0, batch=64)[0] for each in TRAINED]:
        contender.turn()  # the first steps in a process pay for what is loaded late
    titles = ["digits, 64-32-10", "train loss", "HybridBFO, ms", "Adam, ms (rate)", "fused Adam, ms (rate)"]
    titles += ["CPU, ours / Adam", "wall-clock, ours / Adam", "steps, ours and Adam"]
    yield f"| {' | '.join(titles)} |"
    yield "|---" * len(titles) + "|"
    for title, (batch, most_steps) in SMOOTH.items():
        done = smooth(batch, most_steps, seeds)
        for target in TARGETS:

            def taken(contender: Contender, at: int = 0, target: float = target) -> float:
                return contender.reached.get(target, (math.inf,) * 3)[at]

            ours = done["HybridBFO", 0.0]
            adam, fused = (best_rate(done, kind, taken) for kind in ("Adam", "fused Adam"))
            ratios = [
                [
                    taken(mine, at) / taken(its, at)
                    for mine, its in zip(ours, adam, strict=True)
                    if target in its.reached
                ]
                for at in (0, 1)
            ]
            cells = [title, f"{target:g}", f"{1e3 * statistics.median(map(taken, ours)):.0f}"]
            cells += [
                f"{1e3 * statistics.median(map(taken, group)):.0f} ({group[0].rate:g})" for group in (adam, fused)
            ]
            cells += [spread(ratios[1]), spread(ratios[0])]
            cells += [", ".join(f"{statistics.median(taken(c, 2) for c in group):.0f}" for group in (ours, adam))]
            yield f"| {' | '.join(cells)} |"


# --- multimodal ---


@dataclass(frozen=True)
class Problem:
    """A loss with many minima, and where to start."""

    name: str
    draw: Callable[[torch.Generator], Tensor]
    """A random start (D,)."""
    loss: Callable[[Tensor], Tensor]


def rastrigin(size: int) -> Problem:
    """sum_i x_i^2 - 10 cos(2 pi x_i) + 10, from uniform in [-5.12, 5.12]; about 10^D minima, the best is 0."""
    return Problem(
        f"Rastrigin, {size} dimensions",
        lambda generator: 10.24 * torch.rand(size, generator=generator) - 5.12,
        lambda x: (x.square() - 10 * torch.cos(2 * math.pi * x) + 10).sum(),
    )


def sines() -> Problem:
    """Four sines (amplitude, frequency, phase) fitted to 200 noisy points of another four; mean squared error."""
    source = torch.Generator().manual_seed(0)
    t_N1 = torch.linspace(0, 1, 200).unsqueeze(1)

    def draw(generator: torch.Generator) -> Tensor:
        amplitude, frequency = torch.rand(4, generator=generator) + 0.5, 1 + 11 * torch.rand(4, generator=generator)
        return torch.cat([amplitude, frequency, 2 * math.pi * torch.rand(4, generator=generator)])

    def predict(x: Tensor) -> Tensor:
        amplitude, frequency, phase = x.split(4)
        return (amplitude * torch.sin(2 * math.pi * frequency * t_N1 + phase)).sum(dim=1)

    data_N = predict(draw(source)) + 0.05 * torch.randn(200, generator=source)
    return Problem("4 sines fitted to 200 points", draw, lambda x: (predict(x) - data_N).square().mean())


def searcher(kind: str, rate: float, problem: Problem, seed: int) -> Contender:
    """One contender; all of a seed begin at the same place."""
    generator = torch.Generator().manual_seed(seed)
    place = problem.draw(generator).requires_grad_()

    def loss() -> Tensor:
        return problem.loss(place)

    if kind == "HybridBFO":
        hybrid = HybridBFO([place], population_size=10, generator=generator)
        return Contender(kind, rate, lambda: hybrid.step(loss, loss))
    inner, steps = adam_step(loss, torch.optim.Adam([place], lr=rate)), 0

    def step() -> float:
        nonlocal inner, steps
        if kind == "multi-start Adam" and steps == RESTART:
            with torch.no_grad():
                place.copy_(problem.draw(generator))
            inner, steps = adam_step(loss, torch.optim.Adam([place], lr=rate)), 0
        steps += 1
        return inner()

    return Contender(kind, rate, step)


SEARCHED = [
    ("HybridBFO", 0.0),
    *(("Adam", rate) for rate in LEARNING_RATES),
    *(("multi-start Adam", rate) for rate in LEARNING_RATES[1:]),
]


def multimodal(problem: Problem, seeds: int, seconds: float) -> dict[tuple[str, float], Group]:
    """The contenders of each seed, each after its `seconds`."""
    done: dict[tuple[str, float], Group] = {each: [] for each in SEARCHED}
    for seed in range(seeds):
        running = [searcher(*each, problem, seed) for each in SEARCHED]
        for contender in running:
            done[contender.kind, contender.rate].append(contender)
        while running:
            for contender in list(running):
                contender.turn()
                if contender.seconds >= seconds:
                    running.remove(contender)
    return done


def loss_table(seeds: int, seconds: float) -> Iterator[str]:
    """Best loss seen within the time: ours, and the best rate of Adam and of multi-start Adam."""
    titles = [f"loss after {seconds:g} s", "HybridBFO", "Adam (rate)", "multi-start Adam (rate)", "ours is lower than"]
    titles += ["steps, ours and Adam"]
    yield f"| {' | '.join(titles)} |"
    yield "|---" * len(titles) + "|"
    for problem in (rastrigin(10), rastrigin(30), sines()):
        done = multimodal(problem, seeds, seconds)
        ours = done["HybridBFO", 0.0]
        rivals = [best_rate(done, kind, lambda contender: contender.best) for kind in ("Adam", "multi-start Adam")]
        lower = [sum(mine.best < its.best for mine, its in zip(ours, group, strict=True)) for group in rivals]
        cells = [problem.name, spread([contender.best for contender in ours])]
        cells += [f"{spread([its.best for its in group])} ({group[0].rate:g})" for group in rivals]
        cells += [f"{lower[0]} and {lower[1]} of {seeds} seeds"]
        cells += [", ".join(f"{statistics.median(c.steps for c in group):.0f}" for group in (ours, rivals[0]))]
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 11
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 0.7
    torch.set_num_threads(1)
    for line in itertools.chain(time_table(min(seeds, 5)), [""], loss_table(seeds, seconds)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
