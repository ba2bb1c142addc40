from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pytorch_bfo_optimizer import LossTypeError, NoGradientError, SmartClosure


class Counted(torch.autograd.Function):
    """Identity whose backward counts."""

    runs = 0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        Counted.runs += 1
        return grad


@pytest.fixture(autouse=True)
def _reset() -> None:
    Counted.runs = 0


@pytest.fixture
def pair() -> list[Tensor]:
    """One parameter that requires grad, with a gradient of its own, and one that does not."""
    first, second = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor(3.0)
    first.grad = torch.tensor([7.0, 7.0])
    return [first, second]


def loss_of(pair: list[Tensor]) -> Tensor:
    return (Counted.apply(pair[0]) ** 2).sum() + pair[1] ** 2


def zero_in_place(pair: list[Tensor]) -> None:
    for param in pair:
        if param.grad is not None:
            param.grad.zero_()


def closures(pair: list[Tensor]) -> dict[str, Callable[[], Any]]:
    def returns_float() -> float:
        zero_in_place(pair)
        loss = loss_of(pair)
        loss.backward()
        return loss.item()

    def returns_none() -> None:
        torch.optim.SGD(pair, lr=1.0).zero_grad()
        torch.autograd.backward(loss_of(pair))

    def returns_tensor_without_backward() -> Tensor:
        return loss_of(pair)

    def accumulates() -> float:
        total = 0.0
        for _ in range(4):
            part = loss_of(pair) / 4
            part.backward()
            total += part.item()
        return total

    def clips_and_reads() -> Tensor:
        loss = loss_of(pair)
        loss.backward()
        nn.utils.clip_grad_norm_(pair, 1e9)
        assert all(param.grad is not None for param in pair)
        pair[0].grad.clamp_(-1e9, 1e9)
        return loss

    def assigns() -> float:
        loss = loss_of(pair)
        if loss.requires_grad and pair[1].requires_grad:
            for param, grad in zip(pair, torch.autograd.grad(loss, pair), strict=True):
                param.grad = grad
        return loss.item()

    found = (returns_float, returns_none, returns_tensor_without_backward, accumulates, clips_and_reads, assigns)
    return {closure.__name__: closure for closure in found}


KINDS = list(closures([torch.zeros(1), torch.zeros(1)]))


@pytest.mark.parametrize("kind", KINDS)
def test_evaluating_runs_no_backward_captures_the_loss_and_leaves_every_grad(kind: str, pair: list[Tensor]) -> None:
    kept = pair[0].grad
    value = SmartClosure(closures(pair)[kind], pair)()
    assert float(value) == 14
    assert Counted.runs == 0
    assert pair[0].grad is kept
    assert kept.tolist() == [7, 7]
    assert pair[1].grad is None
    assert [param.requires_grad for param in pair] == [True, False]
    assert not (isinstance(value, Tensor) and value.requires_grad)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("enabled", [True, False])
def test_the_gradient_is_real_reaches_what_did_not_require_grad_and_all_is_put_back(
    kind: str, enabled: bool, pair: list[Tensor]
) -> None:
    kept, fired = pair[0].grad, []
    handle = pair[0].register_hook(fired.append)
    with torch.set_grad_enabled(enabled):
        loss, grads, reached = SmartClosure(closures(pair)[kind], pair).gradient()
        assert torch.is_grad_enabled() == enabled
    assert float(loss) == 14
    assert [grad.tolist() for grad in grads] == [[2, 4], 6]
    assert reached == [True, True]
    assert Counted.runs == (4 if kind == "accumulates" else 1)
    assert pair[0].grad is kept
    assert kept.tolist() == [7, 7]
    assert pair[1].grad is None
    assert [param.requires_grad for param in pair] == [True, False]
    assert fired
    handle.remove()


def test_in_inference_mode_the_gradient_is_real_too(pair: list[Tensor]) -> None:
    with torch.inference_mode():
        grads = SmartClosure(lambda: loss_of(pair), pair).gradient().grads
        assert torch.is_inference_mode_enabled()
    assert grads[1] == 6


@pytest.mark.parametrize("wanted", ["evaluation", "gradient"])
def test_an_exception_comes_out_unchanged_and_all_is_put_back(wanted: str, pair: list[Tensor]) -> None:
    error, kept = ValueError("mine"), pair[0].grad

    def closure() -> float:
        zero_in_place(pair)
        loss_of(pair).backward()
        raise error

    smart = SmartClosure(closure, pair)
    with pytest.raises(ValueError, match="mine") as caught:
        smart() if wanted == "evaluation" else smart.gradient()
    assert caught.value is error
    assert pair[0].grad is kept
    assert kept.tolist() == [7, 7]
    assert [param.requires_grad for param in pair] == [True, False]
    loss_of(pair).backward()  # nothing is intercepted any more
    assert pair[0].grad.tolist() == [9, 11]


