"""The one place that catches whatever a target raises, and turns it into values to record.

Everything else in the project lets exceptions pass. A `SystemExit` of the target is caught too: a target that
calls `sys.exit` must not end the tool. An error of our own (`DiagError`) passes through.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from bfo_diag import frames
from bfo_diag.errors import DiagError
from bfo_diag.records import Observation, Place

T = TypeVar("T")
_LONGEST_MESSAGE = 4000


class TimeLimitReached(BaseException):
    """The target has to stop: its time is up, or the person pressed Ctrl-C. No `except Exception` swallows it."""

    def __init__(self, stack: tuple[frames.Spot, ...] = ()) -> None:
        super().__init__()
        self.stack = stack


@dataclass(frozen=True)
class Raised:
    """What the target raised, as text: nothing of the exception itself is kept alive."""

    type: str
    module: str
    message: str
    traceback: str
    stack: tuple[frames.Spot, ...]
    by_target: bool

    @property
    def spot(self) -> frames.Spot | None:
        """The innermost line of the user's code, else of a library's."""
        return frames.innermost(tuple(s for s in self.stack if s.owner in (frames.Owner.USER, frames.Owner.LIBRARY)))

    def observation(self, phase: str, *, step: int | None = None) -> Observation:
        """Return the fact for the log; `phase` says what the target was doing (load, make, step)."""
        spot = self.spot
        return Observation(
            "raised",
            {
                "phase": phase,
                "type": self.type,
                "message": self.message,
                "traceback": self.traceback,
                "by_target": self.by_target,
            },
            spot.place(step=step) if spot else None,
        )


@dataclass(frozen=True)
class Attempt(Generic[T]):
    """What came of calling the target: its value, or what it raised, or that its time was up."""

    value: T | None = None
    raised: Raised | None = None
    timed_out: bool = False
    stopped_at: frames.Spot | None = None
    """Where the target stood when its time was up."""

    @property
    def ok(self) -> bool:
        """Whether it returned."""
        return self.raised is None and not self.timed_out

    def observations(self, phase: str, *, step: int | None = None) -> Iterator[Observation]:
        """Yield the fact for the log where it did not return; `phase` says what the target was doing."""
        if self.timed_out:
            spot = self.stopped_at
            yield Observation("timed_out", {"phase": phase}, spot.place(step=step) if spot else Place(step=step))
        elif self.raised is not None:
            yield self.raised.observation(phase, step=step)


def attempt(function: Callable[[], T]) -> Attempt[T]:
    """Call the target's `function`, and return its value or what it raised.

    Raises:
        KeyboardInterrupt: as it comes.
        DiagError: what our own code refused on the way.
    """
    try:
        return Attempt(value=function())
    except DiagError:
        raise
    except TimeLimitReached as reached:
        return Attempt(timed_out=True, stopped_at=frames.innermost(reached.stack))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__module__.startswith("bfo_diag."):
            raise  # a signal of our own, which no target may swallow
        return Attempt(raised=describe(error))


_THROUGH = "call_through"


def call_through(function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
    """Call what the target called, from code of ours that stands in between: what it raises is the target's."""
    return function(*args, **kwargs)


def describe(error: BaseException) -> Raised:
    """Return what is worth keeping of `error`: its text, and its traceback without our own and torch's mode frames."""
    message = _text_of(error)
    if len(message) > _LONGEST_MESSAGE:
        message = message[:_LONGEST_MESSAGE] + f" ... ({len(message)} characters in all)"
    stack = frames.of_traceback(error.__traceback__)
    if isinstance(error, SyntaxError) and error.filename is not None:
        owner = frames.owner_of_file(error.filename)
        stack = (frames.Spot(error.filename, error.lineno or 1, "<module>", owner), *stack)
    not_the_users = (frames.Owner.OURS, frames.Owner.TORCH, frames.Owner.PYTHON)
    in_our_code = bool(stack) and stack[0].owner is frames.Owner.OURS and stack[0].function != _THROUGH
    return Raised(
        type=type(error).__name__,
        module=type(error).__module__,
        message=message,
        traceback=user_traceback(error),
        stack=stack,
        by_target=not in_our_code and any(s.owner not in not_the_users or s.function == _THROUGH for s in stack),
    )


def _text_of(error: BaseException) -> str:
    """Return what an exception says; one whose own `__str__` raises says nothing."""
    try:
        return f"sys.exit({error.code!r})" if isinstance(error, SystemExit) else str(error)
    except Exception as second:
        return f"(its message can't be had: __str__ raised {type(second).__name__})"


def user_traceback(error: BaseException) -> str:
    """Return the traceback as Python prints it, without our own frames and those of importlib."""
    whole = traceback.TracebackException.from_exception(error, lookup_lines=True, compact=True)
    chain: list[traceback.TracebackException] = [whole]
    while chain:
        part = chain.pop()
        kept = [
            frame
            for frame in part.stack
            if frames.owner_of_file(frame.filename) is not frames.Owner.OURS and "importlib" not in frame.filename
        ]
        part.stack = traceback.StackSummary.from_list(kept)
        chain.extend(other for other in (part.__cause__, part.__context__) if other is not None)
    return "".join(whole.format())
