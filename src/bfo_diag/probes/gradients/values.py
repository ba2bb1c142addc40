"""Tensors, numbers and arrays among the arguments and results of a call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

_PLAIN = (torch.Tensor, torch.nn.Parameter)


def tensors_in(value: object) -> Iterator[torch.Tensor]:
    """Yield the tensors in nested arguments or results."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)


def numbers_in(value: object) -> Iterator[float]:
    """Yield the very number objects in nested lists and tuples."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from numbers_in(item)


def array_pointer(value: object) -> int | None:
    """Return the address of a NumPy array's first element."""
    interface = getattr(value, "__array_interface__", None) if not isinstance(value, torch.Tensor) else None
    return interface["data"][0] if isinstance(interface, dict) else None


def is_wrapped(tensor: torch.Tensor) -> bool:
    """Whether torch.func holds the tensor (vmap, grad): it has no memory of its own."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))


def unwrapped(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor that torch.func wrapped, however often, else itself."""
    while is_wrapped(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def data_pointer(tensor: torch.Tensor) -> int | None:
    """Return the address of a tensor's first element, None where it has none."""
    if type(tensor) in _PLAIN and tensor.layout is torch.strided and not is_wrapped(tensor):
        return tensor.data_ptr() or None
    return None


def has_history(tensor: torch.Tensor) -> bool:
    """Whether autograd recorded how the tensor was made."""
    try:
        return tensor.grad_fn is not None
    except RuntimeError:  # a view made under no_grad() and written into, which torch refuses to speak of
        return False


def is_leaf(tensor: torch.Tensor) -> bool:
    """`tensor.is_leaf`; False where torch refuses to say, as in `has_history`."""
    try:
        return tensor.is_leaf
    except RuntimeError:
        return False


def version_of(gradient: torch.Tensor | None) -> tuple[int, int] | None:
    """Return what changes when a gradient is replaced or added to."""
    return None if gradient is None else (id(gradient), gradient._version)


def one_value(losses: Iterable[torch.Tensor]) -> float | None:
    """Return the value of the loss where there is one, of one element."""
    values = [
        float(loss.detach()) for loss in losses if loss.numel() == 1 and not loss.is_complex() and not is_wrapped(loss)
    ]
    return values[0] if len(values) == 1 else None
