from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytorch_bfo_optimizer.compile_policy.trial import TrialError, can_be_tried, copied, try_on_copies


def test_copies_have_the_strides_the_alignment_and_the_sharing_of_their_originals() -> None:
    base = torch.arange(48.0).reshape(6, 8)
    weight = nn.Parameter(torch.ones(3, 4).t())
    given = [base[1:3, 2:], base[2:, ::3], base.t(), torch.ones(3, 1).expand(3, 5), weight, 7, torch.empty(0, 3)]
    made = copied(given)
    for old, new in zip(given, made, strict=True):
        if not isinstance(old, Tensor):
            assert new == old
            continue
        assert torch.equal(old, new)
        assert (old.stride(), old.requires_grad, old.dtype) == (new.stride(), new.requires_grad, new.dtype)
        assert old.numel() == 0 or old.data_ptr() % 64 == new.data_ptr() % 64
        assert new.is_leaf
    made[0].fill_(-1)
    assert (made[1][0] == -1).any()  # rows 2 of both
    assert (made[2][2:, 1:3] == -1).all()
    assert base.min() == 0  # and no original


def test_only_the_span_of_a_view_is_copied() -> None:
    row = torch.zeros(10_000, 16)[5000]
    assert copied([row])[0].untyped_storage().nbytes() <= row.nbytes + 64


def test_views_of_several_dtypes_share_one_copy() -> None:
    base = torch.zeros(8, dtype=torch.int32)
    one, two = copied([base[2:], base[1:].view(torch.int16)])
    one.fill_(5)
    assert two.unique().tolist() == [0, 5]


class Failing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        raise KeyError("no backward")


def test_a_failure_is_told_by_where_it_was_and_nothing_real_has_changed() -> None:
    held = torch.ones(2)
    x = torch.ones(3, requires_grad=True)
    state = torch.get_rng_state()
    touched = torch.zeros(3)

    def graph(x: Tensor, touched: Tensor) -> tuple[Tensor, ...]:
        touched.add_(torch.rand(3))
        held.add_(1)
        return (Failing.apply(x * touched), touched)

    for graph_fails, where, cause in ((False, "backward", KeyError), (True, "forward", ZeroDivisionError)):

        def run(*args: Any, fails: bool = graph_fails) -> Any:
            outputs = graph(*args)
            return 1 / 0 if fails else outputs

        with pytest.raises(TrialError) as caught:
            try_on_copies(run, (x, touched), (held,))
        assert caught.value.where == where
        assert isinstance(caught.value.__cause__, cause)
        assert x.grad is None
        assert (held.tolist(), touched.tolist(), held._version) == ([1, 1], [0, 0, 0], 1)
        held = torch.ones(2)
        assert torch.equal(torch.get_rng_state(), state)


def test_the_backward_of_what_the_graph_itself_holds_is_tried() -> None:
    held = torch.ones(3, requires_grad=True)
    with pytest.raises(TrialError, match="backward"):
        try_on_copies(lambda x: (Failing.apply(held * x),), (torch.ones(3),), (held,))
    assert held.grad is None


@pytest.mark.parametrize("around", ["autocast", "anomaly", "no grad", "nothing"])
def test_a_sound_graph_holds_under_any_mode(around: str) -> None:
    """The root has no finite derivative at 0, and its gradient here is 0: anomaly mode would see a NaN."""
    seen = []

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            seen.append(torch.is_autocast_enabled("cpu"))
            return grad

    contexts = {
        "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
        "anomaly": lambda: torch.autograd.set_detect_anomaly(True),
        "no grad": torch.no_grad,
        "nothing": torch.enable_grad,
    }
    x = torch.zeros(3, requires_grad=True)
    with contexts[around]():
        try_on_copies(lambda x: (Watched.apply(x).sqrt(), None, 3), (x,))
        assert torch.is_anomaly_enabled() == (around == "anomaly")
    assert seen == ([] if around == "no grad" else [False])


class Subclass(Tensor):
    pass


def test_what_cannot_be_copied_faithfully_is_not_tried() -> None:
    plain = torch.ones(3)
    assert can_be_tried((plain, nn.Parameter(plain), 3, 1.5))
    with torch.inference_mode():
        inferred = torch.ones(3)
        assert not can_be_tried((plain,))
    for odd in (plain.to_sparse(), inferred, plain.as_subclass(Subclass), torch.ones(1, dtype=torch.cfloat).conj()):
        assert not can_be_tried((plain, odd))
    assert not can_be_tried((plain, object()))
    assert not can_be_tried((plain.to("meta"),))
    seen = []
    torch.vmap(lambda x: (seen.append(can_be_tried((x,))), x)[1])(plain)
    assert seen == [False]
