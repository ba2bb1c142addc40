from __future__ import annotations

import re
from pathlib import Path

import bfo_diag
from bfo_diag.findings import catalogue


def test_every_code_says_why_and_how_to_mend_it():
    for code, entry in catalogue().items():
        assert re.fullmatch(r"[A-Z0-9]+(-[A-Z0-9_]+)+", code)
        assert len(entry.why) > 20
        assert len(entry.fix) > 10


def test_every_code_that_the_source_names_is_in_the_catalogue():
    source = "\n".join(p.read_text() for p in Path(bfo_diag.__file__).parent.rglob("*.py"))
    named = set(re.findall(r'"((?:GRAD|MODE|TARGET|RUN|LOG|DIAG)-[A-Z0-9_-]+[A-Z0-9_])"', source))
    assert named == set(catalogue())


def test_every_reason_that_the_trace_gives_has_a_code():
    trace = (Path(bfo_diag.__file__).parent / "probes/gradients/trace.py").read_text()
    reasons = set(re.findall(r'reason = "(\w+)"', trace)) | set(re.findall(r'"(\w+)" if torch.is_inference', trace))
    reasons |= {"no_grad", "numpy", "item"}
    assert len(reasons) >= 9
    assert {f"GRAD-CUT-{reason.upper()}" for reason in reasons} == {
        code for code in catalogue() if code.startswith("GRAD-CUT-")
    }
