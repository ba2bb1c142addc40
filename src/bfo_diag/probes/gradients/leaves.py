"""The tensors that may get a gradient: who they are, what they are called, who holds them, when they were frozen."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from bfo_diag import frames

MAX_LEAVES = 20_000
"""Leaves beyond this many are not followed (a step that makes thousands of fresh ones)."""


@dataclass
class Leaf:
    """A tensor that may get a gradient. It is kept alive while it is known, so that its id stays its own."""

    tensor: torch.Tensor
    index: int
    name: str | None = None
    """Given by the case, or by a variable that its step can see: the leaf lasts from step to step."""
    fallback_name: str | None = None
    """Where there is no name: what the running code calls it."""
    replaced: bool = False
    """Whether its name belongs to another tensor now."""
    held_as: str | None = None
    """Where an optimizer holds it."""
    optimized: bool = False
    concerned: bool = False
    """Whether it is of the case: named, held by an optimizer or touched by a step, and not only made at import."""
    used_at: frames.Spot | None = None
    frozen_at: frames.Spot | None = None
    stats: dict[str, Any] | None = None

    def measured(self, stats: dict[str, Any]) -> None:
        """Note the gradient's norm; of several passes in a step a zero does not replace what is not zero."""
        if stats.get("grad_norm") != 0 or self.stats is None or not self.stats.get("grad_norm"):
            self.stats = stats

    @property
    def bit(self) -> int:
        """Its place in a set of leaves, which is a bit mask."""
        return 1 << self.index

    @property
    def is_parameter(self) -> bool:
        """Whether it is there to be trained, and not an input that a step asks a gradient of."""
        return self.name is not None or self.optimized or isinstance(self.tensor, torch.nn.Parameter)

    @property
    def stale(self) -> bool:
        """Whether an optimizer holds it and nothing else that is known."""
        return self.optimized and (self.replaced or (self.name is None and self.fallback_name is None))

    @property
    def shown(self) -> str:
        """A name for it that its owner will know it by."""
        shape = "x".join(map(str, self.tensor.shape)) or "scalar"
        return self.name or self.fallback_name or self.held_as or f"leaf {self.index} ({shape})"


