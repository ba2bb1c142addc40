"""Puts back, in place, everything that a training step can change: the same tensors, the same objects, as they were.

Memory is copied storage by storage, so that tied weights and views are kept once, and parameters stay the parameters
that the optimizer, DDP or a CUDA graph knows. It takes as much memory again as the training's state, for as long as
the snapshot lives.

What goes only forward can't be put back (an iterator, a file, a queue, a counter in C++), nor what a library's own
objects note; `notes` names what was found of it.
"""

from __future__ import annotations

import functools
import random
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from pytorch_bfo_optimizer.compile_policy.random_state import take_random_state
from pytorch_bfo_optimizer.compile_policy.reach import reach, slots_of

KEPT_BYTES = 64 * 2**20
"""Tensors and arrays that belong to no model and no optimizer are taken for data if their memory is larger than this:
they are not copied, and the notes tell if one was written to."""

PutBack = Callable[[], Any]
_MISSING = object()


class Snapshot:
    """The state of whatever the roots can reach, at the time this was made."""

    def __init__(self, roots: Iterable[Any]) -> None:
        found = reach(roots)
        self._random = take_random_state()
        self._grad_mode = torch.is_grad_enabled()
        self._versions: list[tuple[Tensor, int]] = []
        self._memory: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
        """By its number: memory, which is held so that the number is good, and its copy."""
        self._trained: set[int] = set()
        """The numbers of what requires grad."""
        self._iterators = sorted({type(iterator).__name__ for iterator in found.iterators})
        self._objects = [*map(_container, found.containers), *map(_slots, found.objects), *map(_cell, found.cells)]
        self._objects += [_binding(names, name) for names, name in found.globals]
        self._objects += map(_generator, found.generators)
        self._objects += [_array(array) for array in found.arrays if array.nbytes <= KEPT_BYTES]
        self._leaves: list[PutBack] = []
        for tensor in found.tensors:
            self._keep(tensor, training=tensor.requires_grad or id(tensor) in found.owned)
            if tensor.is_leaf and tensor.grad is not None:
                self._keep(tensor.grad, training=True)

    def _keep(self, tensor: Tensor, *, training: bool) -> None:
        """Keep what a tensor is (storage, shape, grad, flags), and its memory unless another tensor's is the same."""
        if tensor.is_leaf:
            self._leaves.append(_leaf(tensor))
        try:
            storage = tensor.untyped_storage()
        except (NotImplementedError, RuntimeError):  # sparse, or a subclass that wraps others: it has no memory itself
            self._leaves.append(_values(tensor))
            return
        if tensor.requires_grad:
            self._trained.add(storage._cdata)
        if storage._cdata in self._memory or storage.device.type == "meta":
            return
        if not training and storage.nbytes() > KEPT_BYTES:
            if not tensor.is_inference():
                self._versions.append((tensor, tensor._version))
            return
        self._memory[storage._cdata] = (storage, storage.clone())

    def restore(self) -> None:
        """Put everything back; it may be called again after another step."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        for put_back in (*self._objects, *self._leaves):
            put_back()
        for memory, copy in self._memory.values():
            if memory.nbytes() != copy.nbytes():
                memory.resize_(copy.nbytes())
            memory.copy_(copy)
        self._random()
        torch.set_grad_enabled(self._grad_mode)

    def parameters_moved(self) -> bool:
        """Whether any tensor that requires grad differs from what it was."""
        kept = (self._memory[number] for number in self._trained & self._memory.keys())
        return any(not torch.equal(_bytes(memory), _bytes(copy)) for memory, copy in kept)

    def notes(self) -> tuple[str, ...]:
        """Return what a step could or did change that nobody puts back."""
        said = [f"an iterator that the step can reach ({name})" for name in self._iterators]
        said += [
            f"a tensor of shape {list(tensor.shape)} that the step wrote to, too large to be kept"
            for tensor, version in self._versions
            if tensor._version != version
        ]
        return tuple(said)


def _bytes(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _values(tensor: Tensor) -> PutBack:
    copy = tensor.detach().clone()

    def put_back() -> None:
        with torch.no_grad():
            tensor.copy_(copy)

    return put_back


def _leaf(tensor: Tensor) -> PutBack:
    """A leaf's own state: which memory it shows, its gradient object, whether it requires one."""
    alias, grad, required = tensor.detach(), tensor.grad, tensor.requires_grad

    def put_back() -> None:
        if not _shows_the_same(tensor, alias):
            tensor.data = alias
        if tensor.requires_grad != required:
            tensor.requires_grad_(required)
        if tensor.grad is not grad:
            tensor.grad = grad

    return put_back


def _shows_the_same(tensor: Tensor, alias: Tensor) -> bool:
    if tensor.layout is not torch.strided or tensor.dtype != alias.dtype or tensor.shape != alias.shape:
        return tensor.layout is not torch.strided
    same = tensor.stride() == alias.stride() and tensor.storage_offset() == alias.storage_offset()
    return same and tensor.untyped_storage()._cdata == alias.untyped_storage()._cdata


def _container(container: Any) -> PutBack:
    if isinstance(container, dict):
        return _dict(container)
    kept = list(container)

    def put_back() -> None:
        now = list(container)
        if len(now) == len(kept) and all(one is other for one, other in zip(now, kept, strict=True)):
            return
        container.clear()
        container.update(kept) if isinstance(container, set) else container.extend(kept)

    return put_back


def _dict(container: dict[Any, Any]) -> PutBack:
    kept = list(container.items())
    base: Any = OrderedDict if isinstance(container, OrderedDict) else dict  # past what a subclass makes of it

    def put_back() -> None:
        now = list(container.items())
        pairs = zip(now, kept, strict=True) if len(now) == len(kept) else None
        if pairs is not None and all(one[0] is other[0] and one[1] is other[1] for one, other in pairs):
            return
        base.clear(container)
        for key, value in kept:
            base.__setitem__(container, key, value)

    return put_back


def _slots(thing: Any) -> PutBack:
    kept = dict(slots_of(thing))

    def put_back() -> None:
        for name, value in list(slots_of(thing)):
            if name not in kept:
                object.__delattr__(thing, name)
            elif kept[name] is not value:
                object.__setattr__(thing, name, kept[name])  # frozen dataclasses too
        for name in kept.keys() - dict(slots_of(thing)).keys():
            object.__setattr__(thing, name, kept[name])

    return put_back


def _cell(cell: Any) -> PutBack:
    try:
        kept = cell.cell_contents
    except ValueError:  # not bound yet
        return functools.partial(_unbind, cell)
    return functools.partial(setattr, cell, "cell_contents", kept)


def _unbind(cell: Any) -> None:
    with suppress(ValueError):
        del cell.cell_contents


def _binding(names: dict[str, Any], name: str) -> PutBack:
    kept = names.get(name, _MISSING)

    def put_back() -> None:
        if kept is _MISSING:
            names.pop(name, None)
        elif names.get(name, _MISSING) is not kept:
            names[name] = kept

    return put_back


def _array(array: Any) -> PutBack:
    kept = array.copy()

    def put_back() -> None:
        if array.flags.writeable:
            array[...] = kept

    return put_back


def _generator(generator: Any) -> PutBack:
    if isinstance(generator, torch.Generator):
        return functools.partial(generator.set_state, generator.get_state())
    if isinstance(generator, random.Random):
        return functools.partial(generator.setstate, generator.getstate())
    bits = getattr(generator, "bit_generator", None) or generator._bit_generator  # NumPy's Generator and RandomState
    return functools.partial(setattr, bits, "state", bits.state)
