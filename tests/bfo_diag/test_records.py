from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bfo_diag.errors import RecordError
from bfo_diag.records import (
    SCHEMA,
    Case,
    CaseRecord,
    Finding,
    Observation,
    Place,
    RunHeader,
    Severity,
    dumps,
    loads,
)

texts = st.text(max_size=30)
numbers = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | texts
values = st.recursive(
    numbers, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12
)
places = st.builds(
    Place,
    file=st.none() | texts,
    line=st.none() | st.integers(1, 10**6),
    source=st.none() | texts,
    function=st.none() | texts,
    parameter=st.none() | texts,
    step=st.none() | st.integers(1, 10**6),
)


def same(a, b):
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@given(st.dictionaries(texts.filter(lambda t: t != "$float"), values, max_size=5), st.none() | places, texts)
def test_an_observation_survives_strict_json(payload, place, kind):
    line = dumps(Observation(kind, payload, place).to_json())
    json.loads(line, parse_constant=lambda literal: pytest.fail(f"the literal {literal} is in {line}"))
    back = Observation.from_json(loads(line))
    assert back.kind == kind
    assert back.place == place
    assert same(dict(back.values), payload)


@given(texts, st.sampled_from(Severity), texts, st.lists(st.integers(1, 99), max_size=4).map(tuple))
def test_a_finding_survives_json(code, severity, message, evidence):
    finding = Finding(code, severity, message, "fix", "url", Place(file="a.py", line=3, source="x"), evidence)
    assert Finding.from_json(loads(dumps(finding.to_json()))) == finding


def test_a_header_survives_json():
    case = CaseRecord("id", "name", "a.py:f", "step", "a.py", 3, ("float32[2]",), "cpu", 7)
    header = RunHeader("run", "gradients", ("a", "b"), "2026-01-01T00:00:00Z", case, {"torch": "2"}, {"steps": 3})
    assert RunHeader.from_json(loads(dumps(header.to_json()))) == header


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"x": NaN}', "NaN"),
        ('{"x": -Infinity}', "-Infinity"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"$float": []}', "not JSON"),
        ('{"$float": ' + "9" * 400 + "}", "not JSON"),
    ],
)
def test_what_is_not_strict_json_is_refused(text, said):
    with pytest.raises(RecordError, match=said):
        loads(text)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], "expected a JSON object"),
        ({"schema": SCHEMA + 1, "kind": "x"}, f"schema {SCHEMA + 1}"),
        ({"schema": SCHEMA}, "'kind' must be text"),
        ({"schema": SCHEMA, "kind": "x", "place": {"line": "3"}}, "'line' must be int"),
    ],
)
def test_a_foreign_observation_is_refused_by_name(data, said):
    with pytest.raises(RecordError, match=said):
        Observation.from_json(data)


def test_a_case_wants_a_callable():
    with pytest.raises(TypeError, match="must be a callable, not int"):
        Case(step=3)
