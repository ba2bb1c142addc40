"""`accumulate`: the loss and the gradient of the full batch, at the memory of one micro-batch."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bfo_diag.cases.digits_mlp import digits
from pytorch_bfo_optimizer import BFO, AdaptiveBFO, GradientConfig, HybridBFO, LossTypeError, ObjectiveError
from pytorch_bfo_optimizer.accumulation import accumulate

SIZES = (64, 64, 22)


class Training:
    """A small network on 150 digits, as one batch or as three micro-batches, the last of which is short."""

    def __init__(self, hidden: int = 8, dtype: torch.dtype = torch.float64) -> None:
        images, labels = digits()
        self.x, self.y = images[: sum(SIZES)].to(dtype), labels[: sum(SIZES)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model = nn.Sequential(nn.Linear(64, hidden), nn.Tanh(), nn.Linear(hidden, 10)).to(dtype)
        self.hidden: list[weakref.ref[Tensor]] = []
        self.alive: list[int] = []

    @property
    def params(self) -> list[nn.Parameter]:
        return list(self.model.parameters())

    def loss(self, start: int = 0, end: int | None = None) -> Tensor:
        self.alive.append(sum(ref() is not None for ref in self.hidden))
        hidden = self.model[1](self.model[0](self.x[start:end]))
        self.hidden.append(weakref.ref(hidden))
        return cross_entropy(self.model[2](hidden), self.y[start:end])

    def micro(self) -> list[Callable[[], Tensor]]:
        starts = (0, SIZES[0], SIZES[0] + SIZES[1])
        return [
            lambda start=start, size=size: self.loss(start, start + size)
            for start, size in zip(starts, SIZES, strict=True)
        ]

    def grads(self) -> list[Tensor]:
        found = [param.grad for param in self.params]
        assert all(grad is not None for grad in found)
        return [grad.clone() for grad in found if grad is not None]


def backward(closure: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def calls_backward() -> Tensor:
        loss = closure()
        loss.backward()
        return loss

    return calls_backward


def test_an_unequal_last_micro_batch_gives_the_loss_and_the_gradient_of_the_full_batch() -> None:
    training = Training()
    full = training.loss()
    full.backward()
    wanted = training.grads()
    training.model.zero_grad()

    loss = accumulate(training.micro(), SIZES)()
    assert not loss.requires_grad
    torch.testing.assert_close(loss, full.detach(), rtol=1e-14, atol=0)
    torch.testing.assert_close(training.grads(), wanted, rtol=1e-12, atol=1e-16)

    assert abs(float(accumulate(training.micro())()) - float(full.detach())) > 1e-4  # the mean of means is another loss


def test_it_adds_to_the_gradients_that_are_there() -> None:
    training = Training()
    once = accumulate(training.micro(), SIZES)
    once()
    wanted = [2 * grad for grad in training.grads()]
    once()
    torch.testing.assert_close(training.grads(), wanted, rtol=1e-12, atol=1e-16)


def test_tokens_may_be_counted_in_tensors_and_a_micro_batch_without_any_is_left_out() -> None:
    training = Training()
    masked = training.y.clone()
    masked[64:128] = -100  # the second micro-batch holds nothing to learn: its mean loss is NaN
    training.y = masked
    counts = [(masked[start:end] != -100).sum() for start, end in ((0, 64), (64, 128), (128, 150))]
    loss = accumulate(training.micro(), counts)()
    torch.testing.assert_close(loss, training.loss().detach(), rtol=1e-14, atol=0)
    assert all(bool(grad.isfinite().all()) for grad in training.grads())


@pytest.mark.parametrize("wanted", ["loss", "gradient"])
def test_no_graph_is_alive_when_the_next_micro_batch_begins(wanted: str) -> None:
    training = Training()
    closure = accumulate(training.micro(), SIZES)
    if wanted == "gradient":
        closure()
    else:
        BFO(training.params, population_size=2, swim_length=0).step(closure)
    assert len(training.alive) >= 3
    assert set(training.alive) == {0}


def test_losses_of_half_precision_are_averaged_in_float32() -> None:
    values = [torch.tensor(value, dtype=torch.bfloat16) for value in (256.0, 1.0, 1.0)]
    loss = accumulate([lambda value=value: value for value in values])()
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(86.0)  # (bfloat16 knows no 257)


def test_plain_numbers_are_losses_too() -> None:
    assert float(accumulate([lambda: 1, lambda: 0.25], [1, 2])()) == pytest.approx(0.5)


@pytest.mark.parametrize("cls", [BFO, AdaptiveBFO])
def test_gradient_free_optimizers_find_the_same_losses_and_no_backward_runs(cls: Any) -> None:
    def train(closure: Callable[[Training], Callable[[], Any]]) -> tuple[list[float], list[Tensor | None]]:
        training = Training(hidden=2)
        optimizer = cls(training.params, population_size=6, generator=torch.Generator().manual_seed(1))
        losses = [optimizer.step(closure(training)) for _ in range(3)]
        return losses, [param.grad for param in training.params]

    losses, grads = train(lambda training: accumulate(training.micro(), SIZES))
    assert grads == [None] * 4
    assert losses == pytest.approx(train(lambda training: training.loss)[0], rel=1e-12)


def test_hybrid_trains_as_on_the_full_batch() -> None:
    def train(closure: Callable[[Training], Callable[[], Any]]) -> tuple[list[float], int, int]:
        training = Training()
        optimizer = HybridBFO(training.params, generator=torch.Generator().manual_seed(1))
        losses = [optimizer.step(closure(training)) for _ in range(15)]
        assert [param.grad for param in training.params] == [None] * 4
        return losses, optimizer.evaluations, optimizer.gradient_evaluations

    losses, evaluations, gradients = train(lambda training: accumulate(training.micro(), SIZES))
    wanted = train(lambda training: training.loss)
    assert losses[-1] < 0.6 * losses[0]
    assert losses == pytest.approx(wanted[0], rel=1e-9)
    assert (evaluations, gradients) == wanted[1:]


def test_a_closure_around_it_finds_gradients_whenever_it_is_called() -> None:
    training = Training()
    optimizer = HybridBFO(training.params, population_size=3, gradient_config=GradientConfig(mode="hybrid"))
    accumulated = accumulate(training.micro(), SIZES)
    norms: list[float] = []

    def closure() -> Tensor:
        loss = accumulated()
        norms.append(sum(float(grad.norm()) for grad in training.grads()))
        return loss

    optimizer.step(closure)
    assert [norm > 0 for norm in norms] == [True] + [False] * (len(norms) - 1)  # one gradient, then candidates
    assert len(norms) > 1


@pytest.mark.parametrize("cls", [torch.optim.SGD, torch.optim.Adam, torch.optim.LBFGS])
def test_optimizers_of_torch_step_as_on_the_full_batch(cls: Any) -> None:
    def train(closure: Callable[[Training], Callable[[], Any]]) -> list[Tensor]:
        training = Training()
        optimizer = cls(training.params, lr=0.1)
        inner = closure(training)

        def cleared() -> Any:
            optimizer.zero_grad()
            return inner()

        for _ in range(4):
            optimizer.step(cleared)
        return [param.detach() for param in training.params]

    micro = train(lambda training: accumulate(training.micro(), SIZES))
    whole = train(lambda training: backward(training.loss))
    torch.testing.assert_close(micro, whole, rtol=1e-8, atol=1e-10)


def test_a_micro_batch_that_calls_backward_is_told_what_to_change() -> None:
    training = Training()
    optimizer = HybridBFO(training.params)
    before = [param.detach().clone() for param in training.params]
    first, second, third = training.micro()
    for optimizer_class in (HybridBFO, BFO, torch.optim.SGD):
        optimizer = optimizer_class(training.params)
        with pytest.raises(ObjectiveError, match=r"closure 1 of 3 calls backward\(\) itself.*`return loss`"):
            optimizer.step(accumulate([first, backward(second), third], SIZES))
    assert all(map(torch.equal, before, training.params))


def test_a_derivative_within_the_loss_is_taken() -> None:
    weight = torch.tensor(3.0, requires_grad=True)

    def residual() -> Tensor:
        x = torch.linspace(0, 1, 4, requires_grad=True)
        (slope,) = torch.autograd.grad((weight * x**2).sum(), x, create_graph=True)
        return (slope**2).mean()

    assert BFO([weight], population_size=3).step(accumulate([residual])) > 0
    accumulate([residual])()
    assert weight.grad is not None


class MineError(Exception):
    pass


def test_an_exception_of_a_micro_batch_comes_through_as_it_is() -> None:
    def fails() -> Tensor:
        raise MineError("as it is")

    training = Training()
    with pytest.raises(MineError, match=r"^as it is$"):
        HybridBFO(training.params).step(accumulate([training.loss, fails]))
    torch.ones(1, requires_grad=True).sum().backward()  # backward is itself again


@pytest.mark.parametrize(
    ("value", "named"), [(None, "of closure 1 of 2: the closure returned None"), (torch.ones(2), r"shape \(2,\)")]
)
def test_what_is_no_loss_is_refused_by_its_number(value: Any, named: str) -> None:
    with pytest.raises(LossTypeError, match=named):
        accumulate([lambda: torch.ones(()), lambda: value])()


def nothing() -> float:
    return 0.0


@pytest.mark.parametrize(
    ("closures", "weights", "named"),
    [
        ([], None, "there are no closures"),
        (nothing, None, "pass a list"),
        ([nothing, torch.ones(())], None, "closure 1 is Tensor and cannot be called"),
        ([nothing], [1, 2], "2 weights for 1 closures"),
        ([nothing, nothing], [3, -1], "weight 1 is -1"),
        ([nothing], [float("nan")], "weight 0 is nan"),
        ([nothing], [float("inf")], "weight 0 is inf"),
        ([nothing], [torch.ones(2)], "weight 0 is tensor"),
        ([nothing], ["8"], "weight 0 is '8'"),
        ([nothing], [True], "weight 0 is True"),
        ([nothing, nothing], [0, 0.0], "sum to 0"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(closures: Any, weights: Any, named: str) -> None:
    with pytest.raises(ObjectiveError, match=named):
        accumulate(closures, weights)
