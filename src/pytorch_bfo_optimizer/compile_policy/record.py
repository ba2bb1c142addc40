"""Reads what `bfo-diag bench --json` recorded of one mode. The tool itself is not needed, nor imported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from pytorch_bfo_optimizer.compile_policy.decision import Recorded
from pytorch_bfo_optimizer.errors import HyperparameterError

Record = str | PathLike[str] | Mapping[str, Any]


def read_record(record: Record, arm: str) -> Recorded:
    """Return the figures of a mode.

    Args:
        record: path of the JSON document, or the document, or its `summary`.
        arm: the mode as bench calls it: `default`, or `backend:NAME`.

    Raises:
        HyperparameterError: no such file, no such document, or it does not have the mode.
    """
    summary = _summary(_document(record))
    modes = summary.get("modes")
    found = modes.get(arm) if isinstance(modes, Mapping) else None
    if not isinstance(found, Mapping):
        known = ", ".join(modes) if isinstance(modes, Mapping) and modes else "none"
        raise HyperparameterError(
            f"record has no mode {arm!r} (it has: {known}): measure it with `bfo-diag bench TARGET --json`"
        )
    try:
        return _recorded(found, t_eager=summary.get("eager_step_s"), device=summary.get("device"))
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise HyperparameterError(f"record does not read as a bench summary, at mode {arm!r}: {error!r}") from error


def _document(record: Record) -> Mapping[str, Any]:
    if isinstance(record, Mapping):
        return record
    try:
        document = json.loads(Path(record).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise HyperparameterError(f"record={str(record)!r} can't be read as JSON: {error}") from error
    if not isinstance(document, Mapping):
        raise HyperparameterError(f"record={str(record)!r} holds no JSON object")
    return document


def _summary(document: Mapping[str, Any]) -> Mapping[str, Any]:
    summary = document.get("summary", document)
    cases = summary.get("cases") if isinstance(summary, Mapping) else None
    if isinstance(cases, Mapping):
        if len(cases) != 1:
            raise HyperparameterError(
                f'record has several cases ({", ".join(cases)}): pass one, as record["summary"]["cases"][NAME]'
            )
        summary = next(iter(cases.values()))
    if not isinstance(summary, Mapping) or "modes" not in summary:
        raise HyperparameterError("record is no bench of a target: `bfo-diag bench TARGET --json` writes one")
    return summary


def _recorded(mode: Mapping[str, Any], *, t_eager: float | None, device: str | None) -> Recorded:
    even, times = mode["break_even"], mode.get("compile_s") or {}
    first = next((cache for cache in ("cold", "as it is", "warm") if cache in even), None)
    if first is None:
        raise HyperparameterError("record has no break-even: the compile time was not measured")
    return Recorded(
        cold=_steps(even[first]),
        warm=_steps(even["warm"]) if "warm" in even else None,
        why_not=_why_not(mode),
        t_eager=t_eager,
        t_compiled=mode.get("step_s"),
        compile_s=times.get(first),
        device=device,
    )


def _steps(even: Mapping[str, Any]) -> float | None:
    steps = even["steps"]
    return None if steps == "never" else float(steps["value"])


def _why_not(mode: Mapping[str, Any]) -> str:
    if mode["verdict"] != "faster":
        return f"{mode['verdict']}: a compiled step is not faster for certain"
    result = (mode.get("correctness") or {}).get("result", "")
    return "the results differ from eager's" if result == "differs" else ""
