"""What differs between the versions of torch (2.6 to 2.13) for the compile probe, and nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from bfo_diag.attempt import Raised
from bfo_diag.probes.compile.fixes import SWITCHES, UNSPEC

TRACE_LOGGER = "torch.__trace"
"""The logger of torch's structured trace; its records carry `metadata` and `payload`."""


@cache
def break_types() -> dict[str, str]:
    """Return torch's own registry of graph breaks: type to id, where a type has one id; empty on torch 2.6."""
    path = Path(torch.__file__).parent / "_dynamo" / "graph_break_registry.json"
    try:
        registry = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    found: dict[str, set[str]] = {}
    for code, entries in registry.items() if isinstance(registry, dict) else ():
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict) and isinstance(entry.get("Gb_type"), str):
                found.setdefault(entry["Gb_type"], set()).add(code)
    return {kind: next(iter(codes)) for kind, codes in found.items() if len(codes) == 1}


def interned_files() -> dict[int, str]:
    """Return the file names that torch's trace writes as numbers, so far."""
    try:
        from torch._logging.structured import INTERN_TABLE
    except ImportError:
        return {}
    return {number: name for name, number in INTERN_TABLE.items()}


@contextmanager
def compile_called_with(**options: Any) -> Iterator[None]:
    """Have the target's own calls of torch.compile take these options, whatever it gave.

    What `torch.nn.Module.compile` and decorators do goes through the same function.
    """
    original = torch.compile

    def overridden(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **{**kwargs, **options})

    torch.compile = overridden
    try:
        yield
    finally:
        torch.compile = original


@contextmanager
def graphs_wrapped(wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Have every graph that is compiled meanwhile, by whichever backend, run through `wrap`."""
    from torch._dynamo.output_graph import OutputGraph

    original = OutputGraph.call_user_compiler

    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        return wrap(original(self, *args, **kwargs))

    OutputGraph.call_user_compiler = wrapped  # type: ignore[method-assign]
    try:
        yield
    finally:
        OutputGraph.call_user_compiler = original  # type: ignore[method-assign]


def backends() -> list[str]:
    """Return the names that --backend takes."""
    from torch._dynamo.backends.registry import list_backends

    return sorted(name for name in list_backends(exclude_tags=()) if "TESTING_ONLY" not in name)


def reset() -> None:
    """Forget all that was compiled."""
    torch.compiler.reset()


_COMPILER = ("torch._dynamo", "torch._inductor", "torch._functorch", "torch.fx.experimental", "triton")


def is_compile_error(raised: Raised) -> bool:
    """Whether an exception is torch.compile's own, and not one that the target raised."""
    innermost = raised.stack[0].file.replace("\\", "/") if raised.stack else ""
    folders = tuple(f"/{module.replace('.', '/')}/" for module in _COMPILER)
    return raised.module.startswith(_COMPILER) or any(folder in innermost for folder in folders)


def disabled_by() -> str | None:
    """Return what keeps torch.compile from doing anything in this process, if something does."""
    import torch._dynamo
    from torch._dynamo import eval_frame

    for flag in ("TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE"):
        if os.environ.get(flag, "0").lower() not in ("", "0", "false", "f", "no"):
            return f"the environment variable {flag}={os.environ[flag]}"
    stance = getattr(getattr(eval_frame, "_stance", None), "stance", "default")
    if stance == "force_eager":
        return 'torch.compiler.set_stance("force_eager")'
    if getattr(torch._dynamo.config, "disable", False):
        return "torch._dynamo.config.disable = True"
    return None


def switches() -> list[str]:
    """Return which of the options that are safe to try this torch has."""
    import torch._dynamo

    return [name for name in (*SWITCHES.values(), UNSPEC) if hasattr(torch._dynamo.config, name)]


@contextmanager
def switched(name: str) -> Iterator[None]:
    """Turn an option of torch._dynamo.config on."""
    import torch._dynamo

    before = getattr(torch._dynamo.config, name)
    setattr(torch._dynamo.config, name, True)
    try:
        yield
    finally:
        setattr(torch._dynamo.config, name, before)
