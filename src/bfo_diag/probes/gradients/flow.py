"""What the trace notes of one step: the history of each value, and each backward pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from bfo_diag import frames

Reason = Literal[
    "detach",
    "data",
    "item",
    "numpy",
    "tensor",
    "integer",
    "no_grad",
    "inference_mode",
    "inplace",
    "no_derivative",
    "leaf",
    "function",
    "checkpoint",
    "sample",
]
"""Why an operation cut a gradient off; the catalogue has a code GRAD-CUT-... for each."""


class Flow:
    """One operation's part in a value: where it came from, which leaves it reads, which of them it lost."""

    __slots__ = ("candidates", "grad_mode_spot", "lost", "operation", "parents", "reads", "reason", "stack")

    def __init__(self, operation: str, parents: tuple[Flow, ...], reads: int) -> None:
        self.operation = operation
        self.parents = parents
        self.reads = reads
        self.lost = 0
        """Leaves that autograd reached from the inputs and does not from the output."""
        self.reason: Reason | None = None
        self.stack: tuple[frames.Spot, ...] = ()
        self.grad_mode_spot: frames.Spot | None = None
        self.candidates = 0
        """Where the value was out of torch in between, and the parents are a guess: how many they are; else 0."""

    @classmethod
    def joined(cls, operation: str, parents: tuple[Flow, ...], *, candidates: int) -> Flow:
        """Return a flow that reads what its parents read."""
        reads = 0
        for parent in parents:
            reads |= parent.reads
        flow = cls(operation, parents, reads)
        flow.candidates = candidates
        return flow

    def cut_off(self, spot_stack: tuple[frames.Spot, ...], reason: Reason, lost: int) -> None:
        """Note that this operation lost leaves, and where."""
        self.stack, self.reason, self.lost = spot_stack, reason, lost


@dataclass
class Backward:
    """One backward pass: what it started from and which leaves got a gradient of it."""

    spot: frames.Spot | None
    reads: int
    flows: tuple[Flow, ...]
    loss: float | None
    requires_grad: bool
    create_graph: bool = False
    reached: int = 0
    finished: bool = False


@dataclass(frozen=True)
class Missing:
    """Why a leaf got no gradient though autograd's graph leads to it."""

    reason: str
    """`function` (a custom Function returned None), `not_asked` (it was not among the inputs) or `unknown`."""
    name: str = ""
    spot: frames.Spot | None = None


@dataclass
class StepTrace:
    """What one step did; the trace begins a fresh one for each."""

    backwards: list[Backward] = field(default_factory=list)
    missing: dict[int, Missing] = field(default_factory=dict)
    assigned: int = 0
    """Leaves whose `.grad` the step itself set."""
    functional: bool = False
    """Whether torch.func took gradients, which the trace does not follow."""
    scaled: bool = False
    """Whether a GradScaler scaled the loss: gradients are scaled until its optimizer steps."""
    optimizer_steps: int = 0
    idle_steps: int = 0
    """Those of them whose learning rate was 0 in every group."""
    gradients_dropped: bool = False
    """Whether the target set a `.grad` to None."""
    fresh: int = 0
    """Leaves that got a gradient since the optimizer that holds them last stepped."""
    cleared: int = 0
    """Leaves whose gradient was gone when their optimizer stepped."""
    zero_derivative: list[Flow] = field(default_factory=list)
    failed_write: tuple[str, tuple[frames.Spot, ...], int] | None = None
    operations: int = 0

    @property
    def reached(self) -> int:
        """The leaves that got a gradient, however."""
        found = self.assigned
        for backward in self.backwards:
            found |= backward.reached
        return found
