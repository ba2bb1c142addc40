"""A training on the digits with all that a compile may disturb, and backends that fail in every way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch._dynamo
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters

from bfo_diag.cases.digits_mlp import digits


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    """Begin and end without anything compiled, and leave torch's global state as it was."""
    torch._dynamo.reset()
    counters.clear()
    before = _global_state()
    yield
    assert _global_state() == before
    torch._dynamo.reset()


def _global_state() -> tuple[Any, ...]:
    from torch._dynamo import eval_frame

    return (
        torch._dynamo.config.get_config_copy(),
        torch._functorch.config.get_config_copy(),
        str(eval_frame._stance),
        torch.is_grad_enabled(),
        torch.is_anomaly_enabled(),
        torch.get_default_dtype(),
    )


IMAGES, LABELS = digits()
RECOMPILE_LIMIT: int = getattr(torch._dynamo.config, "recompile_limit", None) or torch._dynamo.config.cache_size_limit


class Net(nn.Module):
    """BatchNorm, dropout and a counter: each of them remembers what was run."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.first = nn.Linear(64, width)
        self.norm = nn.BatchNorm1d(width)
        self.drop = nn.Dropout(0.2)
        self.last = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(torch.relu(self.norm(self.first(x)))))


@dataclass
class Training:
    """A model, its optimizer and scheduler, and one step of theirs."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    losses: list[float] = field(default_factory=list)

    def step(self, size: int = 32) -> Tensor:
        """One full training step on the first `size` digits."""
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.model(IMAGES[:size]), LABELS[:size])
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        self.losses.append(loss.item())
        return loss

    def run(self, sizes: tuple[int, ...]) -> Training:
        for size in sizes:
            self.step(size)
        return self

    def state(self) -> dict[str, Any]:
        """All that a training consists of."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": {k: v for k, v in self.scheduler.state_dict().items() if not callable(v)},
            "losses": list(self.losses),
            "grads": [param.grad for param in self.model.parameters()],
            "random": torch.get_rng_state(),
        }


SIZES = (32,) * 7 + (20,) * 6 + (48,) * 7
"""Twenty steps in three shapes."""


def training(make: Callable[[], nn.Module] = Net) -> Training:
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    return Training(model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 5, 0.5))


def same(one: Any, other: Any) -> bool:
    """Whether two states are equal, tensors bit by bit."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


class BrokenError(Exception):
    """What the backends below raise."""


def refuses(gm: torch.fx.GraphModule, inputs: Any) -> Any:
    raise BrokenError("this backend compiles nothing\nand says so at length")


def forward_fails(gm: torch.fx.GraphModule, inputs: Any) -> Any:
    """Fails when it runs, after it has changed its inputs (BatchNorm's statistics)."""

    def run(*args: Any) -> Any:
        gm.forward(*args)
        raise BrokenError("the forward fails")

    return run


def _boxed(gm: torch.fx.GraphModule, inputs: Any) -> Any:
    return make_boxed_func(gm.forward)


def _refuses_backward(gm: torch.fx.GraphModule, inputs: Any) -> Any:
    raise BrokenError("the backward does not compile")


def _backward_fails(gm: torch.fx.GraphModule, inputs: Any) -> Any:
    def run(*args: Any) -> Any:
        raise BrokenError("the backward fails")

    return make_boxed_func(run)


backward_refused = aot_autograd(fw_compiler=_boxed, bw_compiler=_refuses_backward)
"""The forward compiles and runs; torch compiles the backward when it is called."""
backward_fails = aot_autograd(fw_compiler=_boxed, bw_compiler=_backward_fails)


class ThirdShape:
    """A backend that is fine until the third shape: `when` it compiles it, or when that `runs` (or its backward)."""

    def __init__(self, when: str) -> None:
        self.when = when
        self.compiled = 0

    def __call__(self, gm: torch.fx.GraphModule, inputs: Any) -> Any:
        self.compiled += 1
        if self.when == "compiles" and self.compiled == 3:
            raise BrokenError("the third shape does not compile")
        real = aot_autograd(fw_compiler=_boxed, bw_compiler=self._backward)(gm, inputs)

        def run(*args: Any) -> Any:
            if self.when == "runs" and any(isinstance(arg, Tensor) and arg.shape[:1] == (48,) for arg in args):
                raise BrokenError("the third shape does not run")
            return real(*args)

        return run

    def _backward(self, gm: torch.fx.GraphModule, inputs: Any) -> Any:
        if self.when == "compiles backward" and self.compiled == 3:
            raise BrokenError("the third backward does not compile")

        def run(*args: Any) -> Any:
            if self.when == "runs backward" and any(isinstance(a, Tensor) and a.shape[:1] == (48,) for a in args):
                raise BrokenError("the third backward does not run")
            return gm.forward(*args)

        return make_boxed_func(run)
