"""Which gradients are measured, and how: every layout by its own elements, or refused by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pytorch_bfo_optimizer import GradientCollector, GradientStats, TelemetryConfig, UnsupportedGradientError
from pytorch_bfo_optimizer.telemetry import samples

COUNTING = TelemetryConfig(zero_every=1)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128)


def randn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def measured(gradient: Tensor) -> GradientStats:
    parameter = nn.Parameter(torch.zeros(gradient.shape, dtype=gradient.dtype))
    parameter.grad = gradient
    return GradientCollector([("p", parameter)], config=COUNTING).collect().materialize()


def sparse(dtype: torch.dtype = torch.float32, *, coalesced: bool) -> Tensor:
    made = torch.sparse_coo_tensor(torch.tensor([[0, 0, 2]]), randn(3, 4, dtype=dtype), (5, 4), check_invariants=True)
    return made.coalesce() if coalesced else made


LAYOUTS: dict[str, Callable[[torch.dtype], Tensor]] = {
    "contiguous": lambda dtype: randn(6, 700, dtype=dtype),
    "0-dim": lambda dtype: randn(dtype=dtype),
    "empty": lambda dtype: randn(0, 3, dtype=dtype),
    "transposed": lambda dtype: randn(60, 70, dtype=dtype).t(),
    "channels-last": lambda dtype: randn(4, 3, 17, 19, dtype=dtype).to(memory_format=torch.channels_last),
    "with gaps": lambda dtype: randn(40, 80, dtype=dtype)[:, ::2],
    "an offset": lambda dtype: randn(80, 40, dtype=dtype)[40:],
    "transposed, with an offset": lambda dtype: randn(80, 40, dtype=dtype)[40:].t(),
    "expanded": lambda dtype: randn(1, 40, dtype=dtype).expand(30, 40),
    "overlapping": lambda dtype: randn(50, dtype=dtype).as_strided((40, 5), (1, 2)),
    "sparse": lambda dtype: sparse(dtype, coalesced=True),
    "sparse, not coalesced": lambda dtype: sparse(dtype, coalesced=False),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_norm_and_the_zeros_are_those_of_the_twin(
    layout: str, dtype: torch.dtype, twin: Callable[[Tensor], object]
) -> None:
    if dtype in (torch.float16, torch.bfloat16) and layout == "sparse, not coalesced":
        gradient = LAYOUTS[layout](torch.float32).to(dtype)
    else:
        gradient = LAYOUTS[layout](dtype)
    expected = twin(gradient.coalesce() if gradient.is_sparse else gradient)
    found = measured(gradient)
    assert found.norms[0] == pytest.approx(expected.norm, rel=1e-6, abs=0)
    if not gradient.is_complex() and gradient.numel():
        assert found.zero_shares[0] * gradient.numel() == pytest.approx(expected.zeros, abs=1e-9)


@settings(max_examples=80, deadline=None)
@given(
    shape=st.lists(st.integers(0, 6), max_size=4),
    order=st.randoms(use_true_random=False),
    steps=st.lists(st.integers(1, 3), min_size=4, max_size=4),
    exponent=st.integers(-200, 200),
    dtype=st.sampled_from(DTYPES),
)
def test_any_view_of_any_size(
    shape: list[int], order: object, steps: list[int], exponent: int, dtype: torch.dtype
) -> None:
    wide = randn(*(size * step for size, step in zip(shape, steps, strict=False)), dtype=torch.complex128)
    if not dtype.is_complex:
        wide = wide.real
    room = {torch.float64: 200, torch.complex128: 200, torch.float32: 30, torch.complex64: 30}.get(dtype, 2)
    gradient = (wide * 10.0 ** max(-room, min(room, exponent))).to(dtype)
    for dimension, step in enumerate(steps[: len(shape)]):
        gradient = gradient[(slice(None),) * dimension + (slice(None, None, step),)]
    axes = list(range(gradient.ndim))
    order.shuffle(axes)
    gradient = gradient.permute(axes)
    from_lists = torch.view_as_real(gradient.resolve_conj()) if dtype.is_complex else gradient
    values = from_lists.double().flatten().tolist()
    greatest = max(map(abs, values), default=0.0) or 1.0
    expected = greatest * sum((value / greatest) ** 2 for value in values) ** 0.5
    assert measured(gradient).norms[0] == pytest.approx(expected, rel=1e-6, abs=0)


def test_the_elements_are_a_view_wherever_memory_is_dense() -> None:
    for layout in ("contiguous", "transposed", "channels-last", "an offset", "transposed, with an offset"):
        gradient = LAYOUTS[layout](torch.float32)
        elements = samples.take("p", gradient, gradient).elements
        assert elements.data_ptr() == gradient.data_ptr(), layout
        assert elements.shape == (gradient.numel(),)
        assert sorted(elements.tolist()) == sorted(gradient.flatten().tolist())


def test_a_lazy_conjugate_is_measured() -> None:
    gradient = randn(3, 50, dtype=torch.complex64).t().conj()
    assert gradient.is_conj()
    assert measured(gradient).norms[0] == pytest.approx(torch.linalg.vector_norm(gradient).item(), rel=1e-6, abs=0)


def test_a_real_sparse_embedding(twin: Callable[[Tensor], object]) -> None:
    embedding = nn.Embedding(50, 8, sparse=True)
    collector = GradientCollector(embedding.named_parameters(), config=COUNTING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's advice about invariants of sparse tensors
        embedding(torch.tensor([3, 3, 7])).pow(2).sum().backward()
    found = collector.collect().materialize()
    dense = embedding.weight.grad.to_dense()
    assert found.norms[0] == pytest.approx(twin(dense).norm, rel=1e-6, abs=0)
    assert found.zero_share == pytest.approx(48 / 50)
    assert found.elements == 400


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: randn(4, 4).to_sparse_csr(), "layout torch.sparse_csr"),
        (lambda: torch.empty(3, device="meta"), "meta device"),
        (lambda: torch.ones(3).to(torch.float8_e4m3fn), "dtype torch.float8_e4m3fn"),
        (lambda: torch.ones(3, dtype=torch.int32), "dtype torch.int32"),
    ],
    ids=["csr", "meta", "float8", "integer"],
)
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_what_cannot_be_measured_is_refused_by_name(make: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(UnsupportedGradientError, match=f"^layers.3: .*{message}"):
        samples.take("layers.3", torch.zeros(3), make())


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_gradients_are_refused(layout: torch.layout) -> None:
    gradient = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=layout)
    with pytest.raises(UnsupportedGradientError, match="nested tensor"):
        samples.take("p", torch.zeros(3), gradient)


class Wrapped(Tensor):
    """A tensor of somebody else's."""