def test_an_error_inside_a_backward_is_the_users_own(pair: list[Tensor]) -> None:
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            raise RuntimeError("broken backward")

    def closure() -> None:
        Broken.apply(pair[0]).sum().backward()

    with pytest.raises(RuntimeError, match="broken backward") as caught:
        SmartClosure(closure, pair).gradient()
    assert not isinstance(caught.value, NoGradientError)
    assert SmartClosure(closure, pair)() == 3


def no_gradient_closures(pair: list[Tensor]) -> dict[str, Callable[[], Any]]:
    def under_no_grad() -> Tensor:
        with torch.no_grad():
            loss = loss_of(pair)
            loss.backward()
        return loss

    def backward_after_no_grad() -> Tensor:
        with torch.no_grad():
            loss = loss_of(pair)
        loss.backward()
        return loss

    other = torch.tensor(1.0, requires_grad=True)

    def elsewhere() -> Tensor:
        loss = other * 14
        loss.backward()
        return loss

    return {
        "float-loss": lambda: loss_of(pair).item(),
        "no-graph": lambda: loss_of(pair).detach(),
        "no-graph ": backward_after_no_grad,
        "grad-disabled": under_no_grad,
        "unreached": elsewhere,
        "unreached ": lambda: other * 14,
    }


@pytest.mark.parametrize("reason", no_gradient_closures([]))
def test_where_there_is_no_gradient_the_error_says_why_and_keeps_the_loss(reason: str, pair: list[Tensor]) -> None:
    with pytest.raises(NoGradientError) as caught:
        SmartClosure(no_gradient_closures(pair)[reason], pair).gradient()
    assert caught.value.reason == reason.strip()
    assert float(caught.value.loss) == 14
    assert len(caught.value.why) > 60
    assert [param.requires_grad for param in pair] == [True, False]


def test_a_closure_that_gives_no_loss_at_all_is_named(pair: list[Tensor]) -> None:
    with pytest.raises(LossTypeError, match="never called backward"):
        SmartClosure(lambda: None, pair).gradient()


def test_parameters_that_the_graph_misses_count_as_zero(pair: list[Tensor]) -> None:
    found = SmartClosure(lambda: (pair[0].detach() ** 2).sum() + pair[1] ** 2, pair).gradient()
    assert [grad.tolist() for grad in found.grads] == [[0, 0], 6]
    assert found.reached == [False, True]


def test_a_derivative_inside_the_loss_is_computed_as_it_should_be(pair: list[Tensor]) -> None:
    """A loss made of a derivative with respect to an input: autograd.grad must run, also while evaluating."""

    def closure() -> float:
        x = torch.tensor([2.0], requires_grad=True)
        (slope,) = torch.autograd.grad((pair[0] * x**2).sum(), [x], create_graph=True)
        loss = (slope**2).sum()  # (2 x (p0 + p1))^2
        loss.backward()
        return loss.item()

    assert SmartClosure(closure, pair)() == 144
    assert SmartClosure(closure, pair).gradient().grads[0].tolist() == [96, 96]


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradients_beyond_the_given_parameters_are_put_back_too(reentrant: bool) -> None:
    backbone, head = nn.Linear(2, 2), nn.Linear(2, 1)
    kept = torch.full_like(backbone.weight, 5.0)
    backbone.weight.grad = kept
    x = torch.ones(3, 2)

    def closure() -> Tensor:
        hidden = backbone(x)
        loss = checkpoint(head, hidden, use_reentrant=reentrant).square().mean()
        loss.backward()
        return loss

    smart = SmartClosure(closure, head.parameters())
    smart()
    grads = smart.gradient().grads
    assert all(bool(grad.any()) for grad in grads)
    assert backbone.weight.grad is kept
    assert bool((kept == 5).all())
    assert backbone.bias.grad is None
    assert head.weight.grad is None


def test_it_drives_any_optimizer_that_evaluates_a_closure(pair: list[Tensor]) -> None:
    losses = []

    class Halving(torch.optim.Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {})

        @torch.no_grad()
        def step(self, closure: Any = None) -> Any:
            losses.append(float(closure()))
            for param in self.param_groups[0]["params"]:
                param.mul_(0.5)
            return float(closure())

    optimizer = Halving(pair)
    assert optimizer.step(SmartClosure(closures(pair)["returns_float"], pair)) == 3.5
    assert losses == [14]
    assert Counted.runs == 0
