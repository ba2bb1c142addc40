"""What each torch function means for the flow of gradients: the names alone, no tensors."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from typing import Any

import torch
from torch.overrides import resolve_name


class Role(Enum):
    """What the trace does with a call."""

    QUERY = "query"  # reads a property: no value flows
    COMPUTE = "compute"  # a value flows from its inputs to its outputs
    EXIT = "exit"  # the value leaves torch as a Python or NumPy object
    ENTRY = "entry"  # a tensor made from Python or NumPy values
    BACKWARD = "backward"  # runs the backward pass
    GRAD_MODE = "grad mode"
    REQUIRES_GRAD = "requires grad"
    SET_GRADIENT = "set gradient"
    GRADIENT = "gradient"  # reads `.grad`
    SEED = "seed"  # draws a random integer
    COLLECTIVE = "collective"  # exchanges values between processes


_QUERIES = frozenset(
    """size dim ndim shape stride numel nelement element_size storage_offset is_contiguous is_floating_point
    is_complex is_cuda is_cpu is_sparse is_quantized is_mkldnn is_meta is_nested is_leaf is_pinned is_shared
    is_inference is_neg is_conj get_device device dtype layout grad_fn requires_grad name names retains_grad
    output_nr _version _base itemsize nbytes data_ptr storage untyped_storage has_names result_type
    register_hook register_post_accumulate_grad_hook retain_grad __repr__ __str__ __format__ __hash__ __len__
    __bool__ is_nonzero is_same_size is_signed is_tensor is_storage is_set_to __contains__ equal allclose
    zeros_like ones_like empty_like rand_like randn_like randint_like full_like new_zeros new_ones new_empty
    new_full can_cast get_default_dtype is_autocast_enabled __dir__ __reduce_ex__ volatile
    _is_view is_mtia is_xpu is_mps is_hpu is_ipu is_maia is_vulkan is_xla broadcast_shapes __delitem__ _indices
    zero_ is_coalesced sparse_dim dense_dim _nnz""".split()
)
_EXITS = frozenset(
    "item tolist numpy __array__ __float__ __int__ __index__ __complex__ __array_interface__ __dlpack__".split()
)
_ENTRIES = frozenset("tensor as_tensor asarray scalar_tensor from_numpy new_tensor frombuffer".split())
_DETACHES = frozenset("detach detach_ data".split())
_ZERO_DERIVATIVE = frozenset("round floor ceil trunc fix sign sgn round_ floor_ ceil_ trunc_ sign_ heaviside".split())
_WRITES = frozenset(
    """__setitem__ __iadd__ __isub__ __imul__ __itruediv__ __ifloordiv__ __imod__ __ipow__ __imatmul__""".split()
)
_COLLECTIVES = frozenset({"torch.distributed.distributed_c10d", "torch._ops._c10d_functional"})
"""Modules of the functions by which processes exchange values."""
_SHOWN = {"__array__": "numpy", "__float__": "float()", "__int__": "int()", "__index__": "int()"}


class Operation:
    """A torch function as the trace sees it."""

    __slots__ = ("name", "role", "sets_data", "writes", "zero_derivative")

    def __init__(self, name: str, role: Role, *, sets_data: bool = False) -> None:
        self.name = _SHOWN.get(name, name)
        self.role = role
        self.sets_data = sets_data
        self.writes = sets_data or name in _WRITES or (name.endswith("_") and not name.endswith("__"))
        self.zero_derivative = name in _ZERO_DERIVATIVE

    @property
    def detaches(self) -> bool:
        """Whether its output shares the input's values and none of its history, on purpose."""
        return self.name in _DETACHES and not self.sets_data


@lru_cache(maxsize=4096)
def operation(function: Callable[..., Any]) -> Operation:
    """Return what `function`, as handed to `__torch_function__`, does."""
    full = resolve_name(function) or getattr(function, "__name__", None) or repr(function)
    parts = full.split(".")
    setter = parts[-1] == "__set__"
    name = parts[-2] if parts[-1] in ("__get__", "__set__") and len(parts) > 1 else parts[-1]
    if name in ("_set_grad_enabled", "set_grad_enabled"):
        return Operation(name, Role.GRAD_MODE)
    if name == "requires_grad_" or (name == "requires_grad" and setter):
        return Operation(name, Role.REQUIRES_GRAD)
    if name == "backward" or function is torch.autograd.grad:
        return Operation("autograd.grad" if function is torch.autograd.grad else "backward", Role.BACKWARD)
    if name == "data" and setter:
        return Operation("data", Role.COMPUTE, sets_data=True)
    if name == "grad":
        return Operation(name, Role.SET_GRADIENT if setter else Role.GRADIENT)
    if name == "random_":
        return Operation(name, Role.SEED)
    if getattr(function, "__module__", None) in _COLLECTIVES:
        return Operation(name, Role.COLLECTIVE)
    if setter or name in _QUERIES:
        return Operation(name, Role.QUERY)
    if name in _EXITS:
        return Operation(name, Role.EXIT)
    if name in _ENTRIES:
        return Operation(name, Role.ENTRY)
    return Operation(name, Role.COMPUTE)
