"""Small trainings on real data: digits through an MLP with BatchNorm, text through a transformer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from bfo_diag.training.data import Samples, load
from bfo_diag.training.models import CharTransformer
from bfo_diag.training.recipe import Data
from pytorch_bfo_optimizer.turnover.layers import find_layers
from pytorch_bfo_optimizer.turnover.view import View


@dataclass
class Training:
    """A model with its optimizer, data to learn from and data that is held back."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    train: Samples
    held: Samples
    batch: int = 32
    order: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))
    made: int = 0
    """Steps so far; each has dropout masks of its own, the same in every training."""

    def loss_of(self, samples: Samples) -> Tensor:
        logits = self.model(samples.inputs)
        return nn.functional.cross_entropy(logits.flatten(0, -2), samples.targets.flatten())

    def drawn(self, count: int) -> Samples:
        inputs, targets = self.train.at(torch.randint(len(self.train), (count,), generator=self.order))
        return Samples(inputs, targets, self.train.classes)

    def step(self, count: int | None = None) -> float:
        """Make a step on as many samples, and return the loss before it."""
        self.model.train()
        self.optimizer.zero_grad()
        self.made += 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.made)
            loss = self.loss_of(self.drawn(self.batch if count is None else count))
            loss.backward()
            self.optimizer.step()
        return loss.item()

    def run(self, steps: int) -> None:
        """Make steps; the last one of every four is on a smaller batch."""
        for number in range(1, steps + 1):
            self.step(self.batch if number % 4 else self.batch // 3)

    @torch.no_grad()
    def outputs(self) -> Tensor:
        self.model.eval()
        return self.model(self.held.inputs)

    @torch.no_grad()
    def evaluate(self) -> float:
        self.model.eval()
        return self.loss_of(self.held).item()


def digits_training(seed: int = 0, *, dtype: torch.dtype = torch.float32, model: str = "norm") -> Training:
    """64-24-16-10 with a BatchNorm1d, a dropout and no bias in the first layer; or an MLP, 64-64-10 with GELU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if model == "mlp":
            layers = [nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 10)]
        else:
            first = [nn.Linear(64, 24, bias=False), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.1)]
            layers = [*first, nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 10)]
        made = nn.Sequential(*layers).to(dtype)
    return _training(made, load(Data(name="digits"), "cpu"), dtype=dtype)


def text_training(seed: int = 0, *, dtype: torch.dtype = torch.float32) -> Training:
    """One block of width 16 with 64 neurons in its MLP, on pieces of 16 characters."""
    samples = load(Data(name="text", context=16, samples=600), "cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CharTransformer(samples, width=16, depth=1, dropout=0.0).to(dtype)
    return _training(model, samples, dtype=dtype)


def _training(model: nn.Module, samples: Samples, *, dtype: torch.dtype) -> Training:
    inputs = samples.inputs.to(dtype) if samples.inputs.is_floating_point() else samples.inputs
    cut = len(samples) * 4 // 5
    parts = [Samples(inputs[part], samples.targets[part], samples.classes) for part in (slice(cut), slice(cut, None))]
    return Training(model, torch.optim.AdamW(model.parameters(), lr=5e-3), *parts)


@pytest.fixture
def digits() -> Callable[..., Training]:
    return digits_training


@pytest.fixture
def text() -> Callable[..., Training]:
    return text_training


@pytest.fixture
def view() -> Callable[..., View]:
    """Return a view of the first layer of a model, all neurons of which are founders of age 50."""

    def make(model: nn.Module, **fields: object) -> View:
        layer = find_layers(model)[0]
        given = {
            "layer": layer,
            "ages": torch.full((layer.width,), 50),
            "founders": torch.ones(layer.width, dtype=torch.bool),
            "fading": torch.zeros(layer.width, dtype=torch.bool),
            "average": torch.full((layer.width,), torch.nan),
            "generator": torch.Generator().manual_seed(0),
        }
        return View(**(given | fields))

    return make
