"""`PendingStats.clip_`: what torch does, with the norm that was collected."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pytorch_bfo_optimizer import GradientCollector, TelemetryError
from pytorch_bfo_optimizer.telemetry import norms


def randn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_clipping_is_that_of_torch(dtype: torch.dtype, max_norm: float, parameters: Callable, twin: Callable) -> None:
    gradients = {"a": randn(300, 7, dtype=torch.float64).to(dtype), "b": randn(50, dtype=torch.float64).to(dtype)}
    theirs = parameters({name: gradient.clone() for name, gradient in gradients.items()})
    exact = {name: gradient.to(torch.float64, copy=True) for name, gradient in gradients.items()}
    torch.nn.utils.clip_grad_norm_(theirs.values(), max_norm)
    total = GradientCollector(parameters(gradients).items()).collect().clip_(max_norm)
    norm = twin(torch.cat([gradient.flatten() for gradient in exact.values()])).norm
    assert total.item() == pytest.approx(norm, rel=1e-6, abs=0)
    eps, least = torch.finfo(dtype).eps, torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    units = 1.01 if dtype is not torch.float64 else 4  # float64 has none to spare for the sum
    for name, gradient in gradients.items():
        # The factor is rounded to the dtype, and so is the product: together no more than one unit in the last place.
        clipped = exact[name] * min(1.0, max_norm / (norm + 1e-6))
        torch.testing.assert_close(gradient.double(), clipped, rtol=units * eps, atol=least)
        # (Torch also rounds the norm.)
        torch.testing.assert_close(gradient, theirs[name].grad, rtol=3 * eps, atol=least)


def test_clipping_many_kinds_at_once(mixed: dict[str, Tensor], parameters: Callable, twin: Callable) -> None:
    mixed["sparse"] = randn(6, 2).to_sparse()
    before = {name: twin(gradient).norm for name, gradient in mixed.items()}
    collector = GradientCollector(parameters(mixed).items())
    total = collector.collect().clip_(1.5)
    assert total.item() == pytest.approx(math.hypot(*before.values()), rel=1e-6, abs=0)
    after = collector.collect().materialize()
    assert after.total_norm == pytest.approx(1.5, rel=1e-3)  # float16 and bfloat16 among them
    shares = [norm / before[name] for name, norm in zip(after.names, after.norms, strict=True)]
    assert shares == pytest.approx([1.5 / total.item()] * len(shares), rel=4e-3)


def test_clipping_takes_no_second_norm(monkeypatch: pytest.MonkeyPatch, parameters: Callable) -> None:
    pending = GradientCollector(parameters({"a": torch.tensor([3.0, 4.0])}).items()).collect()
    norm = pending.total_norm

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the gradients are read again")

    monkeypatch.setattr(norms, "queue", refuse)
    monkeypatch.setattr(torch, "_foreach_norm", refuse)
    monkeypatch.setattr(torch.nn.utils.clip_grad, "_get_total_norm", refuse)
    assert pending.clip_(1.0) == norm == 5.0


def test_nan_is_clipped_as_torch_clips_it_and_named_afterwards(parameters: Callable) -> None:
    gradients = {"a": torch.tensor([math.nan, 1.0]), "b": torch.ones(2)}
    theirs = parameters({name: gradient.clone() for name, gradient in gradients.items()})
    torch.nn.utils.clip_grad_norm_(theirs.values(), 1.0)
    pending = GradientCollector(parameters(gradients).items()).collect()
    assert math.isnan(pending.clip_(1.0))
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, theirs[name].grad, equal_nan=True)
    found = pending.materialize()
    assert (found.not_counted, found.norms[1]) == (("a",), pytest.approx(math.sqrt(2)))


def test_clipping_what_was_not_collected_is_refused(parameters: Callable) -> None:
    made = parameters({"a": torch.ones(2), "b": torch.ones(2)})
    collector = GradientCollector(made.items())
    pending = collector.collect()
    made["b"].grad.mul_(2)
    with pytest.raises(TelemetryError, match=r"^b: its gradient is not what was collected"):
        pending.clip_(1.0)
    assert made["a"].grad.tolist() == [1, 1]
    pending = collector.collect()
    made["a"].grad = torch.ones(2)
    with pytest.raises(TelemetryError, match=r"^a: its gradient is not what was collected"):
        pending.clip_(1.0)
    pending = collector.collect()
    pending.clip_(1.0)
    with pytest.raises(TelemetryError, match=r"^a: its gradient is not what"):
        pending.clip_(1.0)
    pending = collector.collect()
    total = pending.materialize().total_norm
    with pytest.raises(TelemetryError, match=r"clip before materialize.*clip_grads_with_norm_"):
        pending.clip_(1.0)
    torch.nn.utils.clip_grads_with_norm_(made.values(), 0.1, torch.tensor(total))  # the way that the error names
    assert collector.collect().materialize().total_norm == pytest.approx(0.1, rel=1e-5)
