"""The built-in cases of the compile probe, and what is right for each. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass


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
