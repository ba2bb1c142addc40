"""A 64-32-10 MLP that classifies the 8 x 8 digits bundled with scikit-learn."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from bfo_diag.cases.workload import Workload, adam_case
from bfo_diag.errors import DiagError
from bfo_diag.records import Case

NAME = "digits-mlp"
_BATCH = 256
_PARTS = 2


@lru_cache(maxsize=1)
def digits() -> tuple[Tensor, Tensor]:
    """Return images (1797, 64) float32 in [0, 1] and labels (1797,) int64.

    Raises:
        DiagError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DiagError(
            f"the built-in case {NAME} needs scikit-learn's bundled digits ({error})",
            mend="pip install 'bfo-diag[demo]', or give a TARGET of your own",
        ) from error
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32) / 16.0, torch.tensor(labels)


def workload(*, device: str = "cpu", seed: int = 0) -> Workload:
    """Return the MLP with its first layer as the trunk, on one batch of 256 digits in two halves."""
    images, labels = digits()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=generator)[:_BATCH]
    xs = [part.to(device) for part in images[order].chunk(_PARTS)]
    ys = [part.to(device) for part in labels[order].chunk(_PARTS)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)).to(device)
    names = dict(model.named_parameters())
    return Workload(
        name=NAME,
        trunk_parameters={name: p for name, p in names.items() if name.startswith("0.")},
        head_parameters={name: p for name, p in names.items() if not name.startswith("0.")},
        trunk=lambda part: torch.tanh(model[0](xs[part])),
        head=lambda features, part: nn.functional.cross_entropy(model[2](features), ys[part]),
        parts=_PARTS,
        model=model,
    )


def train_step(device: str = "cpu") -> Case:
    """Return an ordinary Adam training step of the MLP."""
    return adam_case(workload(device=device), lr=1e-2)
