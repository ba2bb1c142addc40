from __future__ import annotations

import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from pytorch_bfo_optimizer.telemetry import norms

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SIZES = st.one_of(st.integers(0, 40), st.sampled_from([1023, 1024, 1025, 2048, 5000, (1 << 16) + 1]))


def made(size: int, dtype: torch.dtype, magnitude: float, seed: int) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return (torch.randn(size, generator=source, dtype=torch.float64) * magnitude).to(dtype)


def exact(tensor: Tensor) -> float:
    """Return the norm as Python adds it up."""
    values = tensor.tolist()
    greatest = max(map(abs, values), default=0.0) or 1.0
    return greatest * math.sqrt(math.fsum((value / greatest) ** 2 for value in values))


@settings(max_examples=60, deadline=None)
@given(
    tensors=st.lists(st.tuples(SIZES, st.sampled_from(DTYPES), st.sampled_from([1e-3, 1.0, 50.0])), max_size=5),
    seed=st.integers(0, 2**31),
)
def test_norms_and_counts_of_any_mix_of_sizes_and_dtypes(
    tensors: list[tuple[int, torch.dtype, float]], seed: int
) -> None:
    gradients = [made(size, dtype, scale, seed + index) for index, (size, dtype, scale) in enumerate(tensors)]
    for gradient in gradients:
        gradient[::3] = 0
    queued = norms.queue(gradients, count_zeros=True)
    read = queued.read()
    assert read.norms == pytest.approx([exact(gradient) for gradient in gradients], rel=1e-6, abs=0)
    assert read.nonzero == [sum(value != 0 for value in gradient.tolist()) for gradient in gradients]
    together = exact(torch.cat([gradient.double() for gradient in gradients])) if gradients else 0.0
    assert queued.total().item() == pytest.approx(together, rel=1e-6, abs=0)


def test_a_long_float32_sum_loses_nothing() -> None:
    gradient = torch.full((1 << 24,), 0.1)
    (norm,) = norms.queue([gradient], count_zeros=False).read().norms
    # (`torch.linalg.vector_norm` is 1 % low here.)
    assert norm == pytest.approx(float(gradient[0]) * 4096, rel=1e-6, abs=0)


