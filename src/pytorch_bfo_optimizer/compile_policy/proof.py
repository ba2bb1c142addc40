"""One full training step, tried with compiled code, and everything put back: what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pytorch_bfo_optimizer.compile_policy.applied import Applied, in_eager
from pytorch_bfo_optimizer.compile_policy.calls import described
from pytorch_bfo_optimizer.compile_policy.snapshot import Snapshot

Step = Callable[[], Any]


@dataclass(frozen=True)
class Proof:
    """What a tried step showed. It failed where `failure` says something."""

    failure: str = ""
    error: Exception | None = None
    is_own: bool = False
    """The step fails in eager too: the error is the user's."""
    did: tuple[str, ...] = ()
    """forward, backward, optimizer step: what compiled code was seen to do, and the step after it."""

    @classmethod
    def of_own(cls, error: Exception) -> Proof:
        """Return the proof of a step that fails in eager."""
        return cls(f"the step itself fails, in eager too: {described(error)}", error, is_own=True)


def prove(applied: Applied, probe: Step, snapshot: Snapshot, *, alone: bool = True) -> Proof:
    """Run the probe with the target compiled; whatever happens, the snapshot is put back.

    If it raises, it is run once more in eager, to tell the compiler's failures from the user's; not where other
    processes run the same steps (`alone=False`), and would wait.
    """
    audit = applied.audit
    calls, graphs = audit.target_calls, len(audit.graphs)
    audit.proving = True
    try:
        probe()
    except Exception as error:  # noqa: BLE001 - the compiler's failure or the user's: recorded, and told apart below
        failed: Exception | None = error
    else:
        failed = None
        did = _shown(applied, snapshot)
    finally:
        audit.proving = False
        audit.notes = snapshot.notes()
        snapshot.restore()
    if failed is not None:
        fails_anyway = _fails_in_eager(applied, probe, snapshot) if alone else None
        if fails_anyway is not None:
            return Proof.of_own(fails_anyway)
        return Proof(f"the compiled step failed: {described(failed)}", failed)
    if audit.target_calls == calls:
        return Proof(
            "the probe never called the target: give apply() a probe that does, such as "
            "`lambda: step(model, batch)` for a module, or `lambda compiled: compiled(batch)` for a function"
        )
    if audit.fallbacks:
        found = audit.fallbacks[0]
        return Proof(f"{_PLACES[found.where]}: {found.error}")
    if len(audit.graphs) == graphs:
        return Proof(f"no graph ran in the step: {audit.why_no_graph()}")
    return Proof(did=did)


_PLACES = {
    "compile": "the backend failed on a graph",
    "forward": "the forward of a compiled graph failed",
    "backward": "the backward of a compiled graph failed",
    "dynamo": "dynamo failed",
}


def _shown(applied: Applied, snapshot: Snapshot) -> tuple[str, ...]:
    shown = [("backward", applied.audit.backward_seen), ("optimizer step", snapshot.parameters_moved())]
    return ("forward", *(name for name, seen in shown if seen))


def _fails_in_eager(applied: Applied, probe: Step, snapshot: Snapshot) -> Exception | None:
    try:
        with in_eager(applied):
            probe()
    except Exception as own:  # noqa: BLE001 - the user's; his own step will raise it again
        return own
    finally:
        snapshot.restore()
    return None
