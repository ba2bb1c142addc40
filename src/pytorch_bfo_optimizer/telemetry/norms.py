"""Norms and counts of many gradients at once: queued on their devices, exact to 1e-6, without copies of the gradients.

Three traps stand behind the two ways taken here. A float32 sum over 50 million squares is 0.4 % low; the square of
1e-25 is zero in float32, and that of 1e20 infinite; and `dtype=float64` mends all three but copies the tensor on a CPU.
So a CPU tensor is taken in short rows (float32, the row norms put together in float64) or, where its dtype is narrower,
in pieces that are widened one after the other in the same memory; other devices have a kernel that accumulates in
float64 while it reads.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

_ROW = 1024
"""Elements that are summed in the tensor's own dtype; then float64 takes over."""
_PIECE = 1 << 16
"""Elements that are widened or compared at a time on a CPU: 512 KiB in float64."""
_COUNTED = 1 << 20
"""The same on other devices. Float32 holds such a count exactly (it does up to 2**24)."""
_TRUSTED = 1e6
"""How many times the part of a norm that may have been lost to underflow the norm itself has to be, squared."""

_NEVER_LOST = 1e-6
"""Above this no norm is in doubt: it would take 1e20 elements."""


class Numbers(NamedTuple):
    """What was read of some tensors: norm and count of elements that are not zero (None: not counted) of each."""

    norms: list[float]
    nonzero: list[int] | None
    beside: float | None
    """The number that was read along with them."""


@dataclass(frozen=True, slots=True)
class Queued:
    """Norms and counts of some tensors, on their way: `numbers` (N,) holds them in one device's float64."""

    numbers: Tensor
    tensors: int
    """How many of the numbers, from the first on, are norms."""
    counted: bool
    """Whether as many counts follow them."""
    beside: bool
    """Whether the last number is one that was read along."""

    def total(self) -> Tensor:
        """Return the norm over all tensors: 0-dim, queued."""
        total: Tensor = torch.linalg.vector_norm(self.numbers.narrow(0, 0, self.tensors))
        return total / self.numbers.select(0, -1) if self.beside else total

    def read(self) -> Numbers:
        """Wait for the device, once."""
        numbers = self.numbers.tolist()
        beside = numbers.pop() if self.beside else None
        counts = [int(number) for number in numbers[self.tensors :]] if self.counted else None
        return Numbers(numbers[: self.tensors], counts, beside)


def norm_of(parts: Sequence[float]) -> float:
    """Return the norm of what has these norms, part by part; `math.hypot` would read NaN beside Inf as Inf."""
    return math.nan if any(map(math.isnan, parts)) else math.hypot(*parts)


def queue(tensors: Sequence[Tensor], *, count_zeros: bool, beside: Tensor | None = None) -> Queued:
    """Queue the norm of each flat tensor, of any device and dtype, and how many of its elements are not zero.

    `beside` (0-dim) divides the total, and is read along with the rest.
    """
    scratch = _Scratch()
    condensed = [_condensed(tensor, scratch) for tensor in tensors]
    kinds: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for index, tensor in enumerate(condensed):
        kinds.setdefault((tensor.device, tensor.dtype), []).append(index)
    norms: dict[int, Tensor] = {}
    for indices in kinds.values():
        norms.update(zip(indices, _foreach_norms([condensed[index] for index in indices]), strict=True))
    counts = [_nonzero_count(tensor, scratch) for tensor in tensors] if count_zeros else []
    read_along = [] if beside is None else [beside.detach().reshape(())]
    numbers = _together([*(norms[index] for index in range(len(tensors))), *counts, *read_along])
    return Queued(numbers, len(tensors), count_zeros, beside is not None)


