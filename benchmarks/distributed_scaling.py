"""How far one colony scales over ranks: constants measured on 1 and 2, a model made of them, and the model checked.

    python benchmarks/distributed_scaling.py [--ranks 2 4] [--rounds 60] [--waits 5]

The model, for a generation of S slots, E evaluations and P members in D coordinates on n ranks::

    T(n) = own(P D) + sharing(n) S + t (E / n + S (n - 1) / 2 n) + S (n - 1) (alpha + beta m)

own: noise, moves and bookkeeping, done again on every rank; sharing: who evaluates what, and putting losses together;
t: one evaluation, of which the slowest rank has half a member more than its share in each slot; the last term: gloo
gathers in a ring of n - 1 hops, each with a message of m bytes: a share of the P losses, and 24.

Work is measured in CPU time, messages between 2 ranks by the clock, where the tenth percentile stands for two ranks
that are both on a core. Then each number of ranks in --ranks trains for real, one step each in turn with rank 0 alone,
and what a step took is set beside the model: by the clock, and without its messages in CPU time, of the slowest rank.
All of it on one machine, one thread a rank, over gloo's loopback: a network has another alpha. Where others use the
machine, the clock tells of them, and CPU time of this. With --waits an evaluation only waits so many milliseconds, as
for a simulator elsewhere: then ranks need no core each, and the clock can be believed.
"""

from __future__ import annotations

import argparse
import math
import os
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from bfo_diag.cases import digits_mlp
from pytorch_bfo_optimizer import BFO
from pytorch_bfo_optimizer.distributed import HEADER_WORDS, UNIT_SIZE, Distribution, SharedEvaluator, distribute
from pytorch_bfo_optimizer.objective import MemberEvaluator, PiecewiseEvaluator
from pytorch_bfo_optimizer.ranks import Ranks

POPULATION, SLOTS = 64, 5


@dataclass(frozen=True)
class Constants:
    """What the model is made of, in seconds."""

    own_fixed: float
    own_element: float
    sharing_fixed: float
    sharing_rank: float
    evaluation: float
    alpha: float
    beta: float


def message_bytes(population: int, ranks: int) -> int:
    """Return the size of one message of one rank."""
    units = math.ceil(math.ceil(population / UNIT_SIZE) / ranks)
    return 8 * (HEADER_WORDS + max(units * UNIT_SIZE, math.ceil(population / ranks)) + 1)


def parts(
    constants: Constants, *, population: int, dimension: int, ranks: int, evaluations: float
) -> tuple[float, float, float]:
    """Return the seconds of a generation: replicated work, evaluation, messages."""
    own = constants.own_fixed + constants.own_element * population * dimension
    if ranks == 1:
        return own, constants.evaluation * evaluations, 0.0
    own += SLOTS * (constants.sharing_fixed + constants.sharing_rank * ranks)
    share = evaluations / ranks + SLOTS * (ranks - 1) / (2 * ranks)
    hop = constants.alpha + constants.beta * message_bytes(population, ranks)
    return own, constants.evaluation * share, SLOTS * (ranks - 1) * hop


# --- what is measured ---


def cpu_seconds(call: Callable[[], object], *, rounds: int) -> float:
    """Return the median CPU seconds of a call."""
    call()
    taken = []
    for _ in range(rounds):
        began = time.process_time()
        call()
        taken.append(time.process_time() - began)
    return statistics.median(taken)


def seconds(call: Callable[[], object]) -> tuple[float, float]:
    """Return what a call takes by the clock, and of CPU time."""
    began, worked = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - began, time.process_time() - worked


