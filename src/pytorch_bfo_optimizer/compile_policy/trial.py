"""A graph's first run, on copies of its inputs, forward and backward: it fails here, before anything real was done.

A backend may fail when it compiles, when its forward runs, when its backward is compiled (torch does that lazily, in
the user's `loss.backward()`) and when that runs. The first is caught where it is raised; the other three are here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from pytorch_bfo_optimizer.compile_policy.random_state import random_state_kept

_ALIGNMENT = 64
"""Bytes. A copy begins as far from such a boundary as its original: generated code may depend on 16 of them."""


class TrialError(Exception):
    """The graph failed; the `__cause__` is what it raised."""

    def __init__(self, where: str) -> None:
        super().__init__(where)
        self.where = where


def can_be_tried(args: Sequence[Any]) -> bool:
    """Whether the inputs can be copied faithfully, and running the graph twice has no effect outside of it.

    Not so for subclasses of Tensor (FSDP, DTensor), sparse and nested layouts, under vmap or grad transforms, and
    while a CUDA graph is captured.
    """
    functorch = torch._C._functorch
    if torch.is_inference_mode_enabled() or functorch.peek_interpreter_stack() is not None:
        return False
    if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
        return False
    return all(_plain(arg) if isinstance(arg, Tensor) else isinstance(arg, (int, float, bool)) for arg in args)


def _plain(tensor: Tensor) -> bool:
    known = type(tensor) in (Tensor, torch.nn.Parameter, torch.nn.Buffer)
    device = tensor.device.type in ("cpu", "cuda")
    bits = not (tensor.is_conj() or tensor.is_neg() or tensor.is_inference())
    return known and device and bits and tensor.layout is torch.strided and not tensor.is_quantized


def try_on_copies(graph: Callable[..., Any], args: Sequence[Any], held: Sequence[Tensor] = ()) -> None:
    """Run the graph on copies, and its backward with zeros for gradients; the random numbers are put back.

    Args:
        graph: what the backend made.
        args: the inputs of its first run.
        held: tensors that are part of the graph, as an optimizer's parameters and state are: no copy can be passed
            for them, so that their memory is put back.

    Raises:
        TrialError: the graph's forward or backward failed.
    """
    with random_state_kept(), _memory_kept(held), torch.autograd.set_detect_anomaly(False):
        copies = copied(args)
        try:
            outputs = graph(*copies)
        except Exception as error:  # whatever a compiled graph raises is the reason that is recorded
            raise TrialError("forward") from error
        reached = [out for out in outputs if isinstance(out, Tensor) and out.grad_fn is not None]
        leaves = [tensor for tensor in (*copies, *held) if isinstance(tensor, Tensor) and tensor.requires_grad]
        if not reached or not leaves:
            return
        try:
            with _autocast_off(reached):
                torch.autograd.grad(reached, leaves, [torch.zeros_like(out) for out in reached], allow_unused=True)
        except Exception as error:
            raise TrialError("backward") from error


@contextmanager
def _memory_kept(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Put the memory of the tensors back, past their version counters: nothing was done to them."""
    storages = {_storage(tensor): tensor.untyped_storage() for tensor in tensors}
    copies = {key: storage.clone() for key, storage in storages.items()}
    try:
        yield
    finally:
        for key, storage in storages.items():
            storage.copy_(copies[key])


@contextmanager
def _autocast_off(tensors: Sequence[Tensor]) -> Iterator[None]:
    """A step calls backward outside of autocast; the trial of a forward under it must not differ."""
    with ExitStack() as stack:
        for device in {tensor.device.type for tensor in tensors}:
            stack.enter_context(torch.autocast(device, enabled=False))
        yield


def copied(args: Sequence[Any]) -> list[Any]:
    """Return the inputs with copies for tensors: same strides and alignment, memory shared as the originals share it.

    Only the span of memory that the inputs cover is copied, not the storage behind a view.
    """
    spans: dict[int, tuple[int, int]] = {}
    for tensor in (arg for arg in args if isinstance(arg, Tensor)):
        key, (first, last) = _storage(tensor), _span(tensor)
        low, high = spans.get(key, (first, last))
        spans[key] = (min(low, first), max(high, last))
    memory: dict[int, tuple[int, torch.UntypedStorage]] = {}
    copies: list[Any] = []
    for arg in args:
        if not isinstance(arg, Tensor):
            copies.append(arg)
            continue
        key = _storage(arg)
        if key not in memory:
            memory[key] = _copy_of(arg.untyped_storage(), spans[key])
        start, storage = memory[key]
        copy = torch.empty(0, dtype=arg.dtype, device=arg.device)
        offset = (arg.storage_offset() * arg.element_size() - start) // arg.element_size()
        copy.set_(storage, offset, arg.size(), arg.stride())
        copies.append(copy.requires_grad_(arg.requires_grad))
    return copies


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _span(tensor: Tensor) -> tuple[int, int]:
    """The first byte of a tensor in its storage, rounded down, and the first after its last."""
    size = tensor.element_size()
    first = int(tensor.storage_offset()) * size
    start = first - first % _ALIGNMENT
    if tensor.numel() == 0:
        return start, first
    reach = sum((count - 1) * stride for count, stride in zip(tensor.size(), tensor.stride(), strict=True))
    return start, first + (int(reach) + 1) * size


def _copy_of(storage: torch.UntypedStorage, span: tuple[int, int]) -> tuple[int, torch.UntypedStorage]:
    source = torch.empty(0, dtype=torch.uint8, device=storage.device)
    source.set_(storage, span[0], (span[1] - span[0],), (1,))
    return span[0], source.clone().untyped_storage()
