"""What the gradient trace costs: a training step under it against the same step without, in interleaved blocks.

python benchmarks/trace_overhead.py [--blocks 15] [--steps 5]
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable, Iterator

import torch

from bfo_diag.cases import char_transformer, digits_mlp, rosenbrock
from bfo_diag.probes.gradients.trace import Trace


@contextlib.contextmanager
def traced() -> Iterator[Callable[[], None]]:
    """Enter a trace and yield what begins a step."""
    with Trace() as trace:
        yield trace.begin_step


@contextlib.contextmanager
def plain() -> Iterator[Callable[[], None]]:
    """Do nothing."""
    yield lambda: None


def wide_transformer() -> Callable[[], object]:
    """Return a training step of a 4-layer encoder of width 256 on 16 sequences of 64."""
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(256, 4, 512, batch_first=True)
    net = torch.nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
    optimizer = torch.optim.Adam(net.parameters())
    x = torch.randn(16, 64, 256)

    def step() -> object:
        optimizer.zero_grad()
        loss = net(x).pow(2).mean()
        loss.backward()
        optimizer.step()
        return loss

    return step


def block(step: Callable[[], object], how: Callable[[], object], steps: int) -> float:
    """Return the seconds of `steps` steps."""
    with how() as begin:  # type: ignore[attr-defined]
        began = time.perf_counter()
        for _ in range(steps):
            begin()
            step()
        return time.perf_counter() - began


def main() -> None:
    """Print the median ratio of paired blocks for each step, with plain against plain as the control."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=15)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    steps = {
        "rosenbrock": rosenbrock.train_step().step,
        "digits-mlp": digits_mlp.train_step().step,
        "char-transformer": char_transformer.train_step().step,
        "encoder of width 256": wide_transformer(),
    }
    for name, step in steps.items():
        for what, how in (("control", plain), ("traced", traced)):
            block(step, how, 2)
            ratios = []
            for index in range(options.blocks):
                pair = [(how, "mine"), (plain, "base")]
                seconds = {key: block(step, kind, options.steps) for kind, key in (pair if index % 2 else pair[::-1])}
                ratios.append(seconds["mine"] / seconds["base"])
            ratios.sort()
            quarter = len(ratios) // 4
            spread = f"quartiles {ratios[quarter]:.2f} to {ratios[-1 - quarter]:.2f}"
            print(f"{name}, {what}: median ratio {statistics.median(ratios):.2f}, {spread}")


if __name__ == "__main__":
    main()
