"""The examples that go into every package run, each by itself, and assert what they claim."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from bfo_diag.render import templates

TEXT = templates.render("package/IMPLEMENTATION_EXAMPLES.md.j2")
EXAMPLES = re.findall(r"^## (.+?)$.*?^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_there_is_one_for_each_way_to_mend_it():
    assert [title for title, _ in EXAMPLES] == [
        "Dual closure",
        "Smart closure wrapper",
        "Configuration",
        "Minimal fix",
        "Minimal fix in a training step",
        "Compile compatibility",
    ]


@pytest.mark.parametrize(("title", "code"), EXAMPLES, ids=[title for title, _ in EXAMPLES])
def test_it_runs_and_checks_what_it_claims(title, code):
    assert "assert" in code, title
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
