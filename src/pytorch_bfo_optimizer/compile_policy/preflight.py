"""What keeps torch.compile from doing anything, seen before it is tried: switched off, or nothing to apply it to."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

_OFF = ("", "0", "false", "f", "no")


def disabled_by() -> str | None:
    """Return what switches torch.compile off in this process, if something does.

    The environment counts also where it was set after torch had read it.
    """
    for flag in ("TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE"):
        if os.environ.get(flag, "").lower() not in _OFF:
            return f"the environment variable {flag}={os.environ[flag]} switches torch.compile off"
    import torch._dynamo
    from torch._dynamo import eval_frame

    if getattr(torch._dynamo.config, "disable", False):
        return "torch._dynamo.config.disable is True"
    stance = getattr(getattr(eval_frame, "_stance", None), "stance", "default")
    if stance in ("force_eager", "eager_on_recompile"):
        return f'torch.compiler.set_stance("{stance}") is in force, and lets nothing be compiled'
    if torch.compiler.is_compiling():
        return "apply() was called while torch was compiling or exporting"
    return None


def refused(target: nn.Module | Callable[..., Any], computes: nn.Module | None) -> str | None:
    """Return why this target can't be compiled here, if it can't; `computes` is the module that would be."""
    if isinstance(target, torch._dynamo.OptimizedModule) or hasattr(target, "_torchdynamo_orig_callable"):
        return "it is what torch.compile returned: apply the policy to the original"
    if computes is None:
        return None
    if computes._compiled_call_impl is not None:
        return "it is compiled already, by Module.compile() or by a policy; that is left as it is"
    if any(is_lazy(tensor) for tensor in (*computes.parameters(), *computes.buffers())):
        return "it has lazy parameters without shapes yet: run one forward first"
    return None
