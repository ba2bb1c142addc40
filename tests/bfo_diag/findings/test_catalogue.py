from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import bfo_diag
from bfo_diag.findings import catalogue
from bfo_diag.probes.gradients.flow import Reason


def test_every_code_says_why_and_how_to_mend_it():
    for code, entry in catalogue().items():
        assert re.fullmatch(r"[A-Z0-9]+(-[A-Z0-9_]+)+", code)
        assert len(entry.why) > 20
        assert len(entry.fix) > 10


def test_every_code_that_the_source_names_is_in_the_catalogue():
    source = "\n".join(p.read_text() for p in Path(bfo_diag.__file__).parent.rglob("*.py"))
    prefixes = "|".join({code.partition("-")[0] for code in catalogue()})
    named = set(re.findall(rf'"((?:{prefixes})-[A-Z0-9_-]+[A-Z0-9_])"', source))
    assert named | {code for code in catalogue() if code.startswith("GRAD-CUT-")} == set(catalogue())


def test_every_reason_for_a_cut_has_a_code():
    assert {f"GRAD-CUT-{reason.upper()}" for reason in get_args(Reason)} == {
        code for code in catalogue() if code.startswith("GRAD-CUT-")
    }
