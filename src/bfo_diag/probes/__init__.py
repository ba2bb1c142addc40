"""The diagnostics. Each module (or folder) here holds one `PROBE`; the command line mounts what it finds.

A probe has two halves that share nothing but the record: `capture` runs the target in a child process and yields
observations; `judge` and `summarise` read a finished run, and need neither torch nor a GPU.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from bfo_diag.records import Finding, JSONValue, Observation, Run, Table


class Request(Protocol):
    """What the person asked to examine; None as `text` means the built-in cases."""

    text: str | None
    device: str
    seed: int

    def load(self) -> Any:
        """Import the target and return it as a `targets.Target`."""


@dataclass(frozen=True)
class Probe:
    """One diagnostic.

    The options of `capture` after the request are keyword-only and annotated `Annotated[type, typer.Option(...)]`:
    they are the command's options. `environment` is set for the child process before torch is imported.
    """

    name: str
    help: str
    capture: Callable[..., Iterator[Observation]]
    judge: Callable[[Run], Iterator[Finding]]
    summarise: Callable[[Run], dict[str, JSONValue]]
    tables: Callable[[Run], Iterator[Table]]
    verdict: Callable[[Run, tuple[Finding, ...]], str]
    measured: frozenset[str]
    """Kinds of observation that count as something measured; a run with none of them ends with exit code 4."""
    environment: Mapping[str, str] = field(default_factory=dict)


def load_all() -> dict[str, Probe]:
    """Import every module of this folder and return its probes by name.

    Raises:
        TypeError: a module without a `PROBE`.
    """
    found: dict[str, Probe] = {}
    for module in pkgutil.iter_modules(__path__):
        probe = getattr(importlib.import_module(f"{__name__}.{module.name}"), "PROBE", None)
        if not isinstance(probe, Probe):
            raise TypeError(f"{__name__}.{module.name} defines no PROBE")
        found[probe.name] = probe
    return found
