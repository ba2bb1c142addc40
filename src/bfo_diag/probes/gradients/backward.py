"""What a backward pass did: which leaves autograd's graph leads to, and which really got a gradient."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from bfo_diag import frames
from bfo_diag.probes.gradients.flow import Missing
from bfo_diag.probes.gradients.leaves import Leaf, Leaves
from bfo_diag.probes.gradients.values import version_of


def graph_leaves(roots: Iterable[torch.Tensor], leaves: Leaves) -> dict[int, type | None]:
    """Walk autograd's graph; return the index of each leaf it leads to, with the last custom Function before it."""
    found: dict[int, type | None] = {}
    stack: list[tuple[Any, type | None]] = []
    for root in roots:
        if root.grad_fn is not None:
            stack.append((root.grad_fn, None))
        elif root.requires_grad and (leaf := leaves.find(root)) is not None:
            found[leaf.index] = None
    visited: set[Any] = set()
    while stack:
        node, function = stack.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        variable = getattr(node, "variable", None)
        if isinstance(variable, torch.Tensor) and variable.is_leaf:
            leaf = leaves.add(variable)
            if leaf is not None:
                found[leaf.index] = function
        function = getattr(node, "_forward_cls", None) or function
        stack.extend((parent, function) for parent, _ in node.next_functions)
    return found


def bits(indices: Iterable[int]) -> int:
    """Return a set of leaves from their indices."""
    found = 0
    for index in indices:
        found |= 1 << index
    return found


class GradientChanges:
    """Compares every leaf's `.grad` before and after a backward pass."""

    def __init__(self, leaves: Leaves) -> None:
        self._leaves = leaves
        self._before = {leaf.index: version_of(leaf.tensor.grad) for leaf in self._leaf_tensors()}

    def _leaf_tensors(self) -> list[Leaf]:
        return [leaf for leaf in self._leaves.all() if leaf.tensor.is_leaf]

    def reached(self, in_graph: Iterable[int]) -> int:
        """Return the leaves that got a gradient.

        The graph alone does not say it: a checkpoint's inner backward fills gradients that it does not lead to, and
        a custom Function may return None. Where a hook of the user's takes the gradient at once (an optimizer in the
        backward pass), the graph has to do.
        """
        changed = bits(
            leaf.index
            for leaf in self._leaf_tensors()
            if version_of(leaf.tensor.grad) not in (None, self._before.get(leaf.index))
        )
        hooked = bits(
            leaf.index
            for leaf in self._leaves.members(bits(in_graph))
            if getattr(leaf.tensor, "_post_accumulate_grad_hooks", None)
        )
        return changed | hooked


def why_missing(function: type | None, *, inputs_given: bool) -> Missing:
    """Return why a leaf that the graph leads to got nothing."""
    if inputs_given:
        return Missing("not_asked")
    if function is not None:
        return Missing("function", f"{function.__name__}.backward", frames.of_function(backward_of(function)))
    return Missing("unknown")


def backward_of(function: type) -> object:
    """Return the plain function behind a Function's static `backward`."""
    backward = getattr(function, "backward", None)
    return getattr(backward, "__wrapped__", backward)


def inputs_of(args: Sequence[Any], kwargs: dict[str, Any], *, position: int) -> Any:
    """Return the `inputs` argument of `backward` or `autograd.grad`, None where it was left out."""
    return args[position] if len(args) > position else kwargs.get("inputs")
