"""The recipe's compile policy, applied to the model of each fold; what it really did goes on record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from bfo_diag.errors import DiagError
from bfo_diag.records import JSONValue, Observation
from bfo_diag.training.reading import near
from bfo_diag.training.recipe import Compile, Enabled
from bfo_diag.training.step import Step
from pytorch_bfo_optimizer.compile_policy import CompilePolicy
from pytorch_bfo_optimizer.errors import HyperparameterError

KIND = "compile_report"


class Compiling:
    """Compiles the models of a training, if that is asked for.

    What "auto" decides for the first fold holds for the others, and for a run that goes on: it rests on measured
    times, and a second measurement might decide otherwise.
    """

    def __init__(self, asked: Compile, *, steps: int, folds: int) -> None:
        """Take what the recipe asks for, and what is planned: so many steps in each fold."""
        self._asked, self._steps, self._folds = asked, steps, folds
        self._decision: Mapping[str, JSONValue] | None = None
        self._policy: CompilePolicy | None = None

    def remember(self, told: Observation) -> None:
        """Take over what another run decided."""
        if told.kind == KIND:
            self._decision = told.values["decision"]

    def begin(self) -> CompilePolicy | None:
        """Return what compiles the next fold's model; None where it trains eagerly from its start.

        Raises:
            DiagError: torch knows no such setting.
        """
        enabled = self._asked.enabled
        if enabled == "auto" and self._decision is not None:
            enabled = self._decision["use_compile"]
        with _refused_as_ours():
            self._policy = None if enabled is False else self._made(enabled)
        return self._policy

    def apply(self, step: Step, batch: tuple[Tensor, Tensor]) -> None:
        """Compile a step's model in place, or leave it; model, optimizer and random numbers are as before.

        Torch forgets what it compiled before: it counts the graphs of all models with the same `forward` together, and
        would let the fourth or so run eagerly.

        Raises:
            DiagError: torch knows no such mode or backend.
            CompileFailedError: it does not compile, and the recipe does not want it to run eagerly then.
        """
        if self._policy is not None:
            torch.compiler.reset()
            with _refused_as_ours():
                self._policy.apply(step.model, probe=lambda: step(*batch), optimizer=step.optimizer)

    def check(self) -> None:
        """Let torch see the settings, on a module of no account; nothing is compiled.

        Raises:
            DiagError: torch knows no such mode or backend. (A training would go on eagerly, with a finding.)
        """
        if self._asked.enabled is False:
            return
        with _refused_as_ours():
            replace(self._made(True), fallback="eager").apply(nn.Identity())
        if self._asked.backend not in torch.compiler.list_backends(exclude_tags=()):
            raise DiagError(
                f"compile.backend = {self._asked.backend!r}: torch knows no such backend",
                mend=near(self._asked.backend, tuple(torch.compiler.list_backends())),
            )

    def _made(self, enabled: Enabled) -> CompilePolicy:
        asked = self._asked
        return CompilePolicy(
            enabled=enabled,
            mode=asked.mode,
            fullgraph=asked.fullgraph,
            fallback=asked.fallback,
            backend=asked.backend,
            steps=self._steps,
            folds=self._folds,
        )

    def report(self, fold: int) -> Observation | None:
        """Return what came of it so far in a fold, counted from 1; None where nothing was asked for."""
        if self._policy is None:
            return None
        told = self._policy.report().to_dict()
        self._decision = told["decision"] or self._decision
        return Observation(KIND, {"fold": fold, "asked": self._asked.enabled, **told, "decision": self._decision})


@contextmanager
def _refused_as_ours() -> Iterator[None]:
    try:
        yield
    except HyperparameterError as error:
        raise DiagError(f"[compile] of the recipe: {error}", mend="change it, or --compile off") from error
