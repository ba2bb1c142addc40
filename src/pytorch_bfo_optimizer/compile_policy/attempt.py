"""What happens when a policy is applied to one target: decide, compile, prove, measure. Every way ends with a reason
why the target stays in eager, or with none.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from pytorch_bfo_optimizer.compile_policy import decision
from pytorch_bfo_optimizer.compile_policy.applied import Applied
from pytorch_bfo_optimizer.compile_policy.backend import BackendSettings, WatchedBackend
from pytorch_bfo_optimizer.compile_policy.calls import described
from pytorch_bfo_optimizer.compile_policy.decision import Decision, Plan
from pytorch_bfo_optimizer.compile_policy.measure import Stopwatch, eager_time, timings
from pytorch_bfo_optimizer.compile_policy.peers import Peers
from pytorch_bfo_optimizer.compile_policy.proof import Proof, Step, prove
from pytorch_bfo_optimizer.compile_policy.record import Record, read_record
from pytorch_bfo_optimizer.compile_policy.snapshot import Snapshot
from pytorch_bfo_optimizer.errors import CompileFailedError, HyperparameterError

OTHERS = "another process of its DDP group could not compile it, or could not try"


class Attempt:
    """One target, its probe, and the state that both may change.

    Under DDP every process takes part: before steps are run, all say whether they can.
    """

    def __init__(
        self,
        applied: Applied,
        *,
        probe: Callable[..., Any] | None,
        settings: BackendSettings,
        fullgraph: bool,
        roots: Iterable[Any],
        why_not: str,
    ) -> None:
        self._applied, self._audit = applied, applied.audit
        self._settings, self._fullgraph = settings, fullgraph
        self._roots = tuple(roots)
        self._why_not = why_not
        """What keeps torch.compile from doing anything, if something does."""
        self._step = _as_step(probe, applied)
        self._peers = Peers() if self._step is None else Peers.of(self._roots)

    def compile_and_prove(self) -> str:
        """Compile, and where there is a probe let it prove the result."""
        if self._step is None:
            return self._why_not or self._judged(self._compiled())
        snapshot = self._prepared()
        return snapshot if isinstance(snapshot, str) else self._judged(self._proved(self._step, snapshot))

    def decide_by_least(self, plan: Plan, min_steps: int) -> str:
        """Leave it: the plan has fewer steps than the user cares for."""
        return self._decided(decision.by_least(plan, min_steps))

    def decide_by_record(self, plan: Plan, record: Record) -> str:
        """Decide from a recorded bench; nothing is timed."""
        recorded = read_record(record, self._arm())
        here = _device(self._applied.module)
        if here is not None and recorded.device is not None and here != recorded.device.partition(":")[0]:
            raise HyperparameterError(
                f"record was measured on {recorded.device}, and {self._audit.name} is on {here}: measure it there"
            )
        return self._decided(decision.by_record(plan, recorded)) or self.compile_and_prove()

    def decide_by_timing(self, plan: Plan, *, clock: Callable[[], float], least_compile_s: float) -> str:
        """Decide from steps of the probe in eager, and unless those are short anyway, compiled."""
        if self._step is None:
            raise HyperparameterError(
                'enabled is "auto", and there is neither a record nor a probe: pass probe=, one full training step, '
                "to be timed"
            )
        snapshot = self._prepared()
        if isinstance(snapshot, str):
            return snapshot
        watch = Stopwatch(clock, self._peers)
        try:
            t_eager = eager_time(self._applied, self._step, watch)
        except Exception as error:  # noqa: BLE001 - the user's step fails in eager; his own will raise it again
            return self._judged(Proof.of_own(error))
        finally:
            snapshot.restore()
        short = self._decided(decision.by_length(plan, t_eager, least_compile_s))
        if short:
            return short
        start = clock()
        proof = self._proved(self._step, snapshot)
        first_s = clock() - start
        failed = self._judged(self._agreed(proof))
        if failed:
            return failed
        try:
            times = timings(self._applied, self._step, watch, first_s=first_s, t_eager=t_eager)
        finally:
            snapshot.restore()
        return self._decided(decision.by_timings(plan, times))

    def _prepared(self) -> Snapshot | str:
        """Compile and keep the state of the step; or return why no step is run, here or in another process.

        In this order: putting the state back must leave the module switched on.
        """
        if self._why_not:
            self._peers.all(False)
            return self._why_not
        proof, snapshot = self._compiled(), None
        if not proof.failure:
            try:
                snapshot = Snapshot(self._roots)
            except Exception as error:  # noqa: BLE001 - no memory for the copies, most likely: nothing has run yet
                proof = Proof(f"the state of the step could not be kept: {described(error)}", error)
        failed = self._judged(self._agreed(proof))
        return failed if failed or snapshot is None else snapshot

    def _compiled(self) -> Proof:
        try:
            backend = WatchedBackend(self._settings)
            self._applied.compile(backend, fullgraph=self._fullgraph)
        except HyperparameterError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever torch refuses is the reason that is recorded
            return Proof(f"torch.compile refused it: {described(error)}", error)
        self._applied.switch(on=True)
        return Proof()

    def _proved(self, step: Step, snapshot: Snapshot) -> Proof:
        return prove(self._applied, step, snapshot, alone=self._peers.group is None)

    def _agreed(self, proof: Proof) -> Proof:
        """Return the proof; where it is sound here and another process failed, say that."""
        return proof if self._peers.all(not proof.failure) or proof.failure else Proof(OTHERS)

    def _judged(self, proof: Proof) -> str:
        """Note what was proved, or return (or raise) why nothing was."""
        if not proof.failure:
            self._audit.proved = proof.did
            return ""
        if not self._settings.raises:
            return proof.failure
        if proof.is_own and proof.error is not None:
            raise proof.error
        raise CompileFailedError(f"{self._audit.name}: {proof.failure}") from proof.error

    def _decided(self, decided: Decision) -> str:
        self._audit.decision = decided
        return "" if decided.use_compile else decided.why

    def _arm(self) -> str:
        backend = self._settings.backend
        return self._settings.mode if backend == "inductor" else f"backend:{self._audit.backend}"


def _as_step(probe: Callable[..., Any] | None, applied: Applied) -> Step | None:
    """Return the probe as a function without arguments, or the target itself where it needs none."""
    if probe is not None:
        required = _required(probe) or 0
        if required > 1:
            raise HyperparameterError(
                f"probe needs {required} arguments: it is called with none, or with the target; bind the batch to it"
            )
        return functools.partial(probe, applied.given) if required else probe
    own_probe = not isinstance(applied.given, nn.Module) and _required(applied.eager) == 0
    return applied.given if own_probe else None


def _required(function: Callable[..., Any]) -> int | None:
    """Return how many arguments a function can't do without; None where it does not tell."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    return sum(p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)


def _device(module: nn.Module | None) -> str | None:
    """Return the kind of device that a module is on, where it has parameters."""
    first = None if module is None else next(module.parameters(), None)
    return None if first is None else first.device.type
