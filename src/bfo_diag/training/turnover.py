"""The recipe's neuron turnover, attached to the model and optimizer of one fold; what it did goes on record."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from bfo_diag.errors import DiagError
from bfo_diag.records import JSONValue, Observation
from bfo_diag.training import recipe
from bfo_diag.training.step import Step
from pytorch_bfo_optimizer.compile_policy import CompilePolicy, CompileReport
from pytorch_bfo_optimizer.errors import HyperparameterError, TurnoverError
from pytorch_bfo_optimizer.turnover import TurnoverManager

KINDS = ("turnover", "turnover_summary")
MEASURED = 256
"""At most so many samples of those held back are evaluated before and after each turnover."""
_NODES = 2000
"""Of the lineage in a summary; the events hold all of it."""


class Turnover:
    """Neurons that die and are born while a step trains, and the events of it as observations."""

    def __init__(
        self,
        asked: recipe.Turnover,
        step: Step,
        *,
        fold: int,
        seed: int,
        policy: CompilePolicy | None,
        measure: Callable[[], float] | None,
    ) -> None:
        """Attach it. `fold` counts from 1; `measure` gives the loss that stands before and after each turnover.

        Raises:
            DiagError: a layer that can't be cut or grown, an optimizer whose state can't be, or no such layer.
        """
        options: dict[str, Any] = {} if asked.grow_to is None else {"grow_to": asked.grow_to}
        self._asked, self._fold, self._told = asked, fold, 0
        self._audits: list[JSONValue] = []
        with refused():
            self._manager = TurnoverManager.preset(
                asked.preset,
                step.model,
                step.optimizer,
                layers=asked.layers,
                every=asked.every,
                fraction=asked.fraction,
                seed=seed,
                measure=measure if asked.measure else None,
                compile_policy=policy,
                **options,
            )

    def observations(self) -> Iterator[Observation]:
        """Yield the events since the last call."""
        events = self._manager.events
        new, self._told = events[self._told :], len(events)
        for event in new:
            yield Observation(KINDS[0], {"fold": self._fold, **event.plain()})

    def summary(self) -> Observation:
        """Return what came of it, at the end of the fold."""
        found = self._manager.summary()
        nodes = found["lineage"]["nodes"]
        values: dict[str, JSONValue] = {
            **found,
            "fold": self._fold,
            "preset": self._asked.preset,
            "widths": {layer: {**width, **self._of_layer(layer)} for layer, width in found["widths"].items()},
            **self._jumps(),
            "audits": self._all_audits(),
            "lineage": {**found["lineage"], "nodes": nodes[:_NODES], "left_out": max(0, len(nodes) - _NODES)},
        }
        return Observation(KINDS[1], values)

    def _of_layer(self, layer: str) -> dict[str, int]:
        events = [event for event in self._manager.events if event.layer == layer]
        return {
            "births": sum(len(event.neurons) for event in events if event.kind == "birth"),
            "deaths": sum(len(event.neurons) for event in events if event.kind == "death"),
            "founders_alive": self._manager.lineage.founders_alive(layer),
        }

    def _jumps(self) -> dict[str, JSONValue]:
        """Return by how much the measured loss changed at a turnover; None where it was not measured."""
        by_step = {
            event.step: abs(event.loss_after - event.loss_before)
            for event in self._manager.events
            if event.loss_before is not None and event.loss_after is not None
        }
        jumps = list(by_step.values())
        return {
            "jumps": len(jumps),
            "jump_mean": statistics.fmean(jumps) if jumps else None,
            "jump_max": max(jumps, default=None),
        }

    def _all_audits(self) -> list[JSONValue]:
        """Return what compile reported after each change of width, also in the runs that this one goes on from."""
        return [*self._audits, *({"step": step, **_audit(report)} for step, report in self._manager.audits)]

    def paused(self) -> AbstractContextManager[None]:
        """Let steps be made that do not count: a compile policy proves itself by one."""
        return self._manager.paused()

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds of it."""
        return {"manager": self._manager.state_dict(), "audits": self._all_audits()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Come back to a checkpoint: the model is cut or grown to its widths, and then fits its weights."""
        with refused():
            self._manager.load_state_dict(state["manager"])
        self._audits, self._told = state["audits"], len(self._manager.events)


def _audit(report: CompileReport) -> dict[str, JSONValue]:
    return {"status": report.status, "reason": report.reason, "recompiles": len(report.recompiles)}


@contextmanager
def refused() -> Iterator[None]:
    """Turn what the library refuses into what the person with the recipe can mend."""
    try:
        yield
    except (TurnoverError, HyperparameterError) as error:
        raise DiagError(f"[turnover] of the recipe: {error}", mend="change it, or leave turnover out") from error
