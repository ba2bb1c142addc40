"""The switch: when to compile, what to do when it fails, and the account of what came of it."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, ParamSpec, TypeVar, overload

from torch import nn

from pytorch_bfo_optimizer.compile_policy.applied import Applied, CompiledStep, install, is_installed
from pytorch_bfo_optimizer.compile_policy.attempt import Attempt
from pytorch_bfo_optimizer.compile_policy.audit import Audit
from pytorch_bfo_optimizer.compile_policy.backend import BackendSettings
from pytorch_bfo_optimizer.compile_policy.decision import Plan
from pytorch_bfo_optimizer.compile_policy.preflight import disabled_by, refused
from pytorch_bfo_optimizer.compile_policy.record import Record
from pytorch_bfo_optimizer.compile_policy.report import CompileReport, combined
from pytorch_bfo_optimizer.errors import HyperparameterError
from pytorch_bfo_optimizer.state import require_count, require_number

ModuleT = TypeVar("ModuleT", bound=nn.Module)
P = ParamSpec("P")
R = TypeVar("R")
Probe = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class CompilePolicy:
    """Whether, how and with what safety net modules and training steps are compiled; `report()` says what came of it.

    ::

        policy = CompilePolicy(enabled=True)
        model = policy.apply(model, probe=lambda: train_step(model, batch), optimizer=optimizer)
        ...
        print(policy.report())

    The probe is one full training step. It runs compiled before anything counts; then model, optimizer, scheduler,
    scaler, random numbers and the step's own variables are put back, and training begins as it would have in eager.
    What only goes forward is not put back: an iterator, a file, a log. Meanwhile the copies take as much memory as
    the training's state. If the step fails, `fallback` decides: the target stays in eager and the report says why, or
    it is raised.

    A graph that is compiled later (another shape) first runs on copies of its inputs, forward and backward; if that
    fails, it runs as dynamo captured it, with eager's numbers. What fails later than that (in a graph that ran
    before, with inputs of sizes that it ran with) can't be undone, and reaches the caller.

    Under DistributedDataParallel every process has to apply the same policy: all run the probe, or none.

    `enabled="auto"` compiles if it pays for what you will train: `steps`, `folds` and `trials`, in one process and
    with the same shapes. With the `record` of a bench its break-even decides; else steps of the probe are timed, in
    eager and compiled. By then the cost is sunk: compiled steps are kept if they are faster, even where the plan is
    shorter than the break-even, and the report says so.
    """

    enabled: Literal["auto"] | bool = "auto"
    mode: str = "default"
    """As in torch.compile; `reduce-overhead` means CUDA graphs."""
    fullgraph: bool = False
    fallback: Literal["eager", "raise"] = "eager"
    """What a failure does. A target that is not tried (`enabled=False`, TORCHDYNAMO_DISABLE) is none."""
    min_steps: int | None = None
    """For "auto": with fewer planned steps, of all trainings together, nothing is tried."""
    steps: int | None = None
    """For "auto": steps of one training."""
    folds: int = 1
    trials: int = 1
    record: Record | None = None
    """For "auto": the JSON document of `bfo-diag bench --json`, as a path or a mapping."""
    least_compile_s: float = 20.0
    """For "auto": a plan that takes less than this in eager is not tried. Small steps were seen to compile in 23 to 65
    seconds with a cold cache (in 3 to 8 with a warm one), on two cores."""
    backend: str | Callable[..., Any] = "inductor"
    options: Mapping[str, Any] | None = None
    dynamic: bool | None = None
    clock: Callable[[], float] = field(default=time.perf_counter, repr=False)
    """Seconds; for "auto"."""
    _applied: list[tuple[weakref.ref[Any], Audit]] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            HyperparameterError: naming the field, its value and the mend.
        """
        _one_of("enabled", self.enabled, ("auto", True, False))
        _one_of("fallback", self.fallback, ("eager", "raise"))
        if self.options and self.mode != "default":
            raise HyperparameterError(f"mode is {self.mode!r} and options are given: torch.compile takes one of them")
        for name in ("folds", "trials"):
            require_count(name, getattr(self, name), least=1, mend="1 is one training")
        for name in ("steps", "min_steps"):
            if getattr(self, name) is not None:
                require_count(name, getattr(self, name), least=1, mend="None means that nobody knows")
        require_number("least_compile_s", self.least_compile_s, low=0, high=1e9, mend="20.0 seconds are usual")
        if self.enabled == "auto" and self.steps is None:
            raise HyperparameterError(
                'enabled is "auto" and steps is None: to weigh the compile against the training, pass the steps of one '
                "training, or enabled=True"
            )

    @overload
    def apply(  # type: ignore[overload-overlap]  # a module is callable, and comes back as it is
        self,
        target: ModuleT,
        *,
        probe: Probe | None = None,
        optimizer: Any = None,
        scaler: Any = None,
        state: Iterable[Any] = (),
    ) -> ModuleT: ...

    @overload
    def apply(
        self,
        target: Callable[P, R],
        *,
        probe: Probe | None = None,
        optimizer: Any = None,
        scaler: Any = None,
        state: Iterable[Any] = (),
    ) -> CompiledStep[P, R]: ...

    def apply(
        self,
        target: Any,
        *,
        probe: Probe | None = None,
        optimizer: Any = None,
        scaler: Any = None,
        state: Iterable[Any] = (),
    ) -> Any:
        """Compile a module in place, or return a function as a step that runs compiled; or leave it in eager.

        Args:
            target: a module (its state-dict keys stay as they are) or a function.
            probe: runs one full training step through the target, on a batch of its own: a function without
                arguments, or one that takes the target (`lambda compiled: compiled(batch)`). A target that is a
                function and needs no arguments is its own probe. Without any, nothing is proved before the first
                call; each graph still is, on copies of its inputs, when it first runs.
            optimizer: what the probe steps.
            scaler: its loss scaler.
            state: whatever else it changes. These three have to be named only where the probe reaches them through
                objects of a library: what it holds in closures, `self` or globals is found, and so is every
                optimizer of a parameter that was found, with its schedulers.

        Raises:
            HyperparameterError: a setting that torch does not know, a record that can't be read, or nothing to
                measure for "auto".
            CompileFailedError: with `fallback="raise"`; the target is in eager, and all state as it was.
            Exception: with `fallback="raise"`, what the step raises in eager too.
        """
        if not callable(target):
            raise HyperparameterError(f"target is {target!r}: pass a module or a function")
        audit = Audit(_name(target), mode=self.mode, backend=_backend_name(self.backend), code=_code(target))
        applied = Applied(target, audit)
        self._applied.append((weakref.ref(applied.given), audit))
        if self.enabled is False:
            audit.why_off = "enabled=False"
            return applied.given
        attempt = Attempt(
            applied,
            probe=probe,
            settings=self._backend_settings(),
            fullgraph=self.fullgraph,
            roots=(target, probe, optimizer, scaler, *state),
            why_not=disabled_by() or refused(target, applied.module) or "",
        )
        try:
            audit.why_off = self._tried(attempt)
        except BaseException:
            audit.why_off = "apply() raised"
            applied.undo()
            raise
        if audit.why_off:
            applied.undo()
        audit.training = True
        return applied.given

    def report(self, target: Any = None) -> CompileReport:
        """Return the account of one target (what `apply` returned or was given), or of all together.

        Raises:
            HyperparameterError: the policy was not applied to this target.
        """
        for given, audit in self._applied:
            here = given()
            if audit.on and here is not None and not is_installed(here, audit):
                audit.on, audit.why_off = False, f"something replaced it after {audit.calls_compiled} compiled calls"
        if target is not None:
            return self._found(target)[1].report()
        audits = [audit for _, audit in self._applied]
        reports = [audit.report() for audit in audits]
        return combined(reports, mode=self.mode, backend=_backend_name(self.backend))

    def remove(self, target: Any) -> None:
        """Let a target run in eager from now on; its account stays.

        Raises:
            HyperparameterError: the policy was not applied to this target.
        """
        given, audit = self._found(target)
        if audit.on:
            install(given, None)
            audit.on, audit.why_off = False, f"it was removed after {audit.calls_compiled} compiled calls"

    def _found(self, target: Any) -> tuple[Any, Audit]:
        """Return what `apply` returned for a target, and its account."""
        living = [(given(), audit) for given, audit in self._applied]
        found = [(given, audit) for given, audit in living if target in (given, getattr(given, "__wrapped__", given))]
        if not found:
            raise HyperparameterError(f"target is {_name(target)}: this policy was not applied to it")
        return found[-1]

    def _tried(self, attempt: Attempt) -> str:
        """Return why the target stays in eager, or nothing."""
        if self.enabled is True:
            return attempt.compile_and_prove()
        assert self.steps is not None  # __post_init__ has seen to it
        plan = Plan(self.steps, self.folds, self.trials)
        if self.min_steps is not None and plan.total < self.min_steps:
            return attempt.decide_by_least(plan, self.min_steps)
        if self.record is not None:
            return attempt.decide_by_record(plan, self.record)
        return attempt.decide_by_timing(plan, clock=self.clock, least_compile_s=self.least_compile_s)

    def _backend_settings(self) -> BackendSettings:
        return BackendSettings(
            backend=self.backend,
            mode=self.mode,
            options=self.options,
            dynamic=self.dynamic,
            raises=self.fallback == "raise",
        )


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if not any(value is one or (isinstance(one, str) and value == one) for one in allowed):
        raise HyperparameterError(f"{name} is {value!r}: use one of {', '.join(map(repr, allowed))}")


def _name(target: Any) -> str:
    if isinstance(target, nn.Module):
        return type(target).__name__
    return str(getattr(target, "__qualname__", None) or type(target).__name__)


def _code(target: Any) -> Any:
    """The code that dynamo counts recompiles of."""
    function = type(target).forward if isinstance(target, nn.Module) else target
    return getattr(function, "__code__", type(target))


def _backend_name(backend: str | Callable[..., Any]) -> str:
    return backend if isinstance(backend, str) else str(getattr(backend, "__name__", type(backend).__name__))
