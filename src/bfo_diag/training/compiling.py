"""The recipe's compile policy, applied to the model of each fold; what it really did goes on record."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from bfo_diag.errors import DiagError
from bfo_diag.records import JSONValue, Observation
from bfo_diag.training.recipe import Compile
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

    def apply(self, step: Step, batch: tuple[Tensor, Tensor]) -> None:
        """Compile a step's model in place, or leave it; model, optimizer and random numbers are as before.

        Raises:
            DiagError: torch knows no such mode or backend.
            CompileFailedError: it does not compile, and the recipe does not want it to run eagerly then.
        """
        asked = self._asked
        enabled = asked.enabled
        if enabled == "auto" and self._decision is not None:
            enabled = self._decision["use_compile"]
        self._policy = None
        if enabled is False:
            return
        try:
            policy = CompilePolicy(
                enabled=enabled,
                mode=asked.mode,
                fullgraph=asked.fullgraph,
                fallback=asked.fallback,
                backend=asked.backend,
                steps=self._steps,
                folds=self._folds,
            )
            policy.apply(step.model, probe=lambda: step(*batch), optimizer=step.optimizer)
        except HyperparameterError as error:
            raise DiagError(f"[compile] of the recipe: {error}", mend="change it, or --compile off") from error
        self._policy = policy

    def report(self, fold: int) -> Observation | None:
        """Return what came of it so far in a fold, counted from 1; None where nothing was asked for."""
        if self._policy is None:
            return None
        told = self._policy.report().to_dict()
        self._decision = told["decision"] or self._decision
        return Observation(KIND, {"fold": fold, "asked": self._asked.enabled, **told, "decision": self._decision})
