"""No wait to collect a sample, and one to read it: counted on a CPU, where Python asks; tests/gpu counts a GPU's."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pytorch_bfo_optimizer import GradientCollector, TelemetryConfig


class Reads(TorchFunctionMode):
    """Counts where Python asks a tensor for its numbers: `tolist` (one wait, however many), `item`, `float()`, ..."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = getattr(func, "__name__", "")
        if name in {"tolist", "item", "numpy", "cpu", "nonzero", *(f"__{kind}__" for kind in KINDS)}:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


KINDS = ("bool", "int", "float", "index", "complex", "array")


class Scalars(TorchDispatchMode):
    """Counts what waits for a device by itself: reading a scalar, an output whose size depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags:
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("special", "waits"), [(1.0, 1), (math.nan, 2), (1e20, 2), (1e-30, 2)], ids=["clean", "nan", "overflow", "small"]
)
@pytest.mark.parametrize("zero_every", [0, 1])
@pytest.mark.parametrize("scale", [None, torch.tensor(2.0)])
def test_one_wait_a_sample_and_none_to_collect_it(
    special: float, waits: int, zero_every: int, scale: Tensor | None, mixed: dict[str, Tensor], parameters: Callable
) -> None:
    mixed["special"] = torch.full((2000,), special)
    mixed["another"] = torch.full((30,), special, dtype=torch.float64)
    config = TelemetryConfig(zero_every=zero_every)
    collector = GradientCollector(parameters(mixed).items(), config=config)
    other = GradientCollector(parameters({name: g.clone() for name, g in mixed.items()}).items(), config=config)
    with Reads() as reads, Scalars() as scalars:
        pending = collector.collect(scale=scale)
        total = pending.total_norm
        other.collect().clip_(1.0)
        assert (reads.names, scalars.names) == ([], [])
        pending.materialize()
        assert reads.names == ["tolist"] * waits
        assert scalars.names == []
        total.item()
    assert reads.names[-1] == "item"  # or the counting is blind
    assert scalars.names == ["aten._local_scalar_dense.default"]
