"""What is timed beside eager: the modes of torch.compile, and its backends as `backend:NAME`. Needs no torch."""

from __future__ import annotations

from typing import Any

from bfo_diag.errors import DiagError

EAGER, CONTROL, REFERENCE = "eager", "eager again (A/A)", "float64 reference"
AS_IT_IS = "as it compiles itself"
"""The one arm of a target that calls torch.compile itself; eager is then the same target with that switched off."""
MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
_BACKEND = "backend:"


def chosen(text: str) -> list[str]:
    """Return the arms that --modes names, eager first.

    Raises:
        DiagError: a mode that is not known, or nothing to compare with eager.
    """
    names = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    wrong = [name for name in names if name not in (EAGER, *MODES) and not name.startswith(_BACKEND)]
    if wrong:
        raise DiagError(
            f"--modes {', '.join(wrong)} is not known",
            mend=f"choose from {', '.join((EAGER, *MODES))}, or backend:NAME",
        )
    compiled = [name for name in names if name != EAGER]
    if not compiled:
        raise DiagError("--modes names nothing to compare with eager", mend="--modes eager,default")
    return [EAGER, *compiled]


def compile_options(arm: str) -> dict[str, Any]:
    """Return the keywords of torch.compile for an arm."""
    return {"backend": arm.removeprefix(_BACKEND)} if arm.startswith(_BACKEND) else {"mode": arm}


def uses_cuda_graphs(arm: str) -> bool:
    """Whether the mode asks for CUDA graphs."""
    return arm in ("reduce-overhead", "max-autotune")
