"""A 64-32-10 MLP that classifies the 8 x 8 digits bundled with scikit-learn."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

import numpy as np
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
        DiagError: scikit-learn is not installed, or has them elsewhere.
    """
    # Read as the file that it is: to import scikit-learn takes 1.4 s, in each process that examines this case.
    package = importlib.util.find_spec("sklearn")
    places = package.submodule_search_locations if package is not None else None
    file = Path(places[0], "datasets", "data", "digits.csv.gz") if places else None
    if file is None or not file.is_file():
        raise DiagError(
            f"the built-in case {NAME} needs scikit-learn's bundled digits ({file or 'scikit-learn'} is not there)",
            mend="pip install 'bfo-diag[demo]', or give a TARGET of your own",
        )
    table = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.float32))
    return table[:, :-1] / 16.0, table[:, -1].long()


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