def _together(scalars: Sequence[Tensor]) -> Tensor:
    """Return 0-dim tensors of several devices as one tensor, without waiting for any.

    It lies on the first device that is no CPU: a copy to the CPU that nothing waits for could be read too early.
    """
    if not scalars:
        return torch.zeros(0, dtype=torch.float64)
    devices = {scalar.device: None for scalar in scalars}
    device = min(devices, key=lambda device: device.type == "cpu")
    if len(devices) > 1:
        scalars = [scalar.to(device, non_blocking=True) for scalar in scalars]
    return torch.stack(list(scalars)).to(_widest(device))


def _widest(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


class _Scratch:
    """One piece of memory for each device and dtype, used again and again.

    Temporary tensors, freed one by one with the small results between them, leave holes that the allocator of a CPU
    does not fill: a gradient of 256 MiB in bfloat16, widened piece by piece, took a whole GiB.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def pieces(self, tensor: Tensor, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each piece of a flat tensor with as many elements to write to; the next overwrites them."""
        size = _PIECE if tensor.device.type == "cpu" else _COUNTED
        needed = min(size, tensor.numel())
        kept = self._kept.get((tensor.device, dtype))
        if kept is None or kept.numel() < needed:
            kept = self._kept[tensor.device, dtype] = torch.empty(needed, dtype=dtype, device=tensor.device)
        for piece in tensor.split(size):
            yield piece, kept.narrow(0, 0, piece.numel())


def _condensed(tensor: Tensor, scratch: _Scratch) -> Tensor:
    """Return a flat tensor of the same norm: on a CPU a short one, so that widening it copies next to nothing."""
    if not tensor.numel():
        return tensor.new_zeros(1)
    if tensor.device.type != "cpu" or tensor.numel() <= _ROW:
        return tensor
    if tensor.dtype not in (torch.float32, torch.float64):
        widened = (room.copy_(piece) for piece, room in scratch.pieces(tensor, torch.float64))
        return torch.stack([torch.linalg.vector_norm(piece) for piece in widened])
    short = tensor.numel() % _ROW
    rows, rest = tensor.split([tensor.numel() - short, short]) if short else (tensor, tensor)
    found: Tensor = torch.linalg.vector_norm(rows.view(-1, _ROW), dim=1)
    return torch.cat([found, rest]) if short else found


def _foreach_norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the ord-2 norm of each tensor, accumulated in float64 where the device has it: 0-dim, queued.

    The one place that uses `torch._foreach_norm`, which `torch.nn.utils.get_total_norm`, its public caller, does not
    give tensor by tensor. All tensors lie on one device and have one dtype.
    """
    dtype = _widest(tensors[0].device)
    fused = getattr(torch, "_foreach_norm", None)
    if fused is None:
        return [torch.linalg.vector_norm(tensor, dtype=dtype) for tensor in tensors]
    found: list[Tensor] = list(fused(list(tensors), 2, dtype=dtype))
    return found


def _nonzero_count(tensor: Tensor, scratch: _Scratch) -> Tensor:
    """Return how many elements of a flat tensor are not zero (NaN is not): 0-dim, exact, queued.

    On a CPU through ones and zeros: `torch.count_nonzero` takes a branch an element, and twenty times as long where
    zeros lie between others. Elsewhere by the norm of order 0, in one pass.
    """
    if tensor.device.type == "cpu":
        return _count(tensor, scratch, torch.ne, 0)
    dtype = torch.promote_types(tensor.dtype, torch.float32)  # what is narrower is read as it is, nothing is copied
    short = tensor.numel() % _COUNTED
    rows, rest = tensor.split([tensor.numel() - short, short])
    counts = [torch.linalg.vector_norm(rest, 0, dtype=dtype).view(1)]
    if rows.numel():
        counts.append(torch.linalg.vector_norm(rows.view(-1, _COUNTED), 0, dim=1, dtype=dtype))
    return torch.cat(counts).sum(dtype=_widest(tensor.device))


def _count(tensor: Tensor, scratch: _Scratch, compare: Callable[..., Tensor], other: float | None) -> Tensor:
    """Return of how many elements of a flat tensor `compare(element, other)` holds (None: the element itself).

    0-dim, exact, queued.
    """
    dtype = torch.promote_types(tensor.dtype, torch.float32)
    sums = []
    for piece, room in scratch.pieces(tensor, dtype):
        # Compared into its own dtype nothing is made beside it; a narrower one could not hold the sum.
        elements = piece if piece.dtype == dtype else room.copy_(piece)
        sums.append(compare(elements, elements if other is None else other, out=room).sum())
    return sums[0] if len(sums) == 1 else torch.stack(sums).sum(dtype=_widest(tensor.device))


class Look(NamedTuple):
    """What a closer look at a tensor found: how many NaN and Inf, exactly, and without these its norm."""

    nan: int
    inf: int
    norm: float

    def explains(self, norm: float, tensor: Tensor) -> bool:
        """Whether a norm that was not finite can be of these elements.

        Not where they were changed behind autograd's back, through `.data` or by a fused kernel.
        """
        if self.nan or math.isnan(norm):
            return self.nan > 0 and math.isnan(norm)
        narrow = _squares_in(tensor)
        overflowed = narrow is not None and self.norm >= 0.9 * math.sqrt(torch.finfo(narrow).max)
        return self.inf > 0 or overflowed


def closer_look(broken: Sequence[Tensor], small: Sequence[Tensor]) -> tuple[list[Look], list[float]]:
    """Return what is in each flat tensor of `broken`, and the norm of each of `small`, which has finite elements only.

    Norms of whatever size: each is divided by its greatest element. Waits for the devices once, if there is any tensor.
    """
    scratch = _Scratch()
    queued = [number for tensor in broken for number in (*_non_finite(tensor, scratch), *_scaled(tensor, scratch))]
    queued += [number for tensor in small for number in _scaled(tensor, scratch)]
    numbers = iter(_together(queued).tolist() if queued else [])
    looks = [Look(int(next(numbers)), int(next(numbers)), _product(next(numbers), next(numbers))) for _ in broken]
    return looks, [_product(next(numbers), next(numbers)) for _ in small]


def may_have_underflowed(norm: float, tensor: Tensor) -> bool:
    """Whether squares that were rounded to zero may be more than a millionth of this norm of `tensor`, squared."""
    if norm > _NEVER_LOST:
        return False
    narrow = _squares_in(tensor)
    return narrow is not None and norm < math.sqrt(tensor.numel() * torch.finfo(narrow).tiny * _TRUSTED)


def _squares_in(tensor: Tensor) -> torch.dtype | None:
    """Return the dtype that the squares of a tensor's elements are held in, if it is too narrow for some of them."""
    if tensor.dtype is torch.float64:
        return torch.float64
    if tensor.device.type == "mps" or (tensor.device.type == "cpu" and tensor.dtype is torch.float32):
        return torch.float32
    return None


def _product(greatest: float, scaled: float) -> float:
    return min(greatest * scaled, sys.float_info.max)


def _non_finite(tensor: Tensor, scratch: _Scratch) -> tuple[Tensor, Tensor]:
    """Queue the counts of NaN and Inf."""
    return (
        _count(tensor, scratch, torch.ne, None),
        _count(tensor, scratch, torch.eq, math.inf) + _count(tensor, scratch, torch.eq, -math.inf),
    )


def _scaled(tensor: Tensor, scratch: _Scratch) -> tuple[Tensor, Tensor]:
    """Queue the greatest magnitude, and the norm divided by it."""
    wide = _widest(tensor.device)
    widened = (room.copy_(piece) for piece, room in scratch.pieces(tensor, wide))
    greatest = torch.stack([torch.linalg.vector_norm(piece, math.inf) for piece in widened]).max()
    divisor = torch.where(greatest > 0, greatest, torch.ones_like(greatest))
    scaled = (room.copy_(piece).div_(divisor) for piece, room in scratch.pieces(tensor, wide))
    return greatest, torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(piece) for piece in scaled]))
