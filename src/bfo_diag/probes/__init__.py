"""The diagnostics. Each module (or folder) here holds one `PROBE`; the command line mounts what it finds.

A probe has two halves that share nothing but the record: `capture` runs the target in a child process and yields
observations; `judge` and `summarise` read a finished run, and need neither torch nor a GPU.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from bfo_diag.records import Finding, JSONValue, Observation, Run
from bfo_diag.shown import Chart, Progress, Table


class Request(Protocol):
    """What the person asked to examine; None as `text` means the built-in cases."""

    text: str | None
    device: str
    seed: int
    raw: Path | None
    """Where the probe may leave files of its own, beside the log; None where there is no log."""

    def load(self) -> Any:
        """Import the target and return it as a `targets.Target`."""

    def part(
        self,
        name: str,
        options: Mapping[str, JSONValue],
        *,
        case: str = "",
        target: str | None = None,
        environment: Mapping[str, str] | None = None,
        must_end: bool = True,
    ) -> PartResult:
        """Have a part of the probe done in a process of its own, and return what it put on record.

        Each of its observations gets `part` and `case` among its values. `target` stands in for the request's own.
        With `must_end`, a part that dies is the end of the target; without, only a fact about the part.
        """


@dataclass(frozen=True)
class PartResult:
    """What a part put on record, and whether the probe may go on."""

    observations: tuple[Observation, ...]
    ended: bool = True
    """False where its process died."""
    stopped: bool = False
    """The time is up, or the target raised: no further part makes sense."""

    def of_kind(self, kind: str) -> list[Mapping[str, JSONValue]]:
        """Return the values of the observations of a kind."""
        return [observation.values for observation in self.observations if observation.kind == kind]


@dataclass(frozen=True)
class FileTarget:
    """A TARGET that is a file to read, and no Python to import."""

    metavar: str
    help: str
    check: Callable[[str | None], object]
    """Refuses what is wrong with it before anything runs; None where none is named. Raises DiagError."""


@dataclass(frozen=True)
class Probe:
    """One diagnostic.

    The options of `capture` after the request are keyword-only and annotated `Annotated[type, typer.Option(...)]`:
    they are the command's options. `environment` is set for the child process before torch is imported.
    """

    name: str
    help: str
    capture: Callable[..., Iterator[Observation | Progress]]
    judge: Callable[[Run], Iterator[Finding]]
    summarise: Callable[[Run], dict[str, JSONValue]]
    tables: Callable[[Run], Iterator[Table]]
    verdict: Callable[[Run, tuple[Finding, ...]], str]
    measured: Callable[[Run], bool]
    """Whether there is anything to judge; a run without ends with exit code 4."""
    charts: Callable[[Run], Iterator[Chart]] = lambda run: iter(())
    """The figures of a page."""
    details: Callable[[Run], Iterator[Table]] = lambda run: iter(())
    """Tables for a page beyond those of a terminal, where the findings say the same."""
    short: Callable[[str | None], Mapping[str, JSONValue]] = lambda target: {}
    """Returns the options with which `bfo-diag review` runs it on a TARGET (or None), in place of their defaults."""
    parts: Mapping[str, Callable[..., Iterator[Observation | Progress]]] = field(default_factory=dict)
    """What `capture` has done by `request.part` in processes of their own. Such a `capture` itself imports no torch."""
    needs_processes: bool = False
    """Whether its parts mean nothing in the caller's own process (timing, memory, caches)."""
    gates: tuple[str, ...] = ("note", "warning", "error")
    """The values of --fail-on besides `none`; `Finding.fails_at` knows them."""
    fail_on: str = "warning"
    """The default of --fail-on: one gate, or several with commas."""
    local: tuple[str, ...] = ()
    """Options about files of the person's own machine: no replay is given them."""
    defaults: Mapping[str, JSONValue] = field(default_factory=dict)
    """Other defaults for the options that every probe has."""
    environment: Mapping[str, str] = field(default_factory=dict)
    file_target: FileTarget | None = None
    """What TARGET is where it is no Python."""
    command: tuple[str, ...] = ()
    """The words after `bfo-diag` that run it, where that is not its name alone."""
    seeded: bool = True
    """Whether it takes --seed; the file of a file target may say it all."""

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """The options of `capture`, by name."""
        # (Not typing.get_type_hints: on Python 3.10 it wraps what defaults to None, and typer's metadata is lost.)
        return dict(list(inspect.signature(self.capture, eval_str=True).parameters.items())[1:])


def later(module: str, name: str) -> Any:
    """Return a function of a module that is imported when it is called: `--help` is not to wait for it."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(importlib.import_module(module), name)(*args, **kwargs)

    return call


def readers(package: str) -> dict[str, Any]:
    """Return what reads a run of the probe in `package`: `judge.py` and `summary.py`, imported when they are asked."""
    names = ("summarise", "tables", "verdict", "measured", "charts")
    return {"judge": later(f"{package}.judge", "judge")} | {n: later(f"{package}.summary", n) for n in names}


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
