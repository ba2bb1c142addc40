"""One call of a compiled target, while it runs: which graphs ran in it, and what fell back to eager.

Graphs find the call that they run in here, by thread; nothing is decided here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LONGEST = 240
"""Characters of a reason that are kept."""


@dataclass(frozen=True, slots=True)
class Fallback:
    """Something that was to run compiled and ran in eager."""

    where: str
    """compile: a backend refused a graph; forward, backward: a graph failed on its first run; dynamo: a frame."""
    error: str
    """The type of the exception and its message, shortened."""
    shapes: tuple[str, ...] = ()
    """The inputs of the graph that are no parameters."""
    call: int = 0
    """The call of the target in which it happened, from 1; 0: while it was proved."""


class Call:
    """What is noted while one call runs. `graphs` holds the number of each graph, once for each run."""

    __slots__ = ("fallbacks", "graphs", "on_backward")

    def __init__(self, on_backward: Callable[[Any], None] | None = None) -> None:
        self.graphs: list[int] = []
        self.fallbacks: list[tuple[str, Exception, tuple[str, ...]]] = []
        self.on_backward = on_backward
        """Called with the gradient when a backward pass comes to an output of a graph; while proving alone."""

    def watch_backward(self, outputs: Any) -> None:
        """Have `on_backward` called when a backward pass reaches these outputs of a graph."""
        for output in outputs:
            if self.on_backward is not None and getattr(output, "grad_fn", None) is not None:
                output.register_hook(self.on_backward)


class Running(threading.local):
    """The innermost call of a target in this thread."""

    call: Call | None = None


running = Running()


def described(error: BaseException) -> str:
    """Return the type of an exception and what it says, shortened."""
    text = shortened(str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def shortened(text: str) -> str:
    """Return the first line that says something; of dynamo's long texts also the explanation."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return ""
    explained = next((line for line in lines[1:] if line.startswith("Explanation: ")), "")
    shown = lines[0] + (f" ({explained.removeprefix('Explanation: ')})" if explained else "")
    return shown if len(shown) <= LONGEST else shown[:LONGEST] + " ..."
