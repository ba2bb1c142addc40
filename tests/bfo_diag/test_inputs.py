from __future__ import annotations

import pytest
import torch

from bfo_diag import inputs
from bfo_diag.errors import TargetLoadError


@pytest.mark.parametrize(
    ("spec", "dtype", "shape"),
    [
        ("float32[3,4]", torch.float32, (3, 4)),
        ("bfloat16[]", torch.bfloat16, ()),
        (" int64 [ 5 ] < 9", torch.int64, (5,)),
        ("bool[2]", torch.bool, (2,)),
        ("complex64[2]", torch.complex64, (2,)),
    ],
)
def test_an_input_is_made_as_described(spec, dtype, shape):
    made = inputs.make_input(spec, device="cpu", generator=torch.Generator().manual_seed(0))
    assert (made.dtype, tuple(made.shape)) == (dtype, shape)
    if dtype is torch.int64:
        assert 0 <= int(made.min()) <= int(made.max()) < 9


@pytest.mark.parametrize("spec", ["float32", "float31[2]", "float32[2,,3]", "[2]", "float32[-1]", "Tensor[2]"])
def test_a_malformed_input_shows_the_form(spec):
    with pytest.raises(TargetLoadError) as raised:
        inputs.parse_input(spec)
    assert "float32[32,64]" in raised.value.mend