class Leaves:
    """All leaves that are known. A leaf's index is never given again, so that old sets stay right."""

    def __init__(self) -> None:
        self._optimizers: list[tuple[torch.optim.Optimizer, bool]] = []
        self._known: dict[int, Leaf] = {}
        self._by_id: dict[int, Leaf] = {}
        self._names: dict[str, int] = {}
        self._epochs: dict[str, int] = {}
        self._epoch = 0
        self._indices = itertools.count()
        self._frozen: dict[int, tuple[torch.Tensor, frames.Spot | None]] = {}

    def all(self) -> list[Leaf]:
        """Return the leaves, oldest first."""
        return list(self._known.values())

    def members(self, bits: int) -> list[Leaf]:
        """Return the leaves of a set."""
        return [leaf for leaf in self._known.values() if bits >> leaf.index & 1]

    def reported(self) -> list[Leaf]:
        """Return the leaves of the case: its parameters, or where it has none the bare tensors that it made."""
        concerned = [leaf for leaf in self._known.values() if leaf.concerned]
        return [leaf for leaf in concerned if leaf.is_parameter] or concerned

    def find(self, tensor: torch.Tensor) -> Leaf | None:
        """Return the leaf for `tensor` if it is known."""
        return self._by_id.get(id(tensor))

    def bit(self, tensor: torch.Tensor) -> int:
        """Return the set of `tensor` alone, empty where it is no known leaf."""
        leaf = self.find(tensor)
        return leaf.bit if leaf is not None else 0

    def add(self, tensor: torch.Tensor) -> Leaf | None:
        """Return the leaf for `tensor`, made if it is new; None beyond `MAX_LEAVES`."""
        found = self.find(tensor)
        if found is None and len(self._known) < MAX_LEAVES:
            found = Leaf(tensor, next(self._indices))
            self._known[found.index] = found
            self._by_id[id(tensor)] = found
            _, found.frozen_at = self._frozen.pop(id(tensor), (None, None))
        return found

    def begin_naming(self) -> None:
        """Begin to name anew: a name that now belongs to another tensor leaves the old one."""
        self._epoch += 1

    def name(self, tensor: torch.Tensor, name: str) -> None:
        """Give `tensor` a name, unless it has one; with a number where another leaf was given it just now."""
        leaf = self.add(tensor)
        if leaf is None:
            return
        leaf.concerned = True
        if leaf.name is not None:
            self._epochs[leaf.name] = self._epoch
            return
        holder = self._known.get(self._names.get(name, -1))
        if holder is not None and holder is not leaf and self._epochs.get(name) != self._epoch:
            # The variable or module holds another tensor now; the optimizer may still hold the old one.
            holder.name, holder.fallback_name = None, None
            del self._names[name]
            if holder.optimized:
                holder.replaced = True
                holder.fallback_name = self._free(f"{name}, as the optimizer holds it", holder)
            else:
                self._forget(holder)
        leaf.name = self._free(name, leaf)
        self._epochs[leaf.name] = self._epoch

    def name_for_now(self, leaf: Leaf, name: str | None) -> None:
        """Remember what the running code calls a leaf without a name."""
        if name is not None and leaf.name is None and leaf.fallback_name is None:
            leaf.fallback_name = self._free(name, leaf)

    def _free(self, name: str, leaf: Leaf) -> str:
        numbered = itertools.chain([name], (f"{name} ({number})" for number in itertools.count(2)))
        free = next(text for text in numbered if self._names.get(text, leaf.index) == leaf.index)
        self._names[free] = leaf.index
        return free

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """The optimizers that are known, in the order in which they were found."""
        return [optimizer for optimizer, _ in self._optimizers]

    def add_optimizer(self, optimizer: object, *, lasting: bool = True) -> None:
        """Count the parameters of `optimizer` among the leaves; one that a step makes for itself does not last."""
        if not isinstance(optimizer, torch.optim.Optimizer):
            return
        for index, (known, lasts) in enumerate(self._optimizers):
            if known is optimizer:
                self._optimizers[index] = (known, lasts or lasting)
                return
        self._optimizers.append((optimizer, lasting))
        for number, group in enumerate(optimizer.param_groups):
            for position, parameter in enumerate(group["params"]):
                leaf = self.add(parameter)
                if leaf is not None:
                    leaf.optimized = leaf.concerned = True
                    leaf.held_as = f"{type(optimizer).__name__}.param_groups[{number}]['params'][{position}]"

    def held_by(self, optimizer: torch.optim.Optimizer) -> Iterator[Leaf]:
        """Yield the leaves that are parameters of `optimizer`."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                leaf = self.find(parameter)
                if leaf is not None:
                    yield leaf

    def note_requires_grad(self, tensor: torch.Tensor, spot: frames.Spot | None) -> None:
        """Remember where `requires_grad` was set to False (None: it was set to True)."""
        leaf = self.find(tensor)
        if leaf is not None:
            leaf.frozen_at = spot
        elif spot is not None:
            # Kept alive with its place: an id alone could pass to another tensor.
            self._frozen[id(tensor)] = (tensor, spot)
        else:
            self._frozen.pop(id(tensor), None)

    def forget_transient(self) -> None:
        """Forget the leaves that a step made for itself: the next one makes its own."""
        self._optimizers = [(optimizer, lasts) for optimizer, lasts in self._optimizers if lasts]
        held = {id(p) for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"]}
        for leaf in self.all():
            leaf.optimized = id(leaf.tensor) in held
            if leaf.name is None and not leaf.optimized:
                self._forget(leaf)

    def _forget(self, leaf: Leaf) -> None:
        del self._known[leaf.index], self._by_id[id(leaf.tensor)]
        if leaf.fallback_name is not None:
            self._names.pop(leaf.fallback_name, None)
