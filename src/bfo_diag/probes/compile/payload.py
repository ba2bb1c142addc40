"""Reads the texts that torch writes of a graph break, a recompile or an `Unsupported` error. Needs no torch.

The texts have no version: what is not understood is kept as it is, and the place (file:line) is all that is told.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

UNKNOWN = "GB-UNKNOWN"
_LINK = re.compile(r"https?://\S*?/gb/(gb\d+)\.html", re.IGNORECASE)
_FRAME = re.compile(r'^\s*File "(?P<file>.+?)", line (?P<line>\d+)(?:, in (?P<function>.+))?\s*$')
_PLACE = re.compile(r"^Graph break in user code at (?P<file>.+):(?P<line>\d+)\s*$", re.MULTILINE)
_WHILE = re.compile(r"^\*\*\* While handling this graph break, another graph break occurred: \*\*\*\s*$", re.MULTILINE)
_STACK = re.compile(r"^(User code traceback|from user code):\s*$", re.MULTILINE)
_END = re.compile(
    r"^(Stack variable source attribution|Traceback \(most recent|Set TORCHDYNAMO_VERBOSE).*$", re.MULTILINE
)
_RESUME = re.compile(r"torch_dynamo_resume_in_(?P<name>.+?)_at_\d+$")
_ITEM = r"(.*?)(?=^\s*(?:Hint|Developer debug context|For more details)|\Z)"
_NO_HELP = re.compile(r"please (report|file) an issue", re.IGNORECASE)
# What torch 2.6 called the breaks that have an id since; also for 2.8, which has ids and does not write them.
_OLD_REASONS = (
    (r"builtin: \w+|Failed to trace builtin operator", "GB0059", "Failed to trace builtin operator"),
    (r"Tensor\.backward", "GB0123", "Unsupported Tensor.backward() call"),
    (r"Tensor\.item", "GB0124", "Unsupported Tensor.item() call with capture_scalar_outputs=False"),
    (r"skip function graph_break in|_dynamo\.graph_break\(\)", "GB0025", "Call to `torch._dynamo.graph_break()`"),
    (r"inline in skipfiles|function marked as skipped", "GB0008", "Attempted to inline function marked as skipped"),
    (r"[Dd]ata[- ]dependent (control|jump|branch)|generic_jump", "GB0170", "Data-dependent branching"),
    (r"torch\._dynamo\.disable|compiler\.disable", "GB0098", "Skip calling `torch.compiler.disable()`d function"),
    (r"dynamic shape operator", "GB0036", "Dynamic shape operator"),
)


@dataclass(frozen=True)
class Frame:
    """One line of a stack in a payload, outermost first."""

    file: str
    line: int
    function: str
    source: str = ""


@dataclass(frozen=True)
class Break:
    """One graph break as torch tells it. `cascade` holds what broke only because of it: (code, type) each."""

    code: str
    type: str
    explanation: str = ""
    hints: tuple[str, ...] = ()
    context: str = ""
    url: str = ""
    cascade: tuple[tuple[str, str], ...] = ()
    frames: tuple[Frame, ...] = ()
    raw: str = field(default="", repr=False)


def plain_function(name: str) -> str:
    """Return the name as the user wrote it: dynamo's resume functions carry it inside theirs."""
    while (match := _RESUME.search(name)) is not None:
        name = match["name"]
    return name


def read_break(text: str, *, types: dict[str, str] | None = None) -> Break:
    """Read a payload of `dynamo_graph_break_reason`, or the message of an `Unsupported` error.

    `types` maps a type of torch's registry to its id, for a torch whose text holds no link.
    """
    whole = text
    place = _PLACE.search(text)
    stack = _STACK.search(text)
    body, rest = (text[: stack.start()], text[stack.end() :]) if stack else (text, "")
    body = _PLACE.sub("", body)
    ended = _END.search(body)
    body = body[: ended.start()] if ended else body
    reasons = _WHILE.split(body)
    parts = [_reason(part, types or {}) for part in reasons if part.strip()]
    frames = _frames(rest)
    if not frames and place is not None:
        frames = (Frame(place["file"], int(place["line"]), ""),)
    elif not frames:
        frames = _frames(text)
    if not parts:
        return Break(UNKNOWN, "unknown reason", frames=frames, raw=whole)
    first = parts[0]
    cascade = tuple((part["code"], part["type"]) for part in parts[1:])
    return Break(**first, cascade=cascade, frames=frames, raw=whole)


