"""Values that left torch in a step as Python numbers or NumPy arrays, and the ways by which they come back."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch

from bfo_diag import frames
from bfo_diag.probes.gradients.flow import Flow
from bfo_diag.probes.gradients.values import array_pointer, data_pointer, numbers_in

MAX_EXITS = 256
"""Exits that are remembered within a step, and numbers of one list."""
_SHARED_INTEGERS = range(-5, 257)  # CPython keeps one object for each of these


class Exits:
    """What left torch in this step. A way back is certain by the very object or memory, else a guess by size."""

    def __init__(self) -> None:
        self.flows: list[Flow] = []
        self._sizes: list[int] = []
        self._numbers: dict[int, tuple[object, Flow]] = {}
        self._pointers: dict[int, Flow] = {}

    def add(self, flow: Flow, result: object, size: int) -> None:
        """Remember that `result`, of `size` elements, left torch through `flow`."""
        if len(self.flows) >= MAX_EXITS:
            return
        self.flows.append(flow)
        self._sizes.append(size)
        pointer = array_pointer(result)
        if pointer is not None:
            self._pointers[pointer] = flow
        for number in itertools.islice(numbers_in(result), MAX_EXITS):
            if not (isinstance(number, int) and number in _SHARED_INTEGERS):
                self._numbers[id(number)] = (number, flow)  # the object is kept, so that its id stays its own

    def of_numbers(self, numbers: Iterable[object]) -> tuple[Flow, ...]:
        """Return the exits whose very number objects these are."""
        if not self._numbers:
            return ()
        found = (self._numbers.get(id(number)) for number in itertools.islice(numbers, MAX_EXITS))
        return tuple(dict.fromkeys(entry[1] for entry in found if entry is not None))

    def of_memory(self, value: object) -> Flow | None:
        """Return the exit whose array shares its first element's memory with `value`, an array or tensor."""
        pointer = data_pointer(value) if isinstance(value, torch.Tensor) else array_pointer(value)
        return self._pointers.get(pointer) if pointer is not None else None

    def guess(self, size: int) -> tuple[Flow, ...]:
        """Return the exits of as many elements, else all: arithmetic in Python or NumPy lies between."""
        alike = tuple(flow for flow, of_size in zip(self.flows, self._sizes, strict=True) if of_size == size)
        return alike or tuple(self.flows)

    def entering(self, name: str, args: tuple[object, ...]) -> Flow | None:
        """Return where the arguments of `torch.tensor` and its like came from, where that was torch."""
        numbers = list(itertools.islice(numbers_in(args), MAX_EXITS))
        certain = self.of_numbers(numbers)
        memory = tuple(flow for value in args if (flow := self.of_memory(value)) is not None)
        if certain or memory:
            return Flow.joined(name, (*certain, *memory), candidates=0)
        size = next((int(value.size) for value in args if array_pointer(value) is not None), len(numbers))  # type: ignore[attr-defined]
        if not self.flows or not size or _all_constant(numbers, size):
            return None
        candidates = self.guess(size)
        return Flow.joined(name, candidates, candidates=len(candidates))


def _all_constant(numbers: list[float], size: int) -> bool:
    """Whether these numbers stand in the source of the line that calls."""
    if len(numbers) != size:
        return False
    constants = {id(value) for value in _flattened(frames.constants())}
    return all(id(number) in constants for number in numbers)


def _flattened(values: tuple[object, ...]) -> Iterable[object]:
    for value in values:
        if isinstance(value, tuple):
            yield from _flattened(value)
        else:
            yield value
