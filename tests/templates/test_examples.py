"""The examples that go into every package run, each from nothing but its own names, and assert what they claim."""

from __future__ import annotations

import json
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


RUN_EACH = """
import json, sys, traceback
said = {}
for title, code in json.load(sys.stdin):
    try:
        exec(compile(code, title, "exec"), {"__name__": "__main__"})
    except BaseException:
        said[title] = traceback.format_exc()
print("\\n" + json.dumps(said))
"""


@pytest.fixture(scope="module")
def failures() -> dict[str, str]:
    """Return what each example that failed said. One new process runs them all: torch takes seconds to import."""
    done = subprocess.run(
        [sys.executable, "-c", RUN_EACH], input=json.dumps(EXAMPLES), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("title", "code"), EXAMPLES, ids=[title for title, _ in EXAMPLES])
def test_it_runs_and_checks_what_it_claims(failures, title, code):
    assert "assert" in code, title
    assert title not in failures, failures[title]
