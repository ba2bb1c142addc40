"""Words that a package keeps though somebody is called so: those of libraries in the code, and those of the record.

A user `adam` would else turn `torch.optim.Adam` into what no torch has, a user `target` a log into what nobody reads.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator

_KEY = re.compile(rb'(?<!\\)"([A-Za-z_][A-Za-z0-9_]{0,60})"\s*:')
_CHOICE = re.compile(
    rb'(?<!\\)"(?:kind|probe|outcome|status|expected|mode|scenario|workload|part|arm|severity|direction|owner|reason|'
    rb'optimizer)"\s*:\s*"([A-Za-z_][A-Za-z0-9_-]{0,60})"'
)


def of_record(chunks: Iterable[bytes]) -> set[str]:
    """Return the keys of JSON text, and the values of fields that name one of a few things."""
    found: set[bytes] = set()
    for chunk in chunks:
        found.update(_KEY.findall(chunk))
        found.update(_CHOICE.findall(chunk))
    return {word.decode() for word in found}


def of_code(sources: dict[str, str]) -> set[str]:
    """Return the identifiers that the sources (path to text) use and none of them makes: those of other libraries."""
    local = {part.removesuffix(".py") for path in sources for part in path.split("/")}
    used: set[str] = set()
    made: set[str] = set(local)
    for text in sources.values():
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        for node in ast.walk(tree):
            made.update(_made(node))
            used.update(_used(node))
    return used - made


def _made(node: ast.AST) -> Iterator[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, ast.arg):
        yield node.arg
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        yield node.attr
    elif isinstance(node, ast.alias) and node.asname:
        yield node.asname


def _used(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        yield node.id
    elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
        yield node.attr
    elif isinstance(node, ast.keyword) and node.arg:
        yield node.arg
    elif isinstance(node, ast.ImportFrom):
        yield from (node.module or "").split(".")
    elif isinstance(node, ast.alias):
        yield from node.name.split(".")
