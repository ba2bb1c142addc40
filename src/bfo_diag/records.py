"""The core types: what is examined, what was seen, how the run ended, what it means.

Only values live here, and only the standard library is imported. Every type but `Case` (which holds live objects)
makes a strict JSON round trip: no NaN or Infinity literal, an unknown schema number is an error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from bfo_diag.errors import CaseError, RecordError

SCHEMA = 1
"""Version of the record format; a reader refuses a higher one."""

JSONValue = Any
"""None, bool, int, float, str, or lists and string-keyed dicts of these."""

_NON_FINITE = "$float"


def encode(value: JSONValue) -> JSONValue:
    """Make `value` fit for strict JSON: a non-finite float becomes `{"$float": "nan" | "inf" | "-inf"}`."""
    if isinstance(value, float) and not math.isfinite(value):
        return {_NON_FINITE: repr(value)}
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [encode(item) for item in value]
    return value


def decode(value: JSONValue) -> JSONValue:
    """Undo `encode` (tuples come back as lists)."""
    if isinstance(value, dict):
        if set(value) == {_NON_FINITE}:
            return float(value[_NON_FINITE])
        return {key: decode(item) for key, item in value.items()}
    if isinstance(value, list):
        return [decode(item) for item in value]
    return value


def dumps(value: JSONValue, *, indent: int | None = None) -> str:
    """Strict JSON text in UTF-8-safe form (lone surrogates of odd file names are escaped)."""
    return json.dumps(encode(value), allow_nan=False, indent=indent, ensure_ascii=True)


def loads(text: str | bytes) -> JSONValue:
    """Read strict JSON.

    Raises:
        RecordError: the text is no JSON, or holds a NaN or Infinity literal.
    """

    def refuse(literal: str) -> None:
        raise RecordError(f"not strict JSON: the literal {literal}")

    try:
        return decode(json.loads(text, parse_constant=refuse))
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise RecordError(f"not JSON: {error}") from error


def _mapping(data: JSONValue, what: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise RecordError(f"{what}: expected a JSON object, found {type(data).__name__}")
    return data


def _text(data: Mapping[str, Any], key: str, what: str) -> str:
    value = data.get(key)
    if not isinstance(value, str):
        raise RecordError(f"{what}: {key!r} must be text, found {value!r}")
    return value


def _number(data: Mapping[str, Any], key: str, what: str) -> float:
    value = data.get(key)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise RecordError(f"{what}: {key!r} must be a number, found {value!r}")
    return float(value)


def _check_schema(data: Mapping[str, Any], what: str) -> None:
    if data.get("schema") != SCHEMA:
        raise RecordError(
            f"{what}: schema {data.get('schema')!r}, this version reads schema {SCHEMA}",
            mend="read it with the version of bfo-diag that wrote it",
        )


@dataclass(frozen=True)
class Place:
    """Where something was seen: a source line, a parameter, a step, or any of the three together.

    `line` counts from 1, `step` from 1. `source` is the line's text without the white space around it.
    """

    file: str | None = None
    line: int | None = None
    source: str | None = None
    function: str | None = None
    parameter: str | None = None
    step: int | None = None

    def to_json(self) -> dict[str, JSONValue]:
        """Return the fields that are set."""
        return {key: value for key, value in vars(self).items() if value is not None}

    @classmethod
    def from_json(cls, data: JSONValue) -> Place:
        """Read what `to_json` wrote."""
        fields = _mapping(data, "place")
        for key, kind in (("line", int), ("step", int), ("file", str), ("source", str), ("parameter", str)):
            if fields.get(key) is not None and not isinstance(fields[key], kind):
                raise RecordError(f"place: {key!r} must be {kind.__name__}, found {fields[key]!r}")
        return cls(**{key: fields.get(key) for key in cls.__dataclass_fields__})

    def __str__(self) -> str:
        """Return `file:line`, else the parameter, else an empty text."""
        if self.file is not None:
            return f"{self.file}:{self.line}" if self.line is not None else self.file
        return self.parameter or ""


@dataclass(frozen=True)
class Observation:
    """One fact, one line of `observations.jsonl`; the unit is in the name of each value (`step_ms`, `peak_mib`)."""

    kind: str
    values: Mapping[str, JSONValue] = field(default_factory=dict)
    place: Place | None = None

    def to_json(self) -> dict[str, JSONValue]:
        """Return the observation as a JSON object."""
        body: dict[str, JSONValue] = {"schema": SCHEMA, "kind": self.kind}
        if self.place is not None:
            body["place"] = self.place.to_json()
        body["values"] = dict(self.values)
        return body

    @classmethod
    def from_json(cls, data: JSONValue) -> Observation:
        """Read what `to_json` wrote."""
        fields = _mapping(data, "observation")
        _check_schema(fields, "observation")
        place = fields.get("place")
        return cls(
            kind=_text(fields, "kind", "observation"),
            values=_mapping(fields.get("values", {}), "observation values"),
            place=None if place is None else Place.from_json(place),
        )


class Outcome(str, Enum):
    """How a run ended."""

    RUNNING = "running"
    COMPLETE = "complete"
    CRASHED = "crashed"
    TIMED_OUT = "timed_out"
    INTERRUPTED = "interrupted"


_CASE_FIELDS = {"target": str, "kind": str, "file": str, "line": int, "inputs": list, "device": str, "seed": int}


@dataclass(frozen=True)
class CaseRecord:
    """What was examined, as it stands in the record; `id` is a hash of all the rest and of the source text."""

    id: str
    name: str
    target: str | None = None
    kind: str = "builtin"
    file: str | None = None
    line: int | None = None
    inputs: tuple[str, ...] = ()
    device: str = "cpu"
    seed: int = 0

    def to_json(self) -> dict[str, JSONValue]:
        """Return the record as a JSON object."""
        return {**vars(self), "inputs": list(self.inputs)}

    @classmethod
    def from_json(cls, data: JSONValue) -> CaseRecord:
        """Read what `to_json` wrote."""
        fields = _mapping(data, "case")
        for key in ("id", "name"):
            _text(fields, key, "case")
        for key, kind in _CASE_FIELDS.items():
            if fields.get(key) is not None and not isinstance(fields[key], kind):
                raise RecordError(f"case: {key!r} must be {kind.__name__}, found {fields[key]!r}")
        known = {key: fields[key] for key in cls.__dataclass_fields__ if fields.get(key) is not None}
        return cls(**{**known, "inputs": tuple(map(str, fields.get("inputs") or ()))})


@dataclass(frozen=True)
class RunHeader:
    """What is known before the first observation. `started_utc` is ISO 8601 with a trailing Z."""

    run_id: str
    probe: str
    argv: tuple[str, ...]
    started_utc: str
    case: CaseRecord
    environment: Mapping[str, JSONValue] = field(default_factory=dict)
    options: Mapping[str, JSONValue] = field(default_factory=dict)
    timeout_s: float | None = None
    """What --timeout said; None where the target was given all the time it wanted."""

    def to_json(self) -> dict[str, JSONValue]:
        """Return the header as a JSON object."""
        return {
            "schema": SCHEMA,
            "run_id": self.run_id,
            "probe": self.probe,
            "argv": list(self.argv),
            "started_utc": self.started_utc,
            "case": self.case.to_json(),
            "environment": dict(self.environment),
            "options": dict(self.options),
            "timeout_s": self.timeout_s,
        }

    @classmethod
    def from_json(cls, data: JSONValue) -> RunHeader:
        """Read what `to_json` wrote."""
        fields = _mapping(data, "run")
        _check_schema(fields, "run")
        argv = fields.get("argv", [])
        if not isinstance(argv, list):
            raise RecordError(f"run: 'argv' must be a list, found {argv!r}")
        return cls(
            run_id=_text(fields, "run_id", "run"),
            probe=_text(fields, "probe", "run"),
            argv=tuple(map(str, argv)),
            started_utc=_text(fields, "started_utc", "run"),
            case=CaseRecord.from_json(fields.get("case")),
            environment=_mapping(fields.get("environment", {}), "run environment"),
            options=_mapping(fields.get("options", {}), "run options"),
            timeout_s=None if fields.get("timeout_s") is None else _number(fields, "timeout_s", "run"),
        )


@dataclass(frozen=True)
class Run:
    """A header, the observations in their order, and how it ended.

    `damaged` lists what the reader had to pass over (a last line cut short by a kill, say).
    """

    header: RunHeader
    observations: tuple[Observation, ...]
    outcome: Outcome
    damaged: tuple[str, ...] = ()

    def of_kind(self, *kinds: str) -> Iterator[tuple[int, Observation]]:
        """Yield `(line number from 1, observation)` for the observations of these kinds."""
        for number, observation in enumerate(self.observations, 1):
            if observation.kind in kinds:
                yield number, observation


class Severity(str, Enum):
    """How much a finding weighs: a note informs, a warning may be intended, an error is one."""

    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"

    @property
    def rank(self) -> int:
        """0 for a note, 1 for a warning, 2 for an error."""
        return list(Severity).index(self)


@dataclass(frozen=True)
class Finding:
    """What an expert would say of the record; `evidence` holds the numbers of the lines that prove it (from 1)."""

    code: str
    severity: Severity
    message: str
    fix: str = ""
    url: str = ""
    place: Place | None = None
    evidence: tuple[int, ...] = ()
    gates: tuple[str, ...] | None = None
    """At which values of --fail-on it makes the exit code 1; None: by its severity."""

    def fails_at(self, gate: str) -> bool:
        """Whether the finding makes the exit code 1 under `--fail-on gate`.

        Without gates of its own it does so at its severity and each one below, and an error at every other gate too.
        """
        if self.gates is not None:
            return gate in self.gates
        if gate in [severity.value for severity in Severity]:
            return Severity(gate).rank <= self.severity.rank
        return self.severity is Severity.ERROR

    def to_json(self) -> dict[str, JSONValue]:
        """Return the finding in the shape of the `--json` document."""
        place = self.place or Place()
        return {
            "code": self.code,
            "severity": self.severity.value,
            "file": place.file,
            "line": place.line,
            "source": place.source,
            "parameter": place.parameter,
            "message": self.message,
            "fix": self.fix,
            "url": self.url,
            "evidence": list(self.evidence),
            **({} if self.gates is None else {"gates": list(self.gates)}),
        }

    @classmethod
    def from_json(cls, data: JSONValue) -> Finding:
        """Read what `to_json` wrote."""
        fields = _mapping(data, "finding")
        place = Place(**{key: fields.get(key) for key in ("file", "line", "source", "parameter")})
        try:
            severity = Severity(fields.get("severity"))
        except ValueError as error:
            raise RecordError(f"finding: {error}") from error
        return cls(
            code=_text(fields, "code", "finding"),
            severity=severity,
            message=_text(fields, "message", "finding"),
            fix=_text(fields, "fix", "finding"),
            url=_text(fields, "url", "finding"),
            place=None if place == Place() else place,
            evidence=tuple(fields.get("evidence", ())),
            gates=None if fields.get("gates") is None else tuple(fields["gates"]),
        )


@dataclass(frozen=True)
class Case:
    """What is examined, live: made afresh by a factory, so that each measurement begins from the same state.

    A factory of yours returns one: `Case(step=train_step, model=model, optimizer=optimizer)`.
    `step` runs one training step, and may return its loss. It takes no arguments, or those of `calls`: one tuple
    for each call in turn, from the first again after the last (batches of several shapes, say). Names of parameters
    come from `model` (one module, or a dict of name to module), and from `parameters` for bare tensors.
    """

    step: Callable[..., Any]
    model: Any = None
    optimizer: Any = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    inputs: Sequence[Any] = ()
    name: str = ""
    calls: Sequence[tuple[Any, ...]] = ()

    def __post_init__(self) -> None:
        if not callable(self.step):
            raise CaseError(f"Case(step=...) must be a callable, not {type(self.step).__name__}")
        if not all(isinstance(arguments, tuple) for arguments in self.calls):
            raise CaseError(
                "Case(calls=...) must hold tuples, the arguments of step at each call",
                mend="write calls=[(x,), (y,)]: a comma makes a tuple of one",
            )

    def arguments(self, call: int) -> tuple[Any, ...]:
        """Return the arguments of step at a call, counted from 0."""
        return self.calls[call % len(self.calls)] if self.calls else ()
