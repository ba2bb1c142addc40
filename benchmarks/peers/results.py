"""Runs as JSON lines, one file for each optimizer and suite: appended while they are made, read by the report."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peers.runners import Runner

FOLDER = Path(__file__).parent / "results"
LIBRARY = Path(__file__).parents[2] / "src" / "pytorch_bfo_optimizer"


@dataclass(frozen=True)
class Run:
    """One run of one optimizer on one problem."""

    optimizer: str
    version: str
    function: str
    variant: str
    dim: int
    seed: int
    budget: int
    gaps: dict[str, float]
    """Checkpoint (evaluations) -> best gap to the optimum until then."""
    evaluations: int
    solved_at: int | None
    cpu_s: float

    def key(self) -> tuple[str, str, str, int, int]:
        """What is one run of this optimizer in this version, whatever its budget."""
        return self.version, self.function, self.variant, self.dim, self.seed


def path(suite: str, optimizer: str) -> Path:
    """The file of this optimizer's runs."""
    return FOLDER / f"{suite}-{optimizer.lower().replace(' ', '-')}.jsonl"


def read(suite: str, optimizer: str) -> Iterator[Run]:
    """The runs that were made."""
    return (Run(**values) for values in read_lines(path(suite, optimizer)))


def append(suite: str, run: Run) -> None:
    """Keep a run."""
    append_line(path(suite, run.optimizer), asdict(run))


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects in a file that may not be there yet; a line that a kill cut short is left out."""
    if not file.exists():
        return
    for line in file.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def append_line(file: Path, values: dict[str, Any]) -> None:
    """Add one line; it begins on a line of its own even after one that was cut short."""
    file.parent.mkdir(exist_ok=True)
    with file.open("a+b") as out:
        if out.tell() and file.read_bytes()[-1:] != b"\n":
            out.write(b"\n")
        out.write(json.dumps(values).encode() + b"\n")


def version(runner: Runner) -> str:
    """The version that this runner's results are filed under."""
    return version_of(runner.distribution)


def version_of(distribution: str) -> str:
    """The version of a distribution; of a module of ours, a hash of its code and of what it imports of this library.

    Docstrings and comments do not count, nor the wording of errors.
    """
    package, _, module = distribution.partition(".")
    if package != LIBRARY.name:
        return importlib.metadata.version(distribution)
    seen: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = LIBRARY / f"{name}.py"
        if name not in seen and name != "errors" and file.exists():
            tree = ast.parse(file.read_text())
            seen[name] = _bare(tree)
            waiting += _imported(tree)
    return hashlib.sha256(repr(sorted(seen.items())).encode()).hexdigest()[:12]


def _imported(tree: ast.AST) -> Iterator[str]:
    """Modules of this library: `from library.a import b` gives a, `from library import a` gives a."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            package, _, module = node.module.partition(".")
            if package == LIBRARY.name:
                yield from [module] if module else (alias.name for alias in node.names)


def _bare(tree: ast.AST) -> str:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [part for part in body if not _is_text(part)] or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
