"""The pages of docs/integrations are true: their programs run as they stand, and each naive version gets its finding.

A fenced block says in its first line what it is: `python program` is a script; `python naive=CODE` defines `step`
(or what `target=` names), of which `bfo-diag gradients` has to give a finding CODE.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from bfo_diag.findings import catalogue

PAGES = Path(__file__).parents[2] / "docs" / "integrations"
FRAMEWORKS = ("accelerate", "fastai", "lightning", "transformers")
"""Pages that need the module of the same name."""
FENCE = re.compile(r"^```python +([^\n]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page that is to be run."""

    page: str
    code: str
    """The finding that it is to get; empty for a program."""
    target: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}-{self.code or 'program'}"


def blocks(naive: bool) -> list[Block]:
    found = []
    for page in sorted(PAGES.glob("*.md")):
        for said, text in FENCE.findall(page.read_text("utf-8")):
            words = dict(word.partition("=")[::2] for word in said.split())
            assert not words.keys() - {"program", "naive", "target"}, f"{page.name}: a block is marked {said!r}"
            found.append(Block(page.stem, words.get("naive", ""), words.get("target", "step"), text))
    return [block for block in found if bool(block.code) is naive]


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "CI": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(autouse=True)
def framework(request: pytest.FixtureRequest) -> None:
    block = getattr(request.node, "callspec", None) and request.node.callspec.params.get("block")
    if block and block.page in FRAMEWORKS and importlib.util.find_spec(block.page) is None:
        pytest.skip(f"{block.page} is not installed")


@pytest.mark.parametrize("block", blocks(naive=False), ids=str)
def test_a_program_runs_as_it_stands(block: Block, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(block.text, "utf-8")
    done = run([sys.executable, "train.py"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"loss\D*\d", done.stdout), f"it does not say what its loss came to:\n{done.stdout}"


@pytest.mark.parametrize("block", blocks(naive=True), ids=str)
def test_a_naive_version_gets_its_named_finding_with_the_mend(block: Block, tmp_path: Path) -> None:
    assert block.code in catalogue(), "no such finding"
    (tmp_path / "naive.py").write_text(block.text, "utf-8")
    command = [sys.executable, "-m", "bfo_diag", "gradients", f"naive.py:{block.target}", "--json"]
    done = run([*command, "--workspace", str(tmp_path)], tmp_path)
    assert done.stdout, done.stderr
    findings = {finding["code"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert block.code in findings, (sorted(findings), done.stderr)
    assert findings[block.code]["fix"]
    assert findings[block.code]["evidence"]


def test_each_page_has_a_program_and_the_naive_versions_are_told() -> None:
    pages = {page.stem for page in PAGES.glob("*.md")} - {"README"}
    assert pages >= set(FRAMEWORKS)
    assert {block.page for block in blocks(naive=False)} == pages
    assert {block.page for block in blocks(naive=True)} >= set(FRAMEWORKS)
