from __future__ import annotations

import json
from typing import Any

import pytest

from pytorch_bfo_optimizer.errors import TurnoverError
from pytorch_bfo_optimizer.turnover.events import TurnoverEvent

FIELDS: dict[str, Any] = {
    "step": 7,
    "layer": "blocks.0.mlp.0",
    "kind": "birth",
    "neurons": (64, 65),
    "parents": ((3,), ()),
    "why": "copy of the best match",
    "width": 64,
    "slots": (5, 9),
}


def test_an_event_survives_json() -> None:
    event = TurnoverEvent(**FIELDS, loss_before=1.5)
    plain = json.loads(json.dumps(event.plain()))
    assert plain["parents"] == [[3], []]
    assert plain["loss_after"] is None
    assert TurnoverEvent.of(plain) == event


def test_what_a_later_version_adds_is_left_out() -> None:
    assert TurnoverEvent.of({**TurnoverEvent(**FIELDS).plain(), "mood": 3}) == TurnoverEvent(**FIELDS)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("kind", "murder", "kind is 'murder': it must be one of death, birth, fade"),
        ("parents", ((3,),), "parents has 1 entries for 2 neurons of 'blocks.0.mlp.0'"),
        ("slots", (), "slots has 0 entries for 2 neurons"),
    ],
)
def test_what_does_not_fit_together_is_an_error(field: str, value: Any, message: str) -> None:
    with pytest.raises(TurnoverError, match=message):
        TurnoverEvent(**{**FIELDS, field: value})


@pytest.mark.parametrize("change", [{"neurons": 3}, {"neurons": None}, {"kind": "murder"}])
def test_a_record_that_is_no_event_is_named(change: dict[str, Any]) -> None:
    with pytest.raises(TurnoverError, match="this is no turnover event"):
        TurnoverEvent.of({**TurnoverEvent(**FIELDS).plain(), **change})


def test_a_missing_field_is_named() -> None:
    plain = TurnoverEvent(**FIELDS).plain()
    del plain["slots"]
    with pytest.raises(TurnoverError, match="'slots'"):
        TurnoverEvent.of(plain)
