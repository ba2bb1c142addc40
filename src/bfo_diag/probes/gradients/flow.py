"""What the trace notes of one step: the history of each value, and each backward pass."""

from __future__ import annotations

from dataclasses import dataclass, field

from bfo_diag import frames


class Flow:
    """One operation's part in a value: where it came from, which parameters it reads, which it lost."""

    __slots__ = ("grad_mode_spot", "guessed", "lost", "operation", "parents", "reads", "reason", "stack")

    def __init__(self, operation: str, parents: tuple[Flow, ...], reads: int) -> None:
        self.operation = operation
        self.parents = parents
        self.reads = reads
        self.lost = 0
        self.reason = ""
        self.stack: tuple[frames.Spot, ...] = ()
        self.grad_mode_spot: frames.Spot | None = None
        self.guessed = False


@dataclass
class Backward:
    """One backward pass: what it started from and which leaves it reached."""

    spot: frames.Spot | None
    reads: int
    flows: tuple[Flow, ...]
    loss: float | None
    requires_grad: bool
    create_graph: bool = False
    reached: int = 0
    finished: bool = False


@dataclass
class StepTrace:
    """What one step did; the trace begins a fresh one for each."""

    backwards: list[Backward] = field(default_factory=list)
    exits: list[Flow] = field(default_factory=list)
    exit_values: dict[float, Flow] = field(default_factory=dict)
    exit_pointers: dict[int, Flow] = field(default_factory=dict)
    zero_derivative: list[Flow] = field(default_factory=list)
    failed_write: tuple[str, tuple[frames.Spot, ...], int] | None = None
    operations: int = 0