def test_a_subclass_as_gradient_is_refused_and_as_parameter_is_not() -> None:
    gradient = torch.ones(3)
    assert samples.take("p", gradient.as_subclass(Wrapped), gradient).elements.tolist() == [1, 1, 1]
    with pytest.raises(UnsupportedGradientError, match="its gradient is a Wrapped, and no plain tensor"):
        samples.take("p", gradient, gradient.as_subclass(Wrapped))


@pytest.mark.parametrize("marker", ["_fsdp_flattened", "_is_flat_param"])
def test_what_fsdp_marked_is_refused(marker: str) -> None:
    parameter = nn.Parameter(torch.zeros(3))
    setattr(parameter, marker, True)
    with pytest.raises(UnsupportedGradientError, match=r"^p: its parameter is one process's part.*get_total_norm"):
        samples.take("p", parameter, torch.ones(3))


def test_a_gradient_made_in_inference_mode_is_measured() -> None:
    with torch.inference_mode():
        gradient = torch.tensor([3.0, 4.0])
    taken = samples.take("p", torch.zeros(2), gradient)
    assert taken.elements.tolist() == [3, 4]
    assert taken.unchanged


def test_what_was_written_to_since_is_noticed() -> None:
    gradient = torch.ones(3)
    taken = samples.take("p", torch.zeros(3), gradient)
    assert taken.unchanged
    gradient.add_(1)
    assert not taken.unchanged
