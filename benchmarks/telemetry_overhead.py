"""What gradient telemetry costs, as a share of a training step: ord-2 norms, with zeros, and a naive collector.

    python benchmarks/telemetry_overhead.py [--rounds 40] [--model char-lm]

On one thread. In each round every way of collecting trains for a block of steps, in an order that is shuffled anew, and
so do two without any (the step, and the A/A control). Two figures each, in wall-clock time and in the process's own CPU
time: the sampling calls themselves, as a share of the median step, and whole blocks against the block without in the
same round. The first resolves a thousandth of a step; the second, as far as the control lets it, shows that nothing is
hidden from the first. Beside them, what torch's own `get_total_norm` takes.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bfo_diag.cases import char_transformer, digits_mlp
from pytorch_bfo_optimizer import GradientCollector, TelemetryConfig

NONE, CONTROL = "none", "none again (A/A)"
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
Sampling = Callable[[], object]


class CharLM(nn.Module):
    """A causal character transformer of four blocks."""

    def __init__(self, alphabet: int, *, width: int = 272, context: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(alphabet, width)
        self.position = nn.Parameter(torch.randn(context, width) * 0.02)
        block = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, 4, enable_nested_tensor=False)
        self.head = nn.Linear(width, alphabet)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(context))

    def forward(self, codes_BT: Tensor) -> Tensor:
        """Return (B, T, alphabet) logits."""
        return self.head(self.blocks(self.embed(codes_BT) + self.position, mask=self.mask, is_causal=True))


def char_lm() -> tuple[nn.Module, Callable[[], Tensor]]:
    """Return the model and its loss on 16 pieces of 64 characters of Python's own help texts."""
    codes, alphabet = char_transformer.characters()
    model = CharLM(alphabet)
    starts = torch.randint(0, len(codes) - 65, (16,), generator=torch.Generator().manual_seed(0))
    pieces = torch.stack([codes[start : start + 65] for start in starts.tolist()])
    return model, lambda: nn.functional.cross_entropy(model(pieces[:, :-1]).flatten(0, 1), pieces[:, 1:].flatten())


def mlp() -> tuple[nn.Module, Callable[[], Tensor]]:
    """Return a 64-1024-1024-10 MLP and its loss on 256 digits."""
    images, labels = (tensor[:256] for tensor in digits_mlp.digits())
    model = nn.Sequential(nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10))
    return model, lambda: nn.functional.cross_entropy(model(images), labels)


def collector(model: nn.Module, *, zero_every: int) -> Sampling:
    """Return what takes a sample: queued and waited for."""
    made = GradientCollector(model.named_parameters(), config=TelemetryConfig(zero_every=zero_every))
    return lambda: made.collect().materialize()


def total_alone(model: nn.Module) -> Sampling:
    """Return what torch itself offers: one number for all gradients, waited for."""
    return lambda: torch.nn.utils.get_total_norm([parameter.grad for parameter in model.parameters()]).item()


def naive(model: nn.Module) -> Sampling:
    """Return what a first draft does: each gradient copied to float64, and a host sync for each of its numbers."""
    parameters = list(model.named_parameters())

    def sample() -> dict[str, tuple[float, ...]]:
        found = {}
        for name, parameter in parameters:
            wide = parameter.grad.detach().to(torch.float64)
            found[name] = (
                wide.norm().item(),
                wide.abs().max().item(),
                (wide == 0).to(torch.float64).mean().item(),
                torch.isnan(wide).sum().item(),
                torch.isinf(wide).sum().item(),
            )
        return found

    return sample


@dataclass
class Seconds:
    """What was timed of one way of collecting: each block, and each sampling call, by clock."""

    blocks: dict[str, list[float]] = field(default_factory=lambda: {clock: [] for clock in CLOCKS})
    calls: dict[str, list[float]] = field(default_factory=lambda: {clock: [] for clock in CLOCKS})


def train(step: Callable[[Sampling | None], None], sampling: Sampling | None, steps: int, into: Seconds) -> None:
    """Time a block of steps."""

    def timed() -> None:
        began = {name: clock() for name, clock in CLOCKS.items()}
        sampling()
        for name, clock in CLOCKS.items():
            into.calls[name].append(clock() - began[name])

    began = {name: clock() for name, clock in CLOCKS.items()}
    for _ in range(steps):
        step(timed if sampling else None)
    for name, clock in CLOCKS.items():
        into.blocks[name].append((clock() - began[name]) / steps)


def quartiles(values: Sequence[float], unit: float, digits: int) -> str:
    """Return median and quartiles as text."""
    low, middle, high = (part / unit for part in statistics.quantiles(values, n=4))
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def measure(name: str, made: tuple[nn.Module, Callable[[], Tensor]], *, rounds: int, steps: int) -> None:
    """Train in all ways, round by round, and print what each costs."""
    model, loss = made
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def step(sampling: Sampling | None) -> None:
        optimizer.zero_grad()
        loss().backward()
        if sampling:
            sampling()
        optimizer.step()

    ways: dict[str, Sampling | None] = {
        NONE: None,
        CONTROL: None,
        "norms": collector(model, zero_every=0),
        "norms and zeros": collector(model, zero_every=1),
        "get_total_norm": total_alone(model),
        "naive": naive(model),
    }
    for sampling in ways.values():
        train(step, sampling, 2, Seconds())
    found = {way: Seconds() for way in ways}
    order, shuffled = list(ways), random.Random(0)
    for _ in range(rounds):
        shuffled.shuffle(order)
        for way in order:
            train(step, ways[way], steps, found[way])
    parameters = [p.numel() for p in model.parameters()]
    print(
        f"\n{name}: {sum(parameters) / 1e6:.1f} M parameters in {len(parameters)} tensors, {rounds} rounds of {steps}"
    )
    for clock in CLOCKS:
        base = found[NONE].blocks[clock]
        usual = statistics.median(base)
        print(f"  {clock}: a step takes {quartiles(base, 1e-3, 1)} ms")
        for way, seconds in found.items():
            against = [with_it / without - 1 for with_it, without in zip(seconds.blocks[clock], base, strict=True)]
            calls = seconds.calls[clock]
            told = ""
            if calls:
                share = statistics.median(calls) / usual
                told = (
                    f"a call {quartiles(calls, 1e-3, 3)} ms = {share:.2%} of a step, {share / 10:.3%} at every tenth; "
                )
            if way != NONE:
                print(f"    {way}: {told}blocks {quartiles(against, 1e-2, 2)} % longer")


def main() -> None:
    """Measure both models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--model", choices=("char-lm", "mlp"), help="only this one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name, make, steps in (("char-lm", char_lm, 1), ("mlp", mlp, 10)):
        if options.model in (None, name):
            measure(name, make(), rounds=options.rounds, steps=steps)


if __name__ == "__main__":
    main()
