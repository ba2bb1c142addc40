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
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield float(value)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from numbers_in(item)


def array_pointer(value: object) -> int | None:
    interface = getattr(value, "__array_interface__", None)
    return interface["data"][0] if isinstance(interface, dict) else None


def data_pointer(tensor: torch.Tensor) -> int | None:
    if type(tensor) in _PLAIN and tensor.device.type == "cpu" and tensor.layout is torch.strided:
        return tensor.data_ptr()
    return None


def version_of(gradient: torch.Tensor | None) -> tuple[int, int] | None:
    return None if gradient is None else (id(gradient), gradient._version)


def one_value(losses: Iterable[torch.Tensor]) -> float | None:
    values = [float(loss.detach()) for loss in losses if loss.numel() == 1 and not loss.is_complex()]
    return values[0] if len(values) == 1 else None
