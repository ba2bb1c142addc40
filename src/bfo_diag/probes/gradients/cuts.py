"""From the trace of one step to facts: which leaf has no gradient, why, and which operation cut it off."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from bfo_diag import frames
from bfo_diag.probes.gradients.flow import Flow, Reason, StepTrace
from bfo_diag.probes.gradients.leaves import Leaf
from bfo_diag.probes.gradients.trace import Trace
from bfo_diag.records import Observation

_AFTER_EXIT = frozenset({"detach", "data", "no_grad", "inference_mode"})


@dataclass
class Cut:
    """An operation that a gradient does not pass, and whom it cut off."""

    spot: frames.Spot
    op: str
    reason: Reason
    stack: tuple[frames.Spot, ...]
    parameters: list[str] = field(default_factory=list)
    candidates: int = 0
    """0 where it is certain; else among how many ways out of torch it was guessed."""
    grad_mode_spot: frames.Spot | None = None
    left_torch: frames.Spot | None = None

    def observation(self, step: int) -> Observation:
        """Return the fact for the log."""
        inner = self.stack[0] if self.stack else self.spot
        return Observation(
            "cut",
            {
                "op": self.op,
                "reason": self.reason,
                "parameters": self.parameters,
                "guessed": self.candidates > 0,
                "candidates": self.candidates,
                "grad_mode_at": _at(self.grad_mode_spot),
                "left_torch_at": _at(self.left_torch),
                "library_at": _at(inner) if inner.owner is frames.Owner.LIBRARY and inner != self.spot else None,
                "called_from": [f"{s.file}:{s.line} in {s.function}" for s in self.stack if s != self.spot],
            },
            self.spot.place(step=step),
        )


def _at(spot: frames.Spot | None) -> str | None:
    return f"{spot.file}:{spot.line}" if spot is not None else None


def find_cuts(flows: Iterable[Flow], bit: int) -> Iterator[tuple[Flow, Flow | None, int]]:
    """Yield `(flow that lost the leaf, exit from torch after it, candidates)`, going back from a loss.

    Each way back ends at the operation nearest to the loss that autograd still reached the leaf from.
    """
    stack: list[tuple[Flow, Flow | None, int]] = [(flow, None, flow.candidates) for flow in flows]
    visited: set[int] = set()
    while stack:
        flow, left, candidates = stack.pop()
        if id(flow) in visited or not flow.reads & bit:
            continue
        visited.add(id(flow))
        if flow.lost & bit:
            yield flow, left, candidates
            continue
        if flow.reason in ("item", "numpy"):
            left = flow
        stack.extend((parent, left, max(candidates, flow.candidates)) for parent in flow.parents)


class StepAnalysis:
    """What one step of the trace means for each leaf."""

    def __init__(self, trace: Trace, *, returned: object, raised: bool, timed_out: bool) -> None:
        self._step: StepTrace = trace.step
        self._exits = trace.lineage.exits.flows
        self._unfinished = raised or timed_out
        backwards = self._step.backwards
        self._losses = [flow for backward in backwards for flow in backward.flows] or list(
            trace.lineage.flow_of(returned)
        )
        self.failed_backward = bool(backwards) and not backwards[-1].finished and raised
        self.reached = self._step.reached
        self._reads = 0
        for flow in self._losses:
            self._reads |= flow.reads
        self._cuts: dict[tuple[str, int, str, Reason], Cut] = {}
        self.status = {leaf.index: self._status(leaf) for leaf in trace.leaves.reported()}

    @property
    def cuts(self) -> list[Cut]:
        """The cuts, certain ones first."""
        return sorted(self._cuts.values(), key=lambda cut: (cut.candidates, cut.spot.file, cut.spot.line))

    @property
    def judged(self) -> bool:
        """Whether the step got far enough to say of a leaf that it has no gradient."""
        return bool(self._step.backwards) or not self._unfinished

    def _status(self, leaf: Leaf) -> str:
        if leaf.bit & self.reached:
            return "gradient"
        if not leaf.tensor.requires_grad:
            return "frozen"
        missing = self._step.missing.get(leaf.index)
        if missing is not None:
            if missing.spot is not None:
                self._add(Cut(missing.spot, missing.name, "function", (missing.spot,)), leaf)
            return "cut" if missing.spot is not None else missing.reason
        if self._written_in_place(leaf):
            return "cut"
        if self._step.functional or not self.judged:
            return "not_measured"
        if self._reads & leaf.bit and self._cut_off(leaf, self._losses):
            return "cut"
        # A loss of which nothing is known: what left torch before is where it came from.
        if not self._reads and self._cut_off(leaf, self._exits, least=1):
            return "cut"
        if self._unfinished and not self.failed_backward:
            return "not_measured"  # another backward pass may have been to come
        if not self._step.backwards:
            return "no_backward"
        if self._reads & leaf.bit:
            return "unknown"
        return "dropped" if leaf.used_at is not None else "unused"

    def _written_in_place(self, leaf: Leaf) -> bool:
        if self._step.failed_write is None:
            return False
        name, stack, reads = self._step.failed_write
        spot = frames.innermost(stack)
        if not reads & leaf.bit or spot is None:
            return False
        self._add(Cut(spot, name, "inplace", stack), leaf)
        return True

    def left_torch(self, leaf: Leaf) -> dict[str, Any] | None:
        """Return the operation by which the leaf's value left torch in this step, if it did."""
        for flow in self._exits:
            spot = frames.innermost(flow.stack)
            if flow.reads & leaf.bit and spot is not None:
                return {"file": spot.file, "line": spot.line, "op": flow.operation, "source": spot.source}
        return None

    def _cut_off(self, leaf: Leaf, flows: list[Flow], *, least: int = 0) -> bool:
        found = list(find_cuts(flows, leaf.bit))
        certain = [entry for entry in found if not entry[2]]
        for flow, left, candidates in certain or found:
            spot = frames.innermost(flow.stack)
            if spot is None or flow.reason is None:
                continue
            op, reason, left_spot = flow.operation, flow.reason, None
            if left is not None and reason in _AFTER_EXIT:
                left_spot = frames.innermost(left.stack)
                if left_spot is not None and (left_spot.file, left_spot.line) == (spot.file, spot.line):
                    # `x.detach().numpy()`: the way out of torch is what has to go.
                    op, reason, left_spot = left.operation, left.reason or reason, None
            self._add(
                Cut(
                    spot=spot,
                    op=op,
                    reason=reason,
                    stack=flow.stack,
                    candidates=max(candidates, least),
                    grad_mode_spot=flow.grad_mode_spot,
                    left_torch=left_spot,
                ),
                leaf,
            )
        return bool(found)

    def _add(self, cut: Cut, leaf: Leaf) -> None:
        kept = self._cuts.setdefault((cut.spot.file, cut.spot.line, cut.op, cut.reason), cut)
        kept.candidates = min(kept.candidates, cut.candidates)
        kept.parameters.append(leaf.shown)

    def zero_derivatives(self, leaves: Iterable[Leaf]) -> Iterator[Observation]:
        """Yield the operations with a zero derivative (round, sign, ...) that these leaves' values passed."""
        for flow in self._step.zero_derivative:
            spot = frames.innermost(flow.stack)
            passed = [leaf.shown for leaf in leaves if flow.reads & leaf.bit]
            if spot is not None and passed:
                yield Observation("zero_derivative", {"op": flow.operation, "parameters": passed}, spot.place())


def leaf_values(leaf: Leaf, status: str, *, in_optimizer: bool | None, left: dict[str, Any] | None) -> dict[str, Any]:
    """Return the facts of one leaf for its `parameter` observation."""
    return {
        "status": status,
        "shape": list(leaf.tensor.shape),
        "dtype": str(leaf.tensor.dtype).removeprefix("torch."),
        "requires_grad": leaf.tensor.requires_grad,
        "in_optimizer": in_optimizer,
        "stale": leaf.stale,
        "used_at": _at(leaf.used_at),
        "frozen_at": _at(leaf.frozen_at),
        "left_torch": left if status == "dropped" else None,
        **(leaf.stats or {} if status == "gradient" else {}),
    }
