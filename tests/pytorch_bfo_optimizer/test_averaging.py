"""Data of its own on each rank: one colony, whose losses and gradients are means over the ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pytorch_bfo_optimizer.averaging import averaged_gradient
from pytorch_bfo_optimizer.smart_closure import ClosureGradient

Job = Callable[..., list[dict[str, Any]]]
OWN = {"own_data": True, "data": "own"}


def flat(values: Any) -> list[float]:
    return [number for value in values for number in flat(value)] if isinstance(values, list) else [values]


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        ("HybridBFO", {"steps": 20}),
        ("HybridBFO", {"steps": 20, "ddp": True}),
        ("HybridBFO", {"as_is": True}),
        ("HybridBFO", {"as_is": True, "ddp": True}),
        ("BFO", {}),
        ("AdaptiveBFO", {"population_size": None, "steps": 20}),
    ],
)
def test_the_weights_of_all_ranks_are_equal_and_those_of_the_mean_of_the_batches(
    job: Job, alone: Callable[..., dict[str, Any]], cls: str, options: dict[str, Any]
) -> None:
    told = {"cls": cls, "dtype": "float64", **options}
    expected = alone(own_data=True, **{name: value for name, value in told.items() if name != "ddp"})
    one, other = job("train", **OWN, **told)
    assert one == other
    assert one["evaluations"] == expected["evaluations"] == one["calls"]
    # a mean of two means is the mean but for its last bit
    assert flat(one["parameters"]) == pytest.approx(flat(expected["parameters"]), rel=1e-6, abs=1e-9)
    assert one["losses"] == pytest.approx(expected["losses"], rel=1e-9)
    assert one["losses"][-1] < one["losses"][0]


def test_three_ranks_in_low_precision_have_the_same_bits(job: Job) -> None:
    found = job("train", size=3, cls="HybridBFO", dtype="bfloat16", steps=20, **OWN)
    assert found[0] == found[1] == found[2]
    assert found[0]["losses"][-1] < found[0]["losses"][0]


def test_statistics_of_a_norm_are_each_ranks_own_and_the_weights_are_not(job: Job) -> None:
    one, other = job("train", cls="HybridBFO", norm=True, ddp=True, steps=8, **OWN)
    assert one == other


def test_a_collective_in_the_closure_finds_all_ranks(job: Job) -> None:
    one, other = job("train", cls="BFO", collective=True, **OWN)
    assert one == other


def test_a_batched_objective_is_averaged_too(job: Job) -> None:
    one, other = job("train", cls="BFO", batched=True, **OWN)
    assert one == other
    assert one["losses"][-1] < one["losses"][0]


@pytest.mark.parametrize("who", [0, 1])
def test_where_one_rank_has_no_gradient_all_go_on_without(job: Job, who: int) -> None:
    one, other = job("train", cls="HybridBFO", unlearnable=who, **OWN)
    assert {**one, "calls": 0} == {**other, "calls": 0}
    assert one["losses"][-1] < one["losses"][0]


@pytest.mark.parametrize("where", ["first slot", "gradient"])
@pytest.mark.parametrize("who", [0, 1])
def test_an_exception_on_one_rank_ends_the_step_on_all(job: Job, where: str, who: int) -> None:
    found = job("raises", where=where, who=who, data="own")
    for rank, facts in enumerate(found):
        expected = "QuarrelError" if rank == who else "RankFailedError"
        assert facts["error"]["type"] == expected
        assert facts["unchanged"] == [True, True, True]
        assert facts["seconds"] < 4
        assert facts["then"] < facts["first"]
    assert found[0]["population"] == found[1]["population"]


def test_a_mean_is_no_sum(job: Job) -> None:
    assert [facts["mean"] for facts in job("means", size=3)] == [[2.0, 20.0]] * 3


class TwoRanks:
    """Stands in for a `Distribution`: the other rank brings the same loss, and gradients of one."""

    rank, world_size = 0, 2

    def __init__(self) -> None:
        self.sent: list[Tensor] = []

    def exchange(self, losses: Tensor, largest: int, *, checksum: int, error: Exception | None) -> Tensor:
        return torch.stack([losses, losses])

    def failed(self, error: BaseException) -> None:
        raise AssertionError(error)

    def mean_(self, values: Tensor) -> None:
        self.sent.append(values.clone())
        values.add_(1).div_(2)


def test_gradients_of_each_dtype_go_in_one_message_in_float32_at_least() -> None:
    ranks = TwoRanks()
    grads = [torch.full((2, 3), 3.0), torch.full((4,), 5.0, dtype=torch.bfloat16), torch.full((), 7.0)]
    found = averaged_gradient(lambda: ClosureGradient(1.5, grads, [True] * 3), ranks)
    assert [(len(sent), sent.dtype) for sent in ranks.sent] == [(7, torch.float32), (4, torch.float32)]
    assert [(tuple(grad.shape), grad.dtype) for grad in found.grads] == [(tuple(g.shape), g.dtype) for g in grads]
    assert [grad.unique().item() for grad in found.grads] == [2.0, 3.0, 4.0]
    assert found.loss == 1.5
    assert float(grads[0].max()) == 3.0  # what the closure left in .grad is as it was
