from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor

from pytorch_bfo_optimizer import interception
from pytorch_bfo_optimizer.interception import BackwardCall, intercept_backward


@pytest.fixture(params=["seam", "mode"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of intercepting: the engine call, and what stands in for it where a torch keeps it elsewhere."""
    if request.param == "mode" and "has_torch_function" not in torch.autograd.backward.__code__.co_names:
        pytest.skip("this torch does not offer torch.autograd.backward to a TorchFunctionMode")
    monkeypatch.setattr(interception, "_SEAM", request.param == "seam")
    return str(request.param)


def a_loss() -> tuple[Tensor, Tensor]:
    leaf = torch.tensor([1.0, 2.0], requires_grad=True)
    return leaf, (leaf**2).sum()


CALLS = {
    "tensor.backward()": lambda loss: loss.backward(),
    "tensor.backward(gradient)": lambda loss: loss.backward(torch.tensor(1.0), retain_graph=False),
    "autograd.backward(tensor)": lambda loss: torch.autograd.backward(loss),
    "autograd.backward(list)": lambda loss: torch.autograd.backward([loss], [torch.tensor(1.0)]),
    "autograd.backward(tensors=)": lambda loss: torch.autograd.backward(tensors=(loss,), grad_tensors=None),
}


@pytest.mark.parametrize("how", CALLS)
def test_every_way_to_call_backward_is_seen_and_not_run(way: str, how: str) -> None:
    leaf, loss = a_loss()
    seen: list[BackwardCall] = []
    with intercept_backward(seen.append):
        CALLS[how](loss)
    assert len(seen) == 1
    assert seen[0].has_graph
    assert seen[0].value() == 5
    assert leaf.grad is None
    CALLS[how](loss)  # the graph was not used up, and outside nothing is intercepted
    assert leaf.grad is not None
    assert leaf.grad.tolist() == [2, 4]


@pytest.mark.parametrize("how", CALLS)
def test_run_runs_it_as_it_was_called(way: str, how: str) -> None:
    leaf, loss = a_loss()
    with intercept_backward(lambda call: call.run()):
        CALLS[how](loss)
    assert leaf.grad is not None
    assert leaf.grad.tolist() == [2, 4]


def test_the_value_is_weighted_as_the_call_says(way: str) -> None:
    leaf = torch.tensor([1.0, 2.0], requires_grad=True)
    seen: list[BackwardCall] = []
    with intercept_backward(seen.append):
        (leaf * 3).backward(torch.tensor([1.0, 10.0]))
    assert seen[0].value() == 63


def test_autograd_grad_is_left_alone(way: str) -> None:
    leaf, loss = a_loss()
    seen: list[BackwardCall] = []
    with intercept_backward(seen.append):
        (grad,) = torch.autograd.grad(loss, [leaf])
    assert grad.tolist() == [2, 4]
    assert not seen


def test_other_threads_are_not_affected(way: str) -> None:
    leaf, loss = a_loss()
    seen: list[BackwardCall] = []
    with intercept_backward(seen.append):
        other = threading.Thread(target=loss.backward)
        other.start()
        other.join()
    assert not seen
    assert leaf.grad is not None


def test_contexts_nest_and_nothing_is_left_after_an_exception(way: str) -> None:
    engine = torch.autograd._engine_run_backward
    leaf, loss = a_loss()
    outer: list[BackwardCall] = []
    inner: list[BackwardCall] = []

    def fail() -> None:
        with intercept_backward(outer.append):
            with intercept_backward(inner.append):
                loss.backward()
            loss.backward()
            raise KeyError("mine")

    with pytest.raises(KeyError):
        fail()
    assert (len(outer), len(inner)) == (1, 1)
    assert torch.autograd._engine_run_backward is engine
    loss.backward()
    assert leaf.grad is not None
