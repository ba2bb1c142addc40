"""One gradient as it was when it was collected: which kinds can be measured, and what their norm is made of."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pytorch_bfo_optimizer.errors import UnsupportedGradientError
from pytorch_bfo_optimizer.flat import is_marked_as_shard, is_sharded

_PLAIN = (Tensor, torch.nn.Parameter)
_NARROWEST = 2
"""Bytes of the narrowest dtype whose gradients are measured; float8 has no arithmetic of its own."""


class Sample(NamedTuple):
    """A gradient, its elements as they lie in memory (real, one dimension), and the version of these."""

    name: str
    parameter: Tensor
    gradient: Tensor
    elements: Tensor
    version: int

    @property
    def unchanged(self) -> bool:
        """Whether no operation that autograd knows of has written to the gradient since."""
        return _version(self.gradient) == self.version


def take(name: str, parameter: Tensor, gradient: Tensor) -> Sample:
    """Return the sample of a gradient; a view of it wherever there is one.

    Raises:
        UnsupportedGradientError: a part of a gradient that lies on several processes, or no numbers to measure.
    """
    return Sample(name, parameter, gradient, _elements(name, parameter, gradient), _version(gradient))


def _elements(name: str, parameter: Tensor, gradient: Tensor) -> Tensor:
    if type(parameter) not in _PLAIN or is_marked_as_shard(parameter):
        _refuse_shards(name, "parameter", parameter)
    if type(gradient) not in _PLAIN or is_marked_as_shard(gradient) or gradient.is_nested:
        _refuse_shards(name, "gradient", gradient)
        what = "nested tensor" if gradient.is_nested else type(gradient).__name__
        raise UnsupportedGradientError(f"{name}: its gradient is a {what}, and no plain tensor")
    if gradient.is_meta:
        raise UnsupportedGradientError(f"{name}: its gradient lies on the meta device and holds no numbers")
    if gradient.layout is torch.sparse_coo:
        # Entries of one index add up; the elements that are not stored are zero, and no part of a norm.
        gradient = gradient.coalesce().values()
    elif gradient.layout is not torch.strided:
        raise UnsupportedGradientError(f"{name}: gradients of layout {gradient.layout} can't be measured")
    if gradient.is_complex():
        gradient = torch.view_as_real(gradient.resolve_conj())
    if not gradient.is_floating_point() or gradient.dtype.itemsize < _NARROWEST:
        raise UnsupportedGradientError(f"{name}: gradients of dtype {gradient.dtype} can't be measured")
    return _flat(gradient)


def _refuse_shards(name: str, what: str, tensor: Tensor) -> None:
    """Raise if one process holds a part of this tensor alone; other subclasses are none of our business."""
    if is_sharded(tensor):
        raise UnsupportedGradientError(
            f"{name}: its {what} is one process's part of a {type(tensor).__name__} (FSDP or tensor parallel), whose "
            "norm the processes have to add up: use torch.nn.utils.get_total_norm (FSDP1: model.clip_grad_norm_), or "
            "leave it out of named_parameters"
        )


def _flat(tensor: Tensor) -> Tensor:
    """Return the elements of a strided tensor as one dimension, in the order of memory: a view wherever one exists.

    (Channels-last memory is dense though it is not contiguous; what has gaps or repeats itself is copied.)
    """
    if tensor.is_contiguous():
        return tensor.flatten()
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1 and stride != expected:
            return tensor.reshape(-1)
        expected *= size
    dense: Tensor = tensor.as_strided((tensor.numel(),), (1,))
    return dense


def _version(gradient: Tensor) -> int:
    """Return how often the gradient was written to; tensors made in inference mode don't count."""
    return 0 if gradient.is_inference() else gradient._version