def _reason(text: str, types: dict[str, str]) -> dict[str, Any]:
    lines = text.strip().split("\n")
    kept: list[str] = []
    for line in lines:
        line = re.sub(r"^(Graph Break Reason|Reason):\s*(Unsupported:\s*)?", "", line)
        if re.match(r"^(Encountered graph break when attempting to|Failed to handle graph break gracefully)", line):
            continue
        kept.append(line)
    text = "\n".join(kept).strip("\n ")
    kind = next((line.strip().strip("'\"") for line in text.split("\n") if line.strip()), "unknown reason")
    link = _LINK.search(text)
    code = link[1].upper() if link else types.get(kind)
    if code is None:
        for pattern, known, name in _OLD_REASONS:
            if re.search(pattern, kind):
                code, kind = known, name
                break
    explanation = re.search(rf"^\s*Explanation: {_ITEM}", text, re.DOTALL | re.MULTILINE)
    hints = re.findall(rf"^\s*Hint: {_ITEM}", text, re.DOTALL | re.MULTILINE)
    context = re.search(r"Developer debug context: (.*)", text)
    return {
        "code": code or UNKNOWN,
        "type": kind if len(kind) <= 200 else kind[:200] + " ...",
        "explanation": " ".join(explanation[1].split()) if explanation else "",
        "hints": tuple(" ".join(hint.split()) for hint in hints if not _NO_HELP.search(hint)),
        "context": context[1].strip() if context else "",
        "url": link[0] if link else "",
    }


def _frames(text: str) -> tuple[Frame, ...]:
    found: list[Frame] = []
    lines = text.split("\n")
    for index, line in enumerate(lines):
        match = _FRAME.match(line)
        if match is None:
            if found and line.startswith("Traceback (most recent"):
                break
            continue
        source = lines[index + 1].strip() if index + 1 < len(lines) else ""
        source = "" if _FRAME.match(lines[index + 1] if index + 1 < len(lines) else "") else source
        found.append(Frame(match["file"], int(match["line"]), plain_function(match["function"] or ""), source))
    return tuple(found)


@dataclass(frozen=True)
class Guard:
    """Why a compiled function could not be used again: the guard that failed, and the source it guards."""

    text: str
    name: str = ""
    source: str = ""
    file: str | None = None
    line: int | None = None
    hint: str = ""


def read_guards(payload: str) -> tuple[Guard, ...]:
    """Read a payload of `recompile_reasons`: one text, or a JSON list of them, the newest entry first."""
    try:
        reasons = json.loads(payload)
    except ValueError:
        reasons = payload
    return tuple(_guard(str(reason)) for reason in (reasons if isinstance(reasons, list) else [reasons]))


def _guard(text: str) -> Guard:
    body, _, stack = text.partition("\nUser stack trace:")
    body = re.sub(r"^\d+/\d+:\s*", "", body)
    hint = re.search(r"\s*\(HINT: (.*)\)\s*$", body, flags=re.DOTALL)
    body = body[: hint.start()] if hint else body
    condition, *comments = re.split(r"\s{2,}# ", body, maxsplit=1)
    comment = comments[0] if comments else ""
    source, _, _ = comment.partition("  # ")
    frames = _frames(stack)
    place = re.search(r"# \(?(\S+?):(\d+) in ", body)
    file: str | None = frames[-1].file if frames else None
    line: int | None = frames[-1].line if frames else None
    if file is None and place is not None:
        file, line = place[1], int(place[2])
    condition = " ".join(condition.split())
    source = "" if source.startswith("(") else source.strip()  # a place inside of torch, and no source
    return Guard(condition, guarded_name(condition), source, file, line, hint[1] if hint else "")


_PATH = re.compile(r"[A-Za-z_]\w*(?:\.\w+|\[[^\]]*\])*")
_CHECKS = re.compile(r"^(?:not\s+|___check_\w+\(|len\(|str\(|\(|[\d.e+*/ -])+")


def guarded_name(condition: str) -> str:
    """Return what a guard is about: `tensor x`, `self.step`, or the condition itself."""
    plain = re.sub(r"\bL\['(\w+)'\]", r"\1", condition)
    tensor = re.match(r"tensor '(.+?)' ", plain)
    if tensor:
        return f"tensor {tensor[1]}"
    if plain.startswith("GLOBAL_STATE"):
        return plain
    contained = re.search(r"___dict_contains\('(\w+)', (.+?)\.__dict__\)", plain)
    if contained:
        return f"{contained[2]}.{contained[1]}"
    match = _PATH.match(_CHECKS.sub("", plain))
    return match[0] if match else condition
