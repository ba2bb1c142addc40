"""Whose code a stack frame is: the user's, a library's, torch's, Python's or ours; and the place it stands at.

Torch's and our own frames are never shown as the place of a fault: the line that called them is.
"""

from __future__ import annotations

import linecache
import sys
import sysconfig
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from types import CodeType, FrameType, TracebackType

from bfo_diag.records import Place


class Owner(Enum):
    """Whose code it is."""

    USER = "user"
    LIBRARY = "library"
    TORCH = "torch"
    PYTHON = "python"
    OURS = "ours"


_OUR_FOLDER = Path(__file__).resolve().parent
_OUR_CASES = _OUR_FOLDER / "cases"
_NO_CASE = "optimizer_step.py"
"""It calls somebody else's optimizer: what breaks there is not the case's."""
_OUR_LIBRARY = "pytorch_bfo_optimizer"
_PYTHON_FOLDERS = tuple(
    Path(folder).resolve() for name in ("stdlib", "platstdlib") if (folder := sysconfig.get_path(name)) is not None
)
_LONGEST_SEARCHED = 1000
_user_roots: list[Path] = []


def claim_for_user(root: Path) -> None:
    """Count what is below `root` as the user's, also where it is installed (a target given as `pkg.mod:name`)."""
    if root.resolve() not in _user_roots:
        _user_roots.append(root.resolve())
        owner_of_file.cache_clear()


@cache
def owner_of_file(filename: str) -> Owner:
    """Return whose file it is, by where it lies."""
    if filename.startswith("<frozen"):
        return Owner.PYTHON
    path = Path(filename)
    if not path.is_absolute():
        return Owner.USER if not filename.startswith("<") else Owner.LIBRARY
    path = path.resolve()
    parts = path.parts
    in_cases = path.is_relative_to(_OUR_CASES) and path.name != _NO_CASE
    if path.is_relative_to(_OUR_FOLDER) and not in_cases:
        return Owner.OURS
    after = _below_site_packages(parts)
    if after[:1] in (("torch",), ("functorch",)):
        return Owner.TORCH
    if any(_claims(root, path) for root in _user_roots) or path.is_relative_to(_OUR_CASES):
        return Owner.USER
    if after or _OUR_LIBRARY in parts:
        return Owner.LIBRARY
    if any(path.is_relative_to(folder) for folder in _PYTHON_FOLDERS):
        return Owner.PYTHON
    return Owner.USER


def _claims(root: Path, path: Path) -> bool:
    """Whether a file is the user's by lying below `root`: what is installed below it (`.venv`) is not."""
    return path.is_relative_to(root) and not _below_site_packages(path.relative_to(root).parts)


def _below_site_packages(parts: tuple[str, ...]) -> tuple[str, ...]:
    folders = [index for index, part in enumerate(parts) if part in ("site-packages", "dist-packages")]
    return parts[folders[-1] + 1 :] if folders else ()


@dataclass(frozen=True)
class Spot:
    """One source line in a stack."""

    file: str
    line: int
    function: str
    owner: Owner

    @property
    def source(self) -> str:
        """The text of the line, read when it is shown; empty where there is none."""
        return linecache.getline(self.file, self.line).strip()

    def place(self, *, step: int | None = None, parameter: str | None = None) -> Place:
        """Return the spot as a `Place` of the record."""
        return Place(
            file=self.file,
            line=self.line,
            source=self.source or None,
            function=self.function,
            step=step,
            parameter=parameter,
        )


def _spot(code: CodeType, line: int | None) -> Spot:
    name = getattr(code, "co_qualname", code.co_name)
    return Spot(code.co_filename, line or 0, name, owner_of_file(code.co_filename))


def here(depth: int = 1, *, limit: int = 8) -> tuple[Spot, ...]:
    """Return the spots of the user's and of libraries' code that led here, innermost first."""
    return _below(sys._getframe(depth), limit)


def _below(frame: FrameType | None, limit: int) -> tuple[Spot, ...]:
    found: list[Spot] = []
    while frame is not None and len(found) < limit:
        if owner_of_file(frame.f_code.co_filename) in (Owner.USER, Owner.LIBRARY):
            found.append(_spot(frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return tuple(found)


def beyond(file: str, function: str) -> tuple[Spot, ...] | None:
    """Return where a function of torch was called from, if it is on the stack: `here()` as it was outside of it.

    `file` is the end of its path, with slashes.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == function and code.co_filename.replace("\\", "/").endswith(file):
            return _below(frame.f_back, 8)
        frame = frame.f_back
    return None


def inside(folder: str, function: str) -> bool:
    """Whether a function of that name, in a file of that folder of torch, is on the stack."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == function and folder in frame.f_code.co_filename.replace("\\", "/"):
            return True
        frame = frame.f_back
    return False


def is_our_library(stack: tuple[Spot, ...]) -> bool:
    """Whether the innermost of these lines is one of the optimizers that come with the tool."""
    return bool(stack) and _OUR_LIBRARY in Path(stack[0].file).parts


def constants() -> tuple[object, ...]:
    """Return the constants in the code of the innermost line that is not torch's or ours."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if owner_of_file(frame.f_code.co_filename) in (Owner.USER, Owner.LIBRARY):
            return frame.f_code.co_consts
        frame = frame.f_back
    return ()


def variable_name(value: object) -> str | None:
    """Return the name under which the user's code on the stack holds `value` (a variable, or an item of one)."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if owner_of_file(frame.f_code.co_filename) is Owner.USER:
            for name, held in (*frame.f_locals.items(), *frame.f_globals.items()):
                if held is value:
                    return name
                if isinstance(held, (list, tuple)) and len(held) <= _LONGEST_SEARCHED:
                    for index, item in enumerate(held):
                        if item is value:
                            return f"{name}[{index}]"
                elif isinstance(held, dict) and len(held) <= _LONGEST_SEARCHED and name != "__builtins__":
                    for key, item in held.items():
                        if item is value:
                            return f"{name}[{key!r}]"
        frame = frame.f_back
    return None


def innermost(stack: tuple[Spot, ...]) -> Spot | None:
    """Return the user's own innermost line, else a library's."""
    return next((spot for spot in stack if spot.owner is Owner.USER), stack[0] if stack else None)


def of_function(function: object) -> Spot | None:
    """Return the line at which a Python function is defined (its `def`, not its decorators)."""
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        return None
    first = code.co_firstlineno
    lines = (linecache.getline(code.co_filename, number).strip() for number in range(first, first + 20))
    offset = next((index for index, text in enumerate(lines) if text.startswith(("def ", "async def "))), 0)
    return _spot(code, first + offset)


def of_traceback(trace: TracebackType | None) -> tuple[Spot, ...]:
    """Return all spots of a traceback, innermost first."""
    spots: list[Spot] = []
    while trace is not None:
        spots.append(_spot(trace.tb_frame.f_code, trace.tb_lineno))
        trace = trace.tb_next
    return tuple(reversed(spots))
