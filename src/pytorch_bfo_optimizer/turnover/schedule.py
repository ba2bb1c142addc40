"""When neurons turn over: every so many steps, a few at a time all along, once, or never."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from pytorch_bfo_optimizer.state import require_count, require_number


@runtime_checkable
class Schedule(Protocol):
    """What a `TurnoverManager` asks after each optimizer step."""

    @property
    def share(self) -> float | None:
        """Share of the eligible neurons that is owed at a step that is due, adding up until it makes a whole neuron.

        None: the manager's `fraction` of the width turns over, at least one neuron.
        """

    def is_due(self, step: int) -> bool:
        """Whether neurons may turn over after the `step`-th optimizer step, counted from 1."""
        raise NotImplementedError(f"{type(self).__name__} has no is_due(step)")


@dataclass(frozen=True)
class Every:
    """Every `steps` optimizer steps."""

    steps: int
    share = None

    def __post_init__(self) -> None:
        """Check the steps.

        Raises:
            HyperparameterError: no integer of at least 1.
        """
        require_count("Every.steps", self.steps, least=1, mend="100 is every hundredth step")

    def is_due(self, step: int) -> bool:
        """Whether `step` is a multiple."""
        return step % self.steps == 0


@dataclass(frozen=True)
class Continuous:
    """A share `rate` of the eligible neurons a step, which adds up to whole ones: 0.001 of 50 is one in 20 steps.

    The replacement rate of continual backpropagation (Dohare et al. 2024, doi:10.1038/s41586-024-07711-7). With
    `gather` neurons turn over at every so many steps only: those that are born at the same step share a step count of
    their own in Adam, which costs time at each step while they are young.
    """

    rate: float
    gather: int = 1

    def __post_init__(self) -> None:
        """Check both.

        Raises:
            HyperparameterError: a rate that is not in (0, 1], or no integer of at least 1.
        """
        require_number("Continuous.rate", self.rate, low=0, high=1, open_low=True, mend="1e-4 a step is usual")
        require_count("Continuous.gather", self.gather, least=1, mend="10 is every tenth step")

    @property
    def share(self) -> float:
        """What is owed since the last step that was due."""
        return self.rate * self.gather

    def is_due(self, step: int) -> bool:
        """Whether `step` is a multiple of `gather`."""
        return step % self.gather == 0


@dataclass(frozen=True)
class Once:
    """After the `step`-th optimizer step, and never again."""

    step: int
    share = None

    def __post_init__(self) -> None:
        """Check the step.

        Raises:
            HyperparameterError: no integer of at least 1.
        """
        require_count("Once.step", self.step, least=1, mend="1 is after the first optimizer step")

    def is_due(self, step: int) -> bool:
        """Whether this is the step."""
        return step == self.step


@dataclass(frozen=True)
class Never:
    """Not at all: the control. A manager with it hooks nothing."""

    share = None

    def is_due(self, step: int) -> bool:
        """Never."""
        return False
