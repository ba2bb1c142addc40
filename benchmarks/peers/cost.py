"""What an optimizer itself costs: its CPU time beside the evaluations, and a generation against bare evaluations.

    run.py cost [--blocks 21] [--dims 10,100,1000]

All sides run in one process on one thread, block after block, the order of each round the reverse of the one before.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from peers import digits_loss, results
from peers.cost_sides import (
    BATCHED,
    BLOCK,
    ONE_BY_ONE,
    POPULATION,
    BlockDone,
    Meter,
    Prepare,
    bare,
    numpy_sphere,
    sphere,
)
from peers.quality import numbers
from peers.runners import silence

FILE = results.FOLDER / "cost.jsonl"
DIGITS_BLOCK = 10 * POPULATION
BARE = "bare evaluation"
ONE_BY_ONE_EVERY = 3
"""Those who call the function vector by vector take part in every third round: they are slow, and only listed."""


@dataclass(frozen=True)
class Block:
    """CPU seconds of one block, and of the evaluations in it."""

    subject: str
    """"sphere" or "digits"."""
    optimizer: str
    version: str
    dim: int
    round: int
    evaluations: int
    cpu_s: float
    evaluating_s: float

    @property
    def own_ms(self) -> float:
        """The optimizer's own milliseconds for 1000 evaluations."""
        return (self.cpu_s - self.evaluating_s) / self.evaluations * 1e6

    @property
    def whole_ms(self) -> float:
        """Milliseconds for 1000 evaluations, these included."""
        return self.cpu_s / self.evaluations * 1e6


Measured = tuple[Meter, float]
"""What was counted in a block, and its CPU seconds."""


def stepped(prepare: Prepare, value: Callable[[Tensor], Tensor], dim: int, seed: int, least: int) -> Measured:
    """Run whole generations until so many evaluations are made; the first two stay outside the block."""
    meter = Meter(value)
    generation = prepare(meter, dim, seed)
    generation()
    generation()
    meter.evaluations, meter.seconds = 0, 0.0
    began = time.process_time()
    while meter.evaluations < least:
        generation()
    return meter, time.process_time() - began


def owned(run: Callable[[Meter, int, int], None], dim: int, seed: int) -> Measured:
    """Run an optimizer that owns its loop until the block's evaluations are made."""
    meter = Meter(numpy_sphere, BLOCK)
    began = time.process_time()
    with contextlib.suppress(BlockDone):
        run(meter, dim, seed)
    return meter, time.process_time() - began


def sphere_block(name: str, dim: int, seed: int) -> Measured:
    """One block of this optimizer on the sphere function."""
    if name in BATCHED:
        return stepped(BATCHED[name].prepare, sphere, dim, seed, BLOCK)
    return owned(ONE_BY_ONE[name].run, dim, seed)


def digits_block(name: str, dim: int, seed: int) -> Measured:
    """One block on the digits MLP; the bare evaluation too is of a population of 64."""
    prepare = bare if name == BARE else BATCHED[name].prepare
    return stepped(prepare, digits_loss.losses, dim, seed, DIGITS_BLOCK)


def rounds(subject: str, dim: int, count: int) -> list[Block]:
    """The blocks of so many rounds, after one round that is thrown away."""
    measure = sphere_block if subject == "sphere" else digits_block
    found = []
    for index in range(-1, count):
        names = [*BATCHED, BARE] if subject == "digits" else list(BATCHED)
        if subject == "sphere" and index % ONE_BY_ONE_EVERY == 0:
            names += ONE_BY_ONE
        for name in names if index % 2 else reversed(names):
            meter, seconds = measure(name, dim, index + 1)
            version = "" if name == BARE else results.version_of((BATCHED | ONE_BY_ONE)[name].distribution)
            found.append(Block(subject, name, version, dim, index, meter.evaluations, seconds, meter.seconds))
    return [block for block in found if block.round >= 0]


def read() -> list[Block]:
    """The blocks of the last measurement."""
    return [Block(**values) for values in results.read_lines(FILE)]


def main(arguments: list[str]) -> None:
    """Measure everything anew: blocks of two days do not compare."""
    parser = argparse.ArgumentParser(prog="run.py cost", description=__doc__)
    parser.add_argument("--blocks", type=int, default=21, help="rounds")
    parser.add_argument("--dims", type=numbers, default=[10, 100, 1000])
    wanted = parser.parse_args(arguments)
    torch.set_num_threads(1)
    silence()
    blocks = []
    for subject, dim in [*(("sphere", dim) for dim in wanted.dims), ("digits", digits_loss.DIMENSION)]:
        blocks += rounds(subject, dim, wanted.blocks)
        print(f"{subject}, d = {dim}: {wanted.blocks} rounds", file=sys.stderr, flush=True)
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text("".join(json.dumps(asdict(block)) + "\n" for block in blocks))


if __name__ == "__main__":
    main(sys.argv[1:])
