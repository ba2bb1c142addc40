"""From the trace of one step to facts: which leaf has no gradient, why, and which operation cut it off."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from bfo_diag import frames
from bfo_diag.probes.gradients.flow import Flow, StepTrace
from bfo_diag.probes.gradients.leaves import Leaf
from bfo_diag.probes.gradients.trace import Trace
from bfo_diag.records import Observation

_AFTER_EXIT = frozenset({"detach", "data", "no_grad", "inference_mode"})


@dataclass
class Cut:
    """An operation that a gradient does not pass, and whom it cut off."""

    spot: frames.Spot
    op: str
    reason: str
    stack: tuple[frames.Spot, ...]
    parameters: list[str] = field(default_factory=list)
    guessed: bool = False
    grad_mode_spot: frames.Spot | None = None
    left_torch: frames.Spot | None = None

    def observation(self, step: int) -> Observation:
        """Return the fact for the log."""
        return Observation(
            "cut",
            {
                "op": self.op,
                "reason": self.reason,
                "parameters": self.parameters,
                "guessed": self.guessed,
                "grad_mode_at": _at(self.grad_mode_spot),
                "left_torch_at": _at(self.left_torch),
                "called_from": [f"{s.file}:{s.line} in {s.function}" for s in self.stack if s != self.spot],
            },
            self.spot.place(step=step),
        )


def _at(spot: frames.Spot | None) -> str | None:
    return f"{spot.file}:{spot.line}" if spot is not None else None


def find_cuts(flows: Iterable[Flow], bit: int) -> Iterator[tuple[Flow, Flow | None, bool]]:
    """Yield `(flow that lost the leaf, exit from torch after it, guessed)`, going back from a loss.

    Each way back ends at the operation nearest to the loss that autograd still reached the leaf from.
    """
    stack: list[tuple[Flow, Flow | None, bool]] = [(flow, None, flow.guessed) for flow in flows]
    visited: set[int] = set()
    while stack:
        flow, left, guessed = stack.pop()
        if id(flow) in visited or not flow.reads & bit:
            continue
        visited.add(id(flow))
        if flow.lost & bit:
            yield flow, left, guessed
            continue
        if flow.reason in ("item", "numpy"):
            left = flow
        stack.extend((parent, left, guessed or flow.guessed) for parent in flow.parents)


class StepAnalysis:
    """What one step of the trace means for each leaf."""

    def __init__(self, trace: Trace, *, returned: object, raised: bool, timed_out: bool) -> None:
        self._trace = trace
        self._step: StepTrace = trace.step
        self._unfinished = raised or timed_out
        backwards = self._step.backwards
        self._losses = [flow for backward in backwards for flow in backward.flows] or list(trace.flow_of(returned))
        self.failed_backward = bool(backwards) and not backwards[-1].finished and raised
        self.reached = 0
        for backward in backwards:
            self.reached |= backward.reached
        self._reads = 0
        for flow in self._losses:
            self._reads |= flow.reads
        self._cuts: dict[tuple[str, int, str, str], Cut] = {}
        self.status = {leaf.index: self._status(leaf) for leaf in trace.leaves.all() if leaf.concerned}

    @property
    def cuts(self) -> list[Cut]:
        """The cuts, certain ones first."""
        return sorted(self._cuts.values(), key=lambda cut: (cut.guessed, cut.spot.file, cut.spot.line))

    @property
    def judged(self) -> bool:
        """Whether the step got far enough to say of a leaf that it has no gradient."""
        return bool(self._step.backwards) or not self._unfinished

    def _status(self, leaf: Leaf) -> str:
        if leaf.bit & self.reached:
            return "gradient"
        if not leaf.tensor.requires_grad:
            return "frozen"
        write = self._step.failed_write
        if write is not None:
            name, stack, reads = write
            spot = frames.innermost(stack)
            if reads & leaf.bit and spot is not None:
                self._add(Cut(spot, name, "inplace", stack), leaf)
                return "cut"
        if not self.judged:
            return "not_measured"
        if self._reads & leaf.bit and self._cut_off(leaf, self._losses):
            return "cut"
        if self._step.exits and not self._reads & leaf.bit and self._cut_off(leaf, self._step.exits, guessed=True):
            return "cut"
        if self._unfinished and not self.failed_backward:
            return "not_measured"  # another backward pass may have been to come
        if not self._losses and not self._step.backwards:
            return "no_backward"
        if self._reads & leaf.bit:
            return "unknown"
        return "dropped" if leaf.used_at is not None else "unused"

    def _cut_off(self, leaf: Leaf, flows: list[Flow], *, guessed: bool = False) -> bool:
        found = list(find_cuts(flows, leaf.bit))
        certain = [entry for entry in found if not entry[2]]
        for flow, left, guess in certain or found:
            spot = frames.innermost(flow.stack)
            if spot is None:
                continue
            op, reason, left_spot = flow.operation, flow.reason, None
            if left is not None and reason in _AFTER_EXIT:
                left_spot = frames.innermost(left.stack)
                if left_spot is not None and (left_spot.file, left_spot.line) == (spot.file, spot.line):
                    # `x.detach().numpy()`: the way out of torch is what has to go.
                    op, reason, left_spot = left.operation, left.reason, None
            self._add(
                Cut(
                    spot=spot,
                    op=op,
                    reason=reason,
                    stack=flow.stack,
                    guessed=guess or guessed,
                    grad_mode_spot=flow.grad_mode_spot,
                    left_torch=left_spot,
                ),
                leaf,
            )
        return bool(found)

    def _add(self, cut: Cut, leaf: Leaf) -> None:
        kept = self._cuts.setdefault((cut.spot.file, cut.spot.line, cut.op, cut.reason), cut)
        kept.guessed = kept.guessed and cut.guessed
        kept.parameters.append(leaf.shown)

    def zero_derivatives(self, leaves: Iterable[Leaf]) -> Iterator[Observation]:
        """Yield the operations with a zero derivative (round, sign, ...) that these leaves' values passed."""
        for flow in self._step.zero_derivative:
            spot = frames.innermost(flow.stack)
            passed = [leaf.shown for leaf in leaves if flow.reads & leaf.bit]
            if spot is not None and passed:
                yield Observation("zero_derivative", {"op": flow.operation, "parameters": passed}, spot.place())


def leaf_values(leaf: Leaf, status: str, *, in_optimizer: bool | None) -> dict[str, Any]:
    """Return the facts of one leaf for its `parameter` observation."""
    return {
        "status": status,
        "shape": list(leaf.tensor.shape),
        "dtype": str(leaf.tensor.dtype).removeprefix("torch."),
        "requires_grad": leaf.tensor.requires_grad,
        "in_optimizer": in_optimizer,
        "used_at": _at(leaf.used_at),
        "frozen_at": _at(leaf.frozen_at),
        **(leaf.stats or {} if status == "gradient" else {}),
    }
