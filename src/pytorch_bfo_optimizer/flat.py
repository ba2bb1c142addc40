"""Parameters <-> one vector. Knows shapes, dtypes and order; knows nothing of foraging.

A colony is a matrix (P, D): P members, D coordinates, in the order of the param groups. The vector has the
widest floating dtype among the parameters, so that every parameter value survives the round trip exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from pytorch_bfo_optimizer.errors import (
    DeviceMismatchError,
    EmptyParametersError,
    TiedParametersError,
    UnsupportedParameterError,
)

_SHARDED = frozenset({"_fsdp_flattened", "_is_flat_param"})
"""How FSDP marks a parameter that holds one process's part of several."""

SUPPORTED_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def refuse_unfit(params: Sequence[Tensor]) -> None:
    """Raise the named error of the first thing that keeps `params` from being one vector.

    Raises:
        EmptyParametersError: no tensor, or tensors without a single element.
        UnsupportedParameterError: complex, integer, sparse, sharded, or self-overlapping (expanded) memory.
        TiedParametersError: one tensor, or one memory, given twice.
        DeviceMismatchError: more than one device.
    """
    if not params:
        raise EmptyParametersError(
            "no parameters were given: pass at least one floating-point tensor, and drop empty groups"
        )
    seen: dict[tuple[int, int], int] = {}
    identities: dict[int, int] = {}
    for index, param in enumerate(params):
        _refuse_unfit_tensor(index, param)
        if param.device != params[0].device:
            raise DeviceMismatchError(
                f"parameter {index} is on {param.device} and parameter 0 on {params[0].device}: one colony lives on "
                "one device; move them together, or make one optimizer per device"
            )
        twin = identities.setdefault(id(param), index)
        if twin == index and param.numel() and param.device.type != "meta":
            twin = seen.setdefault((param.data_ptr(), param.untyped_storage().data_ptr()), index)
        if twin != index:
            raise TiedParametersError(
                f"parameter {index} is the same memory as parameter {twin} (shape {tuple(param.shape)}): a tied "
                "parameter is one set of coordinates; give it once"
            )
    if not sum(param.numel() for param in params):
        raise EmptyParametersError("the parameters hold no element at all: there is no coordinate to search")


def _refuse_unfit_tensor(index: int, param: Tensor) -> None:
    """Raise when this tensor alone cannot be a run of coordinates."""
    if is_sharded(param):
        raise UnsupportedParameterError(
            f"parameter {index} is one process's part of a {type(param).__name__} (FSDP or tensor parallel), and a "
            "colony needs every coordinate in each process: keep the parameters whole (no wrapper, or "
            'DistributedDataParallel) and call distribute(optimizer, data="own")'
        )
    if param.layout is not torch.strided:
        raise UnsupportedParameterError(
            f"parameter {index} is sparse ({param.layout}): its pattern has no place in a dense colony; use a dense "
            "parameter (`.to_dense()`)"
        )
    if param.dtype not in SUPPORTED_DTYPES:
        mend = (
            "optimize torch.view_as_real(z) in its place"
            if param.is_complex()
            else "convert it to a floating dtype, or leave it out"
        )
        raise UnsupportedParameterError(
            f"parameter {index} has dtype {param.dtype}; the colony moves through real numbers "
            f"({', '.join(str(dtype) for dtype in SUPPORTED_DTYPES)}): {mend}"
        )
    if any(stride == 0 and size > 1 for size, stride in zip(param.shape, param.stride(), strict=True)):
        raise UnsupportedParameterError(
            f"parameter {index} is an expanded tensor (shape {tuple(param.shape)}, strides {param.stride()}): "
            "several elements share one memory and cannot be set apart; give a `.clone()`"
        )


def is_sharded(tensor: Tensor) -> bool:
    """Whether one process holds only a part of this tensor: a DTensor, or a parameter of FSDP."""
    return is_marked_as_shard(tensor) or hasattr(tensor, "to_local")


def is_marked_as_shard(tensor: Tensor) -> bool:
    """The same of plain tensors and parameters alone: quick, where hasattr would raise and catch at each of them."""
    return not _SHARDED.isdisjoint(vars(tensor))


class ParameterVector:
    """A fixed list of parameters seen as one vector of D coordinates.

    It holds references, never copies; `read` and `write_` are the only traffic. Parameter i occupies the
    coordinates `offsets[i] : offsets[i] + sizes[i]`.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        refuse_unfit(params)
        self.params: list[Tensor] = list(params)
        self.shapes: list[torch.Size] = [param.shape for param in params]
        self.sizes: list[int] = [param.numel() for param in params]
        self.dtype: torch.dtype = reduce(torch.promote_types, (param.dtype for param in params))
        self.mixed: bool = any(param.dtype != self.dtype for param in params)
        self.device: torch.device = params[0].device
        self.dimension: int = sum(self.sizes)

    def matches(self, params: Sequence[Tensor]) -> bool:
        """Whether these are the very tensors this vector was made of, in the same order and dtype."""
        return len(params) == len(self.params) and all(
            new is old and new.shape == shape and new.device == self.device
            for new, old, shape in zip(params, self.params, self.shapes, strict=True)
        )

    def read(self) -> Tensor:
        """Copy the parameters into a new vector (D,)."""
        return torch.cat([param.detach().reshape(-1).to(self.dtype) for param in self.params])

    def differentiable_read(self) -> Tensor:
        """The vector (D,) as a function of the parameters: gradients flow back into them."""
        return torch.cat([param.reshape(-1).to(self.dtype) for param in self.params])

    @torch.no_grad()
    def write_(self, vector_D: Tensor) -> Tensor:
        """Copy `vector_D` into the parameters in place; each value is rounded to its parameter's dtype.

        Returns: what the parameters hold now (D,); `vector_D` itself where nothing had to be rounded.
        """
        for param, piece in zip(self.params, self.split(vector_D), strict=True):
            param.copy_(piece)
        return self.read() if self.mixed or vector_D.dtype != self.dtype else vector_D

    def split(self, vectors: Tensor) -> list[Tensor]:
        """Views of `vectors` (..., D), one per parameter, shaped (..., *parameter.shape), in the vector's dtype."""
        if vectors.shape[-1:] != (self.dimension,):
            raise ValueError(f"expected {self.dimension} coordinates, got a tensor of shape {tuple(vectors.shape)}")
        leading = vectors.shape[:-1]
        pieces = vectors.split(self.sizes, dim=-1) if len(self.sizes) > 1 else (vectors,)
        return [piece.reshape(leading + shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    def merge(self, pieces: Sequence[Tensor]) -> Tensor:
        """The inverse of `split`: vectors (..., D) from pieces (..., *parameter.shape)."""
        flat = [
            piece.reshape((*piece.shape[: piece.dim() - len(shape)], size))
            for piece, shape, size in zip(pieces, self.shapes, self.sizes, strict=True)
        ]
        return flat[0] if len(flat) == 1 else torch.cat(flat, dim=-1)

    def as_params(self, vector_D: Tensor) -> list[Tensor]:
        """Copies of the pieces of `vector_D` (D,) with the shape and dtype of each parameter."""
        return [
            piece.to(param.dtype, copy=True).detach()
            for param, piece in zip(self.params, self.split(vector_D), strict=True)
        ]

    def join(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """One vector (D,) of per-parameter tensors (gradients, say); None stands for zeros."""
        pieces = [
            torch.zeros(size, dtype=self.dtype, device=self.device)
            if tensor is None
            else tensor.detach().to_dense().reshape(-1).to(self.dtype)
            for tensor, size in zip(tensors, self.sizes, strict=True)
        ]
        return torch.cat(pieces)