def tenth(values: Sequence[float]) -> float:
    """Return the tenth percentile."""
    return statistics.quantiles(values, n=10)[0]


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return (intercept, slope) through the first and the last point, neither below zero."""
    (x0, y0), (x1, y1) = points[0], points[-1]
    slope = max((y1 - y0) / (x1 - x0), 0.0)
    return max(y0 - slope * x0, 0.0), slope


def own_work(population: int, dimension: int, *, rounds: int) -> float:
    """Return the seconds of a generation whose evaluations cost nothing."""
    param = torch.zeros(dimension)
    optimizer = BFO([param], population_size=population, swim_length=SLOTS - 1)

    class Free:
        def bind(self, params: Sequence[Tensor]) -> None:
            pass

        def evaluate_population(self, pop_PD: Tensor) -> Tensor:
            return pop_PD[:, 0]

    return cpu_seconds(lambda: optimizer.step(Free()), rounds=rounds)


def sharing_work(ranks: int, *, rounds: int) -> float:
    """Return the seconds that a slot costs beyond its evaluations and its message, with so many ranks."""
    population = max(ranks, POPULATION)
    nothing = torch.zeros((), dtype=torch.float64)

    class Free(PiecewiseEvaluator):
        unit_size = 1

        def units(self, active_P: Tensor) -> list[Sequence[int]]:
            return [(index,) for index in active_P.nonzero().flatten().tolist()]

        def losses_of(self, position_PD: Tensor, unit: Sequence[int]) -> Tensor:
            return nothing

    class Echo:
        rank, size = 0, ranks

        def gather(self, message: Tensor) -> Tensor:
            return message.expand(ranks, -1).clone()

    echo: Any = Echo()
    optimizer = BFO([torch.zeros(4)], population_size=population)
    slot = SharedEvaluator(Free(dtype=torch.float64, prefilled=None), Distribution(optimizer, echo))
    place_PD, all_P = torch.zeros(population, 4), torch.ones(population, dtype=torch.bool)
    return cpu_seconds(lambda: slot(place_PD, all_P), rounds=rounds)


def digits_problem(waits: float = 0.0) -> tuple[BFO, Callable[[], Tensor]]:
    """Return a colony on a 64-32-10 network, and its loss on all digits, or one that is waited for."""
    torch.manual_seed(0)
    images, labels = digits_mlp.digits()
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = BFO(
        model.parameters(),
        population_size=POPULATION,
        swim_length=SLOTS - 1,
        generator=torch.Generator().manual_seed(0),
    )

    def closure() -> Tensor:
        with torch.no_grad():
            if waits:
                time.sleep(waits)
                return model[0].weight.square().mean()
            return nn.functional.cross_entropy(model(images), labels)

    return optimizer, closure


def evaluation_work(*, rounds: int) -> float:
    """Return the seconds of one evaluation, the writing of its position among them."""
    optimizer, closure = digits_problem()
    member = MemberEvaluator(closure, optimizer.vector, dtype=torch.float64, grad_enabled=False)
    place_PD = optimizer.population
    return cpu_seconds(lambda: member.losses_of(place_PD, (1,)), rounds=rounds)


def on_rank(rank: int, ranks: int, port: int, rounds: int, waits: float, answers: Any) -> None:
    """Measure messages and steps on this many ranks; rank 0 puts the figures into `answers`."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    talk, word = Ranks(None, timeout=120), torch.zeros(1, dtype=torch.int64)
    gathers = []
    for size in (64, 65536):
        message = torch.zeros(size // 8, dtype=torch.int64)
        gathers.append((size, tenth([seconds(partial(talk.gather, message))[0] for _ in range(300)])))
    (alone, one), (shared, same) = digits_problem(waits), digits_problem(waits)
    taken: dict[str, list[tuple[float, float]]] = {"alone": [], "shared": []}
    spent: list[int] = []
    shared.on_step.append(lambda record: spent.append(record.evaluations))
    with distribute(shared, timeout=120):
        for _ in range(rounds):
            if rank == 0:
                taken["alone"].append(seconds(partial(alone.step, one)))
            talk.gather(word)
            clock, worked = seconds(partial(shared.step, same))
            slowest = int(talk.gather(torch.tensor([int(worked * 1e9)])).max())
            taken["shared"].append((clock, slowest / 1e9))
    if rank == 0:
        equal = torch.equal(alone.population, shared.population)
        facts = {"equal": equal, "taken": taken, "spent": spent, "gathers": gathers}
        answers.put({**facts, "dimension": shared.vector.dimension})
    talk.gather(word)


def measure(ranks: int, rounds: int, waits: float) -> dict[str, Any]:
    """Run `on_rank` in so many processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = mp.get_context("spawn")
    answers = context.SimpleQueue()
    mp.spawn(on_rank, args=(ranks, port, rounds, waits, answers), nprocs=ranks)
    return answers.get()


# --- what is printed ---


def compare(constants: Constants, ranks: int, seen: dict[str, Any], clocks: Sequence[str]) -> None:
    """Print what steps took as a share of what the model says, step by step: each has its own number of evaluations."""
    print(f"{ranks} ranks, {statistics.mean(seen['spent']):.0f} evaluations a step, same colony: {seen['equal']}")
    middles = {}
    for name, n in (("alone", 1), ("shared", ranks)):
        predicted = [
            parts(constants, population=POPULATION, dimension=seen["dimension"], ranks=n, evaluations=spent)
            for spent in seen["spent"]
        ]
        for clock, column, model in (
            ("clock", 0, [own + work + talk for own, work, talk in predicted]),
            ("CPU", 1, [own + work for own, work, _ in predicted]),
        ):
            if clock not in clocks:
                continue
            ratios = [took[column] / said for took, said in zip(seen["taken"][name], model, strict=True)][1:]
            low, middle, high = statistics.quantiles(ratios, n=4)
            middles[name, clock] = statistics.median(model), middle
            print(
                f"  {name}, {clock}: model {statistics.median(model) * 1e3:.1f} ms; measured {middle:.2f} times that "
                f"(quartiles {low:.2f} to {high:.2f}, tenth percentile {tenth(ratios):.2f})"
            )
    for clock in clocks:
        (alone, alone_by), (shared, shared_by) = middles["alone", clock], middles["shared", clock]
        print(f"  {clock}: model {alone / shared:.2f} times less, measured {alone * alone_by / shared / shared_by:.2f}")


def print_prediction(constants: Constants, *, population: int, dimension: int, evaluation: float) -> None:
    """Print the table of 1 to 1024 ranks for one colony."""
    constants = Constants(**{**vars(constants), "evaluation": evaluation})
    evaluations = population * SLOTS / 2  # about half of the members still swim, slot by slot
    single = sum(parts(constants, population=population, dimension=dimension, ranks=1, evaluations=evaluations))
    print(f"\nP = {population}, D = {dimension}, {evaluation * 1e3:g} ms an evaluation: {single * 1e3:.0f} ms alone")
    print("| ranks | bytes sent | own ms | evaluation ms | messages ms | generation ms | speed-up | with a tree |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for ranks in (8, 16, 32, 64, 128, 256, 512, 1024):
        own, work, talk = parts(
            constants, population=population, dimension=dimension, ranks=ranks, evaluations=evaluations
        )
        tree = talk / (ranks - 1) * math.ceil(math.log2(ranks))
        sent = SLOTS * message_bytes(population, ranks) * (ranks - 1)
        print(
            f"| {ranks} | {sent} | {own * 1e3:.1f} | {work * 1e3:.1f} | {talk * 1e3:.1f} | "
            f"{(own + work + talk) * 1e3:.1f} | {single / (own + work + talk):.1f} | "
            f"{single / (own + work + tree):.1f} |"
        )


def main() -> None:
    """Measure, check, predict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2], help="train on so many for real")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--waits", type=float, default=0.0, metavar="MS", help="evaluations that only wait")
    options = parser.parse_args()
    waits = options.waits / 1e3
    torch.set_num_threads(1)
    found = {ranks: measure(ranks, options.rounds, waits) for ranks in sorted({2, *options.ranks})}
    two = found[2]
    own = line([(64 * size, own_work(64, size, rounds=30)) for size in (10, 20_000)])
    sharing = line([(ranks, sharing_work(ranks, rounds=60)) for ranks in (2, 1024)])
    evaluation = waits or evaluation_work(rounds=200)
    constants = Constants(*own, *sharing, evaluation, *line(two["gathers"]))
    print("constants: " + ", ".join(f"{name} {value * 1e6:.4g} us" for name, value in vars(constants).items()))
    for ranks, seen in found.items():
        compare(constants, ranks, seen, ["clock"] if waits else ["clock", "CPU"])
    if waits:
        return
    print_prediction(constants, population=1024, dimension=two["dimension"], evaluation=constants.evaluation)
    print_prediction(constants, population=4096, dimension=100_000, evaluation=0.05)


if __name__ == "__main__":
    main()