def test_norms_without_the_fused_function(monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = [made(3000, torch.float32, 1.0, 0), made(7, torch.float32, 1.0, 1)]
    fused = norms.queue(gradients, count_zeros=False).read().norms
    monkeypatch.delattr(torch, "_foreach_norm")
    assert norms.queue(gradients, count_zeros=False).read().norms == pytest.approx(fused, rel=1e-12)


def test_a_number_is_read_along_and_divides_the_total() -> None:
    queued = norms.queue([torch.tensor([3.0, 4.0])], count_zeros=True, beside=torch.tensor(4.0))
    assert queued.read() == ([5.0], [2], 4.0)
    assert queued.total() == 1.25


@pytest.mark.parametrize(
    ("parts", "norm"),
    [([], 0.0), ([3.0, 4.0], 5.0), ([1e200, 1e200], math.sqrt(2) * 1e200), ([math.inf, 1.0], math.inf)],
)
def test_norms_of_parts(parts: list[float], norm: float) -> None:
    assert norms.norm_of(parts) == pytest.approx(norm)


def test_nan_beside_inf_is_nan() -> None:
    assert math.isnan(norms.norm_of([math.inf, math.nan]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_closer_look_counts_exactly_and_measures_what_is_left(dtype: torch.dtype) -> None:
    tensor = torch.ones(3_000_000, dtype=dtype)
    tensor[[0, 1 << 20, 2_999_999]] = math.nan
    tensor[[5, 2_000_000]] = torch.tensor([math.inf, -math.inf], dtype=dtype)
    ((nan, inf, _),), _ = norms.closer_look([tensor], [])
    assert (nan, inf) == (3, 2)


@pytest.mark.parametrize(("dtype", "magnitude"), [(torch.float32, 1e20), (torch.float32, 3e38), (torch.float64, 1e200)])
def test_squares_that_overflow_are_told_from_inf(dtype: torch.dtype, magnitude: float) -> None:
    tensor = made(5000, dtype, 1.0, 0).sign() * magnitude
    (norm,) = norms.queue([tensor], count_zeros=False).read().norms
    assert norm == math.inf
    (look,), _ = norms.closer_look([tensor], [])
    assert look[:2] == (0, 0)
    assert look.norm == pytest.approx(exact(tensor), rel=1e-6, abs=0)
    assert look.explains(norm, tensor)


def test_a_norm_beyond_float64_is_the_greatest_number() -> None:
    (look,), _ = norms.closer_look([torch.full((5000,), 1e308, dtype=torch.float64)], [])
    assert look == (0, 0, sys.float_info.max)


@pytest.mark.parametrize(
    ("dtype", "magnitude"),
    [(torch.float32, 1e-25), (torch.float32, 1e-40), (torch.float64, 1e-200), (torch.float64, 1e-310)],
)
def test_squares_that_underflow_are_noticed_and_mended(dtype: torch.dtype, magnitude: float) -> None:
    tensor = made(5000, dtype, magnitude, 0)
    (norm,) = norms.queue([tensor], count_zeros=False).read().norms
    assert norms.may_have_underflowed(norm, tensor)
    _, (mended,) = norms.closer_look([], [tensor])
    assert mended == pytest.approx(exact(tensor), rel=1e-6, abs=0)


def test_where_the_processor_flushes_small_squares_to_zero() -> None:
    # Squares of 9e-20 are below the least normal float32: all of them are lost, a three-hundredth of the sum.
    tensor = torch.tensor([1e-16, *[9e-20] * 4000])
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush")
    try:
        (norm,) = norms.queue([tensor], count_zeros=False).read().norms
        _, (mended,) = norms.closer_look([], [tensor])
    finally:
        torch.set_flush_denormal(False)
    assert norm != pytest.approx(exact(tensor), rel=1e-4, abs=0)
    assert norms.may_have_underflowed(norm, tensor)
    assert mended == pytest.approx(exact(tensor), rel=1e-6, abs=0)


@settings(max_examples=60, deadline=None)
@given(exponent=st.floats(-45, 18), spread=st.floats(0, 20), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 2**31))
def test_whatever_is_not_suspected_of_underflow_is_exact(
    exponent: float, spread: float, dtype: torch.dtype, seed: int
) -> None:
    wide = made(3000, torch.float64, 1.0, seed)
    wide *= 10 ** (exponent - spread * torch.rand(3000, generator=torch.Generator().manual_seed(seed)).double())
    tensor = wide.to(dtype)
    (norm,) = norms.queue([tensor], count_zeros=False).read().norms
    if math.isfinite(norm) and not norms.may_have_underflowed(norm, tensor):
        assert norm == pytest.approx(exact(tensor), rel=1e-6, abs=0)


@pytest.mark.parametrize(
    ("norm", "elements", "explained"),
    [
        (math.nan, [1.0, math.nan], True),
        (math.nan, [1.0, math.inf], False),
        (math.nan, [1.0, 1.0], False),
        (math.inf, [1.0, math.inf], True),
        (math.inf, [1e20, 1.0], True),
        (math.inf, [1.0, 1.0], False),
        (math.inf, [0.0, 0.0], False),
        (math.inf, [1.0, math.nan], False),
    ],
)
def test_what_was_found_has_to_explain_the_norm(norm: float, elements: list[float], explained: bool) -> None:
    tensor = torch.tensor(elements)
    (look,), _ = norms.closer_look([tensor], [])
    assert look.explains(norm, tensor) is explained


def test_no_float16_square_overflows_so_that_inf_has_to_be_there() -> None:
    tensor = torch.full((5000,), 65504.0, dtype=torch.float16)
    (norm,) = norms.queue([tensor], count_zeros=False).read().norms
    assert norm == pytest.approx(exact(tensor), rel=1e-6, abs=0)
    (look,), _ = norms.closer_look([tensor], [])
    assert not look.explains(math.inf, tensor)


class Operations(TorchDispatchMode):
    """Writes down the operations and how many elements each makes."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[str, torch.device, int]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        found = func(*args, **(kwargs or {}))
        aliases = any(argument.alias_info for argument in func._schema.arguments)
        for tensor in [] if aliases else found if isinstance(found, (list, tuple)) else [found]:
            if isinstance(tensor, Tensor):
                self.made.append((str(func), tensor.device, tensor.numel()))
        return found


@pytest.mark.parametrize("dtype", DTYPES)
def test_on_a_gpu_nothing_is_copied_and_nothing_waits(dtype: torch.dtype) -> None:
    # Tensors without memory stand for those of two GPUs and a CPU: they raise where a number would be read, and the
    # operations are those of the real ones. (tests/gpu does it on a real one.)
    with FakeTensorMode(), Operations() as seen:
        gradients = [torch.empty(n, dtype=dtype, device=d) for n, d in [(9, "cpu"), (1 << 22, "cuda:0"), (7, "cuda:1")]]
        seen.made.clear()
        queued = norms.queue(gradients, count_zeros=True, beside=torch.empty((), device="cuda:1"))
        total = queued.total()
        largest = max(elements for _, device, elements in seen.made if device.type == "cuda")
        back = [name for name, device, _ in seen.made if device.type == "cpu" and "_to_copy" in name]
        with pytest.raises(Exception, match="_local_scalar_dense") as raised:
            queued.read()
    assert type(raised.value).__name__ == "DataDependentOutputException"
    assert queued.numbers.device == total.device == torch.device("cuda:0")
    assert queued.numbers.numel() == 3 + 3 + 1
    assert largest <= 7  # numbers, and rows of counts: no tensor of the size of a gradient
    assert not back


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [0, 5, (1 << 20) + 3])
def test_the_count_of_other_devices_is_exact_too(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, size: int
) -> None:
    tensor = made(size, dtype, 1.0, 0)
    tensor[::7] = 0
    here = norms._nonzero_count(tensor, norms._Scratch())

    class Elsewhere:
        """A tensor that claims to lie on a GPU."""

        device = torch.device("cuda")

        def __getattr__(self, name: str) -> object:
            return getattr(tensor, name)

    there = norms._nonzero_count(Elsewhere(), norms._Scratch())  # type: ignore[arg-type]
    assert there == here == sum(value != 0 for value in tensor.tolist())
