"""What is known of each tensor: where its value came from, and which leaves autograd reaches from it.

Tensors are held weakly. Kept from step to step for values that outlive theirs; the exits belong to one step.
"""

from __future__ import annotations

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from bfo_diag import frames
from bfo_diag.losses import loss_in
from bfo_diag.probes.gradients.backward import bits, graph_leaves
from bfo_diag.probes.gradients.exits import Exits
from bfo_diag.probes.gradients.flow import Flow, Reason
from bfo_diag.probes.gradients.leaves import Leaves
from bfo_diag.probes.gradients.values import (
    data_pointer,
    has_history,
    is_leaf,
    is_wrapped,
    numbers_in,
    tensors_in,
    unwrapped,
)

FUNCTION_APPLY = ("torch/autograd/function.py", "apply")
"""The frame of torch inside which a custom Function's forward runs, without gradients."""


class Lineage:
    """The flow of each tensor, found or made up from what autograd and memory tell."""

    def __init__(self) -> None:
        self.leaves = Leaves()
        self.exits = Exits()
        self._flows = WeakTensorKeyDictionary()
        self._carried = WeakTensorKeyDictionary()
        self._alias = WeakTensorKeyDictionary()
        self._known = WeakTensorKeyDictionary()
        self._pending = WeakTensorKeyDictionary()
        self._made: dict[int, tuple[Flow, int]] = {}

    def begin_step(self) -> None:
        """Forget the exits of the last step, and shorten what outlives it to its cuts."""
        self.exits = Exits()
        self._made.clear()
        for leaf in self.leaves.all():
            # What was written into a parameter in an earlier step is its value now, and no part of this step.
            self._flows.pop(leaf.tensor, None)
            leaf.stats = leaf.used_at = None
        self.leaves.forget_transient()
        shortened: set[int] = set()
        for tensor, flow in list(self._flows.items()):
            if flow.candidates and not flow.lost:
                del self._flows[tensor]  # what was there before this step did not leave torch in it
            else:
                _keep_cuts_alone(flow, shortened)

    # What is noted

    def know(self, tensor: torch.Tensor) -> None:
        """Take `tensor` as of known origin, from no leaf: it can't have come from an exit."""
        self._known[tensor] = True
        if (pointer := data_pointer(tensor)) is not None:
            self._made.pop(pointer, None)

    def alias(self, output: torch.Tensor, source: torch.Tensor) -> None:
        """Note that `output` is `source` by another name, without its history (detach, .data)."""
        self._alias[output] = self.root(source)

    def is_alias(self, tensor: torch.Tensor) -> bool:
        """Whether writes to `tensor` change another one behind autograd's back."""
        return tensor in self._alias

    def hold_back(self, output: torch.Tensor, carried: int, stack: tuple[frames.Spot, ...], reason: Reason) -> None:
        """Note a value made in a custom Function's forward: whether it gets a graph is seen when it came out."""
        self._pending[output] = (carried, stack, reason)

    def arrived(self, output: torch.Tensor, flow: Flow, reaches: int, *, in_place: bool) -> None:
        """Note where `output` came from, and which leaves autograd reaches from it."""
        self._flows[output] = flow
        if in_place:
            self._flows[self.root(output)] = flow
        if (pointer := data_pointer(output)) is not None:
            self._made[pointer] = (flow, reaches)
        if reaches:
            self._carried[output] = reaches
        else:
            self._carried.pop(output, None)

    def registered(self, parameter: torch.nn.Parameter) -> None:
        """Note where a computed value becomes a parameter: `layer.weight = nn.Parameter(y)`."""
        if self.leaves.find(parameter) is None:
            flow = self._leaf_flow(parameter)
            if flow is not None and flow.lost:
                self._flows[parameter] = flow

    # What is asked

    def root(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the tensor whose memory this one shares, itself if it is no view or alias."""
        root: torch.Tensor = self._alias.get(tensor, tensor)
        return root if root._base is None else root._base

    def flow(self, tensor: torch.Tensor) -> Flow | None:
        """Return where the value came from; None where it comes from no leaf."""
        flow: Flow | None = self._flows.get(tensor)
        if flow is not None:
            return flow
        if is_wrapped(tensor):
            return self.flow(unwrapped(tensor))
        flow = self._flows.get(self.root(tensor))
        if flow is not None:
            return flow
        grad_leaf = tensor.requires_grad and is_leaf(tensor)
        if grad_leaf or isinstance(tensor, torch.nn.Parameter) or self.leaves.find(tensor) is not None:
            flow = self._leaf_flow(tensor)
        elif has_history(tensor):
            # Made out of sight (a custom Function, a checkpoint): autograd's own graph says what it reads.
            flow = Flow("unseen", (), bits(graph_leaves([tensor], self.leaves)))
        else:
            flow = self._reentered(tensor)
        if flow is not None:
            self._flows[tensor] = flow
        return flow

    def _leaf_flow(self, tensor: torch.Tensor) -> Flow | None:
        known = self.leaves.find(tensor)
        leaf = known or self.leaves.add(tensor)
        if leaf is None:
            return None
        if leaf.name is None and leaf.fallback_name is None:
            self.leaves.name_for_now(leaf, frames.variable_name(tensor))
        flow = Flow("leaf", (), leaf.bit)
        made = self._made.get(data_pointer(tensor) or 0) if known is None else None
        if made is not None:
            # `nn.Parameter(y)` and `Variable(y)` are out of sight: a new leaf in the memory of a computed value.
            source, carried = made
            flow = Flow("leaf", (source,), leaf.bit | source.reads)
            flow.cut_off(frames.here(4), "leaf", carried)
        return flow

    def _reentered(self, tensor: torch.Tensor) -> Flow | None:
        """Tie a tensor of unknown origin to the exits before it, if it can have come from them."""
        if tensor in self._known:
            return None
        self._known[tensor] = True
        if not self.exits.flows or not tensor.is_floating_point():
            return None
        certain = self.exits.of_memory(tensor)
        parents = (certain,) if certain is not None else self.exits.guess(tensor.numel())
        return Flow.joined("from_numpy", parents, candidates=len(parents) if certain is None else 0)

    def carries(self, tensor: torch.Tensor, flow: Flow | None) -> int:
        """Return the leaves that autograd reaches from `tensor`, as far as the trace can tell without a walk."""
        tensor = unwrapped(tensor)
        pending = self._pending.get(tensor)
        if pending is not None and not has_history(tensor):
            carried, stack, reason = pending
            if frames.beyond(*FUNCTION_APPLY) is not None:
                carried_in: int = carried
                return carried_in
            # It came out of a custom Function, or a reentrant checkpoint, without a graph.
            if flow is not None and not flow.lost:
                flow.operation = "checkpoint" if reason == "checkpoint" else "Function.apply"
                flow.cut_off(stack, reason, carried)
            return 0
        if is_leaf(tensor):
            return self.leaves.bit(tensor) if tensor.requires_grad else 0
        known: int | None = self._carried.get(tensor)
        # A graph that appeared out of sight: whatever the value reads, autograd may reach.
        return known or (flow.reads if flow is not None else 0)

    def flow_of(self, value: object) -> tuple[Flow, ...]:
        """Return where a returned loss came from: a tensor, or a number that left torch in this step."""
        loss = loss_in(value)
        found = tuple(flow for tensor in tensors_in(value if loss is None else loss) if (flow := self.flow(tensor)))
        if found or loss is not None:
            return found
        return self.exits.of_numbers(numbers_in(value)) or tuple(self.exits.flows)

    @staticmethod
    def viewed(output: torch.Tensor, args: tuple[object, ...]) -> list[torch.Tensor]:
        """Return the inputs whose memory `output` is a view of, where there are other inputs beside them."""
        base = output._base
        inputs = list(tensors_in(args)) if base is not None else []
        viewed = [tensor for tensor in inputs if tensor is base or tensor._base is base]
        return viewed if len(viewed) < len(inputs) else []


def _keep_cuts_alone(flow: Flow, done: set[int]) -> None:
    """Shorten the history of a value that outlives its step to the cuts in it, so that it does not grow for ever."""
    if id(flow) in done:
        return
    cuts: dict[int, Flow] = {}
    stack, visited = [*flow.parents], {id(flow)}
    while stack:
        parent = stack.pop()
        if id(parent) in visited:
            continue
        visited.add(id(parent))
        if parent.lost:
            cuts[id(parent)] = parent
        else:
            stack.extend(parent.parents)
    for cut in cuts.values():
        cut.parents = ()
        done.add(id(cut))
    flow.parents = () if flow.lost else tuple(cuts.values())
    done.add(id(flow))
