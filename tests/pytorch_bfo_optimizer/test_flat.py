from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pytorch_bfo_optimizer import (
    BFO,
    DeviceMismatchError,
    EmptyParametersError,
    ParameterError,
    TiedParametersError,
    UnsupportedParameterError,
)
from pytorch_bfo_optimizer.flat import SUPPORTED_DTYPES, ParameterVector

SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
DTYPES = st.sampled_from(SUPPORTED_DTYPES)
LAYOUTS = st.sampled_from(["contiguous", "transposed", "strided"])


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape, dtype, layout = draw(SHAPES), draw(DTYPES), draw(LAYOUTS)
    source = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    if layout == "transposed":
        return (
            torch.randn(shape[::-1], generator=source, dtype=torch.float64)
            .to(dtype)
            .permute(list(range(len(shape)))[::-1])
        )
    if layout == "strided" and shape:
        wide = torch.randn((*shape[:-1], 2 * shape[-1]), generator=source, dtype=torch.float64).to(dtype)
        return wide[..., ::2]
    return torch.randn(shape, generator=source, dtype=torch.float64).to(dtype)


PARAMETERS = st.lists(tensors(), min_size=1, max_size=4).filter(lambda ts: sum(t.numel() for t in ts) > 0)


@settings(max_examples=150, deadline=None)
@given(params=PARAMETERS)
def test_reading_and_writing_back_changes_no_bit(params: list[Tensor]) -> None:
    before = [param.clone() for param in params]
    vector = ParameterVector(params)
    read_D = vector.read()
    assert read_D.shape == (vector.dimension,) == (sum(param.numel() for param in params),)
    for param in params:
        param.fill_(7)
    vector.write_(read_D)
    assert all(torch.equal(now, then) for now, then in zip(params, before, strict=True))


@settings(max_examples=100, deadline=None)
@given(params=PARAMETERS, seed=st.integers(0, 2**31))
def test_what_is_written_is_read_up_to_the_rounding_of_each_dtype(params: list[Tensor], seed: int) -> None:
    vector = ParameterVector(params)
    wanted_D = torch.randn(vector.dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    wanted_D = wanted_D.to(vector.dtype)
    vector.write_(wanted_D)
    at = 0
    for param in params:  # an independent walk over the elements, in row-major order
        for value in param.reshape(-1):
            assert value == wanted_D[at].to(param.dtype)
            at += 1
    assert at == vector.dimension


@settings(max_examples=60, deadline=None)
@given(params=PARAMETERS, members=st.integers(1, 3))
def test_split_and_join_are_inverse(params: list[Tensor], members: int) -> None:
    vector = ParameterVector(params)
    pop_PD = torch.arange(members * vector.dimension, dtype=vector.dtype).reshape(members, -1)
    pieces = vector.split(pop_PD)
    assert [piece.shape for piece in pieces] == [(members, *param.shape) for param in params]
    for member in range(members):
        assert torch.equal(vector.join([piece[member] for piece in pieces]), pop_PD[member])


@settings(max_examples=60, deadline=None)
@given(params=PARAMETERS, data=st.data())
def test_a_tied_parameter_is_refused_wherever_it_stands(params: list[Tensor], data: st.DataObject) -> None:
    full = [index for index, param in enumerate(params) if param.numel()]
    twin = data.draw(st.sampled_from(full))
    at = data.draw(st.integers(0, len(params)))
    same_memory = params[twin].detach() if data.draw(st.booleans()) else params[twin]
    with pytest.raises(TiedParametersError, match="same memory as parameter"):
        ParameterVector([*params[:at], same_memory, *params[at:]])


@settings(max_examples=40, deadline=None)
@given(params=PARAMETERS, at=st.integers(0, 4))
def test_an_empty_group_is_refused_wherever_it_stands(params: list[Tensor], at: int) -> None:
    groups = [{"params": [param.clone().requires_grad_()]} for param in params if param.numel()]
    groups.insert(min(at, len(groups)), {"params": []})
    with pytest.raises(EmptyParametersError, match="is empty"):
        BFO(groups)


def test_the_dtype_of_the_vector_is_the_widest() -> None:
    half, single, double = (torch.ones(1, dtype=dtype) for dtype in (torch.bfloat16, torch.float32, torch.float64))
    assert ParameterVector([half, single]).dtype == torch.float32
    assert ParameterVector([half, double, single]).dtype == torch.float64
    assert ParameterVector([half, torch.ones(1, dtype=torch.float16)]).dtype == torch.float32


@pytest.mark.parametrize(
    ("params", "error", "words"),
    [
        ([], EmptyParametersError, "no parameters"),
        ([torch.ones(0, 3)], EmptyParametersError, "no element"),
        ([torch.ones(2, dtype=torch.complex64)], UnsupportedParameterError, "view_as_real"),
        ([torch.ones(2, dtype=torch.int64)], UnsupportedParameterError, "torch.int64"),
        ([torch.eye(2).to_sparse()], UnsupportedParameterError, "sparse"),
        ([torch.ones(1).expand(3)], UnsupportedParameterError, "expanded"),
        ([torch.ones(1), torch.ones(1, device="meta")], DeviceMismatchError, "meta"),
    ],
)
def test_what_cannot_be_a_vector_is_refused_by_name(params: list[Tensor], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        ParameterVector(params)
    assert isinstance(caught.value, ParameterError)
    assert isinstance(caught.value, ValueError)


def test_halves_of_one_storage_are_not_tied() -> None:
    storage = torch.arange(4.0)
    vector = ParameterVector([storage[:2], storage[2:]])
    assert vector.read().tolist() == [0, 1, 2, 3]


def test_writing_works_on_leaves_that_require_grad_and_bumps_their_version() -> None:
    layer = nn.Linear(2, 2)
    vector = ParameterVector(list(layer.parameters()))
    version = layer.weight._version
    vector.write_(torch.zeros(6))
    assert layer.weight.requires_grad
    assert layer.weight.is_leaf
    assert layer.weight._version > version


def test_the_differentiable_vector_carries_gradients_to_each_parameter() -> None:
    params = [torch.ones(2, requires_grad=True), torch.ones((), dtype=torch.float64, requires_grad=True)]
    (ParameterVector(params).differentiable_read() * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert params[0].grad is not None
    assert params[0].grad.tolist() == [1, 2]
    assert params[1].grad == 3


def test_a_vector_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 3 coordinates"):
        ParameterVector([torch.ones(3)]).write_(torch.ones(4))


@pytest.mark.parametrize("leading", [(), (3,)])
@pytest.mark.parametrize("shapes", [((4,),), ((2, 2), (), (0, 3), (3,))])
def test_merging_undoes_splitting(shapes: tuple[tuple[int, ...], ...], leading: tuple[int, ...]) -> None:
    vector = ParameterVector([torch.zeros(shape) for shape in shapes])
    rows = torch.arange(math.prod(leading) * vector.dimension).reshape(*leading, vector.dimension).float()
    pieces = vector.split(rows)
    assert [piece.shape for piece in pieces] == [leading + shape for shape in shapes]
    assert torch.equal(vector.merge(pieces), rows)


def test_writing_says_what_the_parameters_hold_after_rounding() -> None:
    third = torch.full((3,), 1 / 3)
    whole = ParameterVector([torch.zeros(3)])
    assert whole.write_(third) is third
    mixed = ParameterVector([torch.zeros(1, dtype=torch.bfloat16), torch.zeros(2)])
    assert torch.equal(mixed.write_(third), mixed.read())
    assert mixed.read()[0] != third[0]
    assert torch.equal(whole.write_(third.double()), third)
