"""The built-in cases of the compile probe, and what is right for each. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from bfo_diag.errors import DiagError


@dataclass(frozen=True)
class Builtin:
    """A factory in `bfo_diag.cases.compiled`; `breaks` tells whether its graph is known to break."""

    name: str
    breaks: bool
    why: str = ""

    @property
    def target(self) -> str:
        """Return the TARGET that names it."""
        return f"bfo_diag.cases.compiled:{self.name}"


BUILTINS = (
    Builtin("bfo_generation", breaks=False),
    Builtin("bfo_step", breaks=True, why="draws from its own generator and calls the closure member by member"),
    Builtin(
        "adaptive_bfo_step", breaks=True, why="draws from its own generator and calls the closure member by member"
    ),
    Builtin("hybrid_bfo_step", breaks=True, why="draws from its own generator and calls the closure member by member"),
    Builtin("digits_mlp_train_step", breaks=True, why="zero_grad, backward and step break on purpose"),
    Builtin("char_transformer_train_step", breaks=True, why="zero_grad, backward and step break on purpose"),
    Builtin("original_pattern", breaks=True, why="a Python loop with .item()"),
    Builtin("adam_step", breaks=True, why="torch breaks in Optimizer.step on purpose"),
    Builtin("lbfgs_step", breaks=True, why="torch leaves LBFGS.step alone"),
)
NAMES = tuple(builtin.name for builtin in BUILTINS)
FIRST_LOOK = (
    "bfo_generation", "bfo_step", "char_transformer_train_step", "original_pattern", "adam_step", "lbfgs_step",
)  # fmt: skip
"""One case of each `why`: what `bfo-diag review` examines."""


def chosen(text: str) -> tuple[Builtin, ...]:
    """Return the built-in cases that --cases names.

    Raises:
        DiagError: a name that is not known.
    """
    if text == "all":
        return BUILTINS
    names = {part.strip() for part in text.split(",")}
    wrong = sorted(names - set(NAMES))
    if wrong:
        named = ", ".join(wrong).strip() or repr(text)
        raise DiagError(f"--cases {named} is not known", mend=f"choose from {', '.join(NAMES)}, or all")
    return tuple(builtin for builtin in BUILTINS if builtin.name in names)
