"""Mixed precision: autocast inside the closure, and `scaled`, which takes the gradient through a GradScaler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.functional import cross_entropy

from bfo_diag.cases.digits_mlp import digits
from pytorch_bfo_optimizer import (
    BFO,
    AdaptiveBFO,
    ClosureRequiredError,
    GradientConfig,
    GradientModeUnsupportedError,
    HybridBFO,
    NoGradientError,
    ObjectiveError,
    SmartClosure,
)
from pytorch_bfo_optimizer.accumulation import accumulate
from pytorch_bfo_optimizer.amp import scaled

Wrap = Callable[[Callable[[], Tensor], Any], Callable[[], Any]]


def as_is(closure: Callable[[], Tensor], optimizer: Any) -> Callable[[], Tensor]:
    return closure


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))


def train(
    dtype: torch.dtype, *, steps: int = 80, seed: int = 0, cls: Any = HybridBFO, wrap: Wrap = as_is, **settings: Any
) -> tuple[list[float], nn.Module]:
    """Train on mini-batches of digits under autocast; the losses of the steps, and the model."""
    images, labels = digits()
    model, source = network(seed), torch.Generator().manual_seed(seed)
    optimizer = cls(model.parameters(), generator=torch.Generator().manual_seed(seed), **settings)
    losses = []
    for _ in range(steps):
        index = torch.randint(0, 1500, (64,), generator=source)

        def closure(index: Tensor = index) -> Tensor:
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                return cross_entropy(model(images[index]), labels[index])

        losses.append(optimizer.step(wrap(closure, optimizer)))
    return losses, model


def held_out(model: nn.Module) -> float:
    images, labels = digits()
    with torch.no_grad():
        return float(cross_entropy(model(images[1500:]), labels[1500:]))


def test_bfloat16_trains_to_what_float32_does() -> None:
    full = sorted(held_out(train(torch.float32, seed=seed)[1]) for seed in range(5))
    narrow = sorted(held_out(train(torch.bfloat16, seed=seed)[1]) for seed in range(5))
    assert full[0] <= narrow[2] <= full[-1]  # their median, in the spread of the others
    assert narrow[2] < 0.5 * held_out(network())


def test_a_scale_of_a_power_of_two_changes_no_bit_in_float32() -> None:
    scaler = GradScaler("cpu", init_scale=2.0**10)
    losses, model = train(torch.float32, steps=12, wrap=lambda closure, optimizer: scaled(closure, scaler, optimizer))
    wanted, twin = train(torch.float32, steps=12)
    assert losses == wanted
    assert all(map(torch.equal, model.parameters(), twin.parameters()))


def test_a_disabled_scaler_does_nothing() -> None:
    scaler = GradScaler("cpu", enabled=False)
    losses, _ = train(torch.bfloat16, steps=5, wrap=lambda closure, optimizer: scaled(closure, scaler, optimizer))
    assert losses == train(torch.bfloat16, steps=5)[0]


def test_float16_finds_with_a_scaler_the_gradient_that_underflows_without() -> None:
    images, labels = digits()
    model = network()
    optimizer = HybridBFO(model.parameters())

    def loss(dtype: torch.dtype) -> Callable[[], Tensor]:
        def closure() -> Tensor:
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                return cross_entropy(model(images[:64]), labels[:64]) * 1e-6

        return closure

    params = list(model.parameters())
    wanted = SmartClosure(loss(torch.float32), params).gradient().grads
    bare = SmartClosure(loss(torch.float16), params).gradient().grads
    closure = scaled(loss(torch.float16), GradScaler("cpu", init_scale=2.0**20), optimizer)
    found = SmartClosure(closure, params).gradient()
    assert float(bare[0].abs().max()) == 0
    for mine, true in zip(found.grads, wanted, strict=True):
        assert float((mine - true).norm()) < 2e-2 * float(true.norm())
    assert float(found.loss) == pytest.approx(float(loss(torch.float32)().detach()), rel=1e-2)


def test_float16_trains_from_a_scale_that_overflows_and_no_step_goes_without_a_gradient() -> None:
    scaler = GradScaler("cpu", init_scale=2.0**40)
    seen: list[bool] = []

    def wrap(closure: Callable[[], Tensor], optimizer: HybridBFO) -> Callable[[], Tensor]:
        if not optimizer.on_step:
            optimizer.on_step.append(lambda record: seen.append(record.used_gradient))
        return scaled(closure, scaler, optimizer)

    losses, model = train(torch.float16, wrap=wrap)
    assert held_out(model) < 0.5 * held_out(network())
    assert 2.0**8 < scaler.get_scale() < 2.0**30
    assert seen[:5] == [True] * 5
    assert losses[-1] < losses[0]


def test_the_scale_backs_off_within_a_gradient_and_grows_with_their_number() -> None:
    weight, calls = torch.tensor([1.0, 2.0], requires_grad=True), []
    scaler = GradScaler("cpu", init_scale=2.0**127, growth_interval=3)

    def loss() -> Tensor:
        calls.append(None)
        return (weight**2).sum()

    closure, scales = scaled(loss, scaler, HybridBFO([weight])), []
    for _ in range(3):
        closure()
        assert weight.grad is not None
        assert weight.grad.tolist() == [2.0, 4.0]
        scales.append(scaler.get_scale())
    assert scales == [2.0**125, 2.0**125, 2.0**126]  # 4 * 2 ** 126 is no float32
    assert len(calls) == 5


def test_a_gradient_that_no_scale_mends_is_left_to_the_optimizer_and_the_scale_stays() -> None:
    weight = torch.tensor([0.0, 2.0], requires_grad=True)
    optimizer = HybridBFO([weight], gradient_config=GradientConfig(mode="always"))
    scaler = GradScaler("cpu", init_scale=2.0**8)
    with pytest.raises(NoGradientError, match="not finite in parameter 0"):
        optimizer.step(scaled(lambda: weight.sqrt().sum(), scaler, optimizer))  # its slope at 0 is infinite
    assert scaler.get_scale() == 2.0**8
    assert weight.tolist() == [0.0, 2.0]


def test_a_loss_that_is_not_finite_tells_the_scaler_nothing() -> None:
    weight = torch.tensor([2.0], requires_grad=True)
    optimizer = HybridBFO([weight], population_size=3)
    scaler, calls = GradScaler("cpu", init_scale=2.0**8), []

    def loss() -> Tensor:
        calls.append(None)
        return (weight * (float("inf") if len(calls) == 1 else 1.0)).square().sum()

    optimizer.step(scaled(loss, scaler, optimizer))
    assert scaler.get_scale() == 2.0**8


def test_a_loss_that_does_not_reach_the_parameters_is_named_as_without_a_scaler() -> None:
    weight, other = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    optimizer = HybridBFO([weight], gradient_config=GradientConfig(mode="always"))
    with pytest.raises(NoGradientError, match="reaches none of the 1 parameters"):
        optimizer.step(scaled(lambda: other.sum(), GradScaler("cpu"), optimizer))


def test_micro_batches_share_one_scale_and_clipping_sees_unscaled_gradients() -> None:
    images, labels = digits()
    model = network()
    optimizer = HybridBFO(model.parameters(), gradient_config=None)  # reads .grad as the closure leaves it
    scaler = GradScaler("cpu", init_scale=2.0**12)

    def micro(start: int, end: int) -> Callable[[], Tensor]:
        return lambda: cross_entropy(model(images[start:end]), labels[start:end])

    both = accumulate([micro(0, 48), micro(48, 64)], [48, 16])
    both()
    wanted = [param.grad.clone() for param in model.parameters() if param.grad is not None]
    scaled_both, norms = scaled(both, scaler, optimizer), []
    for param in model.parameters():
        param.grad = torch.full_like(param, 1e3)  # of a step before: not to be unscaled again
    scaled_both()
    torch.testing.assert_close([param.grad for param in model.parameters()], wanted)

    def clipped() -> Tensor:
        loss = scaled_both()
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 0.1)))
        return loss

    assert clipped() == both()
    assert norms == pytest.approx([float(torch.cat([grad.flatten() for grad in wanted]).norm())], rel=1e-5)


def test_candidates_tell_the_scaler_nothing() -> None:
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    config = GradientConfig(mode="hybrid", check_every=2)  # a gradient at every second step, and candidates at each
    optimizer = HybridBFO([weight], population_size=4, gradient_config=config)
    scaler, scales = GradScaler("cpu", init_scale=8.0, growth_interval=1), []
    for _ in range(4):
        optimizer.step(scaled(lambda: (weight**2).sum(), scaler, optimizer))
        scales.append(scaler.get_scale())
    assert optimizer.evaluations > 8
    assert scales == [16.0, 16.0, 32.0, 32.0]


@pytest.mark.parametrize("cls", [BFO, AdaptiveBFO])
def test_gradient_free_optimizers_need_no_scaler_and_leave_it_alone(cls: Any) -> None:
    scaler = GradScaler("cpu", init_scale=8.0, growth_interval=1)
    settings = {"cls": cls, "steps": 3, "population_size": 6}
    losses, model = train(torch.bfloat16, wrap=lambda c, optimizer: scaled(c, scaler, optimizer), **settings)
    assert losses == train(torch.bfloat16, **settings)[0]
    assert scaler.get_scale() == 8.0
    assert all(param.grad is None for param in model.parameters())

    mine = torch.ones(2, requires_grad=True)
    mine.grad = kept = torch.full((2,), 7.0)
    optimizer = cls([mine], population_size=4)
    optimizer.step(scaled(lambda: (mine**2).sum(), scaler, optimizer))
    assert mine.grad is kept


@pytest.mark.parametrize("cls", [BFO, AdaptiveBFO, HybridBFO])
def test_what_torch_does_with_a_scaler_and_one_of_ours(cls: Any) -> None:
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    optimizer, scaler = cls([weight]), GradScaler("cpu")
    with pytest.raises(RuntimeError, match="Closure use is not currently supported"):
        scaler.step(optimizer, closure=lambda: (weight**2).sum())
    scaler.scale((weight**2).sum()).backward()
    scaler.step(optimizer)  # initialises, and trains nothing
    scaler.update()
    scaler.scale((weight**2).sum()).backward()
    with pytest.raises(ClosureRequiredError):
        scaler.step(optimizer)


def test_what_does_not_fit_is_refused() -> None:
    weight = torch.ones(2, requires_grad=True)
    optimizer = HybridBFO([weight])
    with pytest.raises(GradientModeUnsupportedError, match=r"this is Adam: use scaler\.scale"):
        scaled(lambda: weight.sum(), GradScaler("cpu"), torch.optim.Adam([weight]))
    with pytest.raises(ObjectiveError, match="Tensor and cannot be called"):
        scaled(weight.sum(), GradScaler("cpu"), optimizer)

    def calls_backward() -> Tensor:
        loss = (weight**2).sum()
        loss.backward()
        return loss

    with pytest.raises(ObjectiveError, match=r"^the closure calls backward\(\) itself"):
        optimizer.step(scaled(calls_backward, GradScaler("cpu"), optimizer))
