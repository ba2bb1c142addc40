"""The command line that a run stands for: what a page shows to copy, and what a replay runs.

It is put together from the record's own fields and the probe's signature, never from the recorded argv.
"""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Iterator
from typing import Any, get_args

from bfo_diag.errors import RecordError
from bfo_diag.probes import Probe
from bfo_diag.records import JSONValue, RunHeader


def arguments(header: RunHeader, probe: Probe, *, target: str | None, elsewhere: bool = False) -> list[str]:
    """Return the words after `bfo-diag` that run the same again on `target`, without what is the default.

    With `elsewhere`, options about files of the first machine are left out.

    Raises:
        RecordError: a target that the command line would take for an option.
    """
    if target is not None and target.startswith("-"):
        raise RecordError(f"the target {target!r} of the run is none: it begins with a dash")
    words = [*(probe.command or (probe.name,)), *([target] if target is not None else [])]
    words += [f"--input={text}" for text in header.case.inputs]
    if header.case.device != probe.defaults.get("device", "cpu"):
        words.append(f"--device={header.case.device}")
    if header.case.seed:
        words.append(f"--seed={header.case.seed}")
    if header.timeout_s is not None:
        words.append(f"--timeout={header.timeout_s:g}")
    for name, parameter in probe.options.items():
        if not (elsewhere and name in probe.local):
            words += _option(parameter, header.options.get(name))
    return words


def command_line(header: RunHeader, probe: Probe) -> str:
    """Return the run as a line to copy."""
    return shlex.join(["bfo-diag", *arguments(header, probe, target=header.case.target)])


def portable_line(header: RunHeader, probe: Probe, target: str | None) -> str:
    """Return the run as a line to copy on another machine, beside the packed sources."""
    return shlex.join(["bfo-diag", *arguments(header, probe, target=target, elsewhere=True)])


def _option(parameter: inspect.Parameter, value: JSONValue) -> Iterator[str]:
    if value is None or value == parameter.default:
        return
    flags = _flags(parameter)
    if not isinstance(parameter.default, bool):
        yield f"{flags[0]}={value}"
    elif value or len(flags) > 1:
        yield flags[0] if value else flags[1]


def _flags(parameter: inspect.Parameter) -> list[str]:
    """Return how the option is written; of a switch with two names, the one that turns it off is the second."""
    for extra in get_args(parameter.annotation)[1:]:
        # (In an annotation, typer keeps the first name of an option where its default would stand.)
        declared: list[Any] = [getattr(extra, "default", None), *(getattr(extra, "param_decls", None) or ())]
        names = [name for name in declared if isinstance(name, str) and name.startswith("--")]
        if names:
            return names[0].split("/")
    return ["--" + parameter.name.replace("_", "-")]
