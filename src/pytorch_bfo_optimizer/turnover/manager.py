"""`TurnoverManager`: neurons die and are born at the steps of an optimizer.

It decides when, and asks others who (`selectors`), how (`initialisers`) and to do it (`surgery`).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace as replaced
from types import TracebackType
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from pytorch_bfo_optimizer.compile_policy import CompilePolicy, CompileReport
from pytorch_bfo_optimizer.errors import HyperparameterError, TurnoverError
from pytorch_bfo_optimizer.step_hooks import calls_itself, has_closure
from pytorch_bfo_optimizer.turnover import checks, presets
from pytorch_bfo_optimizer.turnover.events import TurnoverEvent
from pytorch_bfo_optimizer.turnover.initialisers import Initialiser, as_initialiser
from pytorch_bfo_optimizer.turnover.layer_turnover import Decision, LayerTurnover
from pytorch_bfo_optimizer.turnover.layers import Layer, find_layers
from pytorch_bfo_optimizer.turnover.lineage import Lineage
from pytorch_bfo_optimizer.turnover.measuring import measured
from pytorch_bfo_optimizer.turnover.schedule import Every, Never, Schedule
from pytorch_bfo_optimizer.turnover.selectors import Selector, as_selector
from pytorch_bfo_optimizer.turnover.summary import summarised
from pytorch_bfo_optimizer.turnover.surgery import Surgeon

_LOG = logging.getLogger("pytorch_bfo_optimizer")
_FORMAT = 1
EventHook = Callable[[TurnoverEvent], object]
"""Whatever takes an event: `print`, `list.append`, a logger."""


class TurnoverManager:
    """Replaces and adds neurons of a model's `nn.Linear` layers while it trains.

    ::

        manager = TurnoverManager.preset("functional", model, optimizer, layers="blocks.*.mlp.0", every=100)
        for x, y in batches:  # an ordinary loop: nothing of it changes
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()
        print(manager.summary())

    All happens in hooks on `optimizer.step`: gradients are read before the step, as the optimizer sees them (however
    many backward passes were accumulated, unscaled and clipped), and after it neurons turn over where the schedule says
    so. A step that a GradScaler skips is none. Activations are read in forward passes of modules that train, with
    gradients on, and nowhere else. What happened is in `events`.

    Make it when model and optimizer are ready, and before the first compiled call: torch.compile ignores hooks that
    come later. A width that changes makes new `nn.Parameter` objects; the optimizer is told, and whoever else holds the
    old ones is not.

    Args:
        model: what trains.
        optimizer: what steps its parameters.
        layers: patterns (fnmatch) of module names; None: every `nn.Linear` whose neurons can be replaced and train.
        select: who dies: a name (`selectors`) or a `Selector`; None: nobody, neurons are only added.
        replace: who is born: a name (`initialisers`) or an `Initialiser`.
        schedule: when: `Every(n)`, `Continuous(rate)`, `Once(step)`, `Never()`.
        fraction: share of a layer's width that turns over at a step that is due, at least one neuron.
        grow_to: at each step that is due a layer also grows by `fraction`, until it has this width (an int), or so many
            times its first width (a float), exactly. None: widths stay.
        grow: "newborn" as `replace` makes them, or "split": Net2Wider. Twins get the same updates for ever from an
            optimizer that looks at each weight alone, unless dropout or noise tells them apart.
        generator: the source of all that is random here; None: a new one with `seed`.
        seed: see `generator`.
        measure: returns a loss of the model, called before and after each turnover in eval mode without gradients; what
            it gave is in the events.
        on_event: each is called with each event.
        compile_policy: after a change of width, what it reports at the end of the next step goes into `audits`.

    Raises:
        HyperparameterError: a setting out of range, or a name that is not known.
        TurnoverError: no such layer.
        TurnoverRefusedError: layers or an optimizer on which surgery would change more than was asked.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        layers: str | Sequence[str] | None = None,
        select: str | Selector | None = "gradient_activation",
        replace: str | Initialiser = "fold",
        schedule: Schedule | None = None,
        fraction: float = 0.05,
        grow_to: float | int | None = None,
        grow: Literal["newborn", "split"] = "newborn",
        generator: torch.Generator | None = None,
        seed: int = 0,
        measure: Callable[[], float] | None = None,
        on_event: Iterable[EventHook] = (),
        compile_policy: CompilePolicy | None = None,
    ) -> None:
        self.schedule: Schedule = Every(100) if schedule is None else schedule
        self.select = None if select is None else as_selector(select)
        self.replace = as_initialiser(replace)
        self.fraction, self.grow_to, self.grow = fraction, grow_to, grow
        checks.refuse_unfit(self.select, self.schedule, fraction, grow_to, grow)
        checks.refuse_strange(model, optimizer, layers)
        self.model, self.optimizer = model, optimizer
        self.steps = 0
        """Optimizer steps so far."""
        self.events: list[TurnoverEvent] = []
        """All that happened, in order."""
        self.audits: list[tuple[int, CompileReport]] = []
        """Step, and what the compile policy reported at its end; the first step after each change of width."""
        self._generator = torch.Generator().manual_seed(seed) if generator is None else generator
        self._measure, self._on_event, self._compile_policy = measure, tuple(on_event), compile_policy
        self._paused, self._seen, self._audit_due = False, False, False
        self._layers: list[LayerTurnover] = []
        self._hooks: list[Any] = []
        self._surgeon: Surgeon | None = None
        found = self._found(layers)
        self.first_widths = {layer.name: layer.producer.out_features for layer in found}
        """Width of each layer when this was made."""
        self.lineage = Lineage(self.first_widths)
        if not isinstance(self.schedule, Never):
            checks.refuse_cap(grow_to, self.first_widths)
            checks.take(found, self)
            try:
                self._begin(found)
            except BaseException:
                self.close()
                raise

    @classmethod
    def preset(
        cls,
        name: str,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        every: int = 100,
        fraction: float = 0.05,
        grow_to: float | int | None = None,
        **others: Any,
    ) -> TurnoverManager:
        """Return a manager with the selector, initialiser and schedule of a strategy: see `presets.settings`.

        Args:
            name: one of `PRESETS`.
            model: as for the class; so are all further keywords but `select`, `replace` and `schedule`.
            optimizer: likewise.
            every: steps between two turnovers.
            fraction: share of the width that turns over at each.
            grow_to: for `growth` alone.
            others: layers, generator, seed, measure, on_event, compile_policy, grow.

        Raises:
            HyperparameterError: no such preset, or a setting that it does not have.
        """
        chosen = presets.settings(name, every=every, fraction=fraction, grow_to=grow_to)
        fixed = [key for key in ("select", "replace", "schedule") if key in others]
        if fixed:
            raise HyperparameterError(
                f"{fixed[0]} is what the preset {name!r} stands for: use TurnoverManager(...) to choose it yourself"
            )
        return cls(model, optimizer, **chosen, **others)

    def _found(self, patterns: str | Sequence[str] | None) -> tuple[Layer, ...]:
        if not isinstance(self.schedule, Never):
            return checks.trained(find_layers(self.model, patterns), self.optimizer, named=patterns is not None)
        if patterns is not None:
            return find_layers(self.model, patterns)
        try:
            return find_layers(self.model, None)
        except TurnoverError:  # a control trains whatever there is
            return ()

    def _begin(self, found: Sequence[Layer]) -> None:
        surgeon = Surgeon(self.model, self.optimizer)
        surgeon.watch(found)
        self._surgeon = surgeon
        make = functools.partial(
            LayerTurnover, surgeon=surgeon, select=self.select, replace=self.replace, generator=self._generator
        )
        self._layers = [make(layer) for layer in found]
        self._hooks = [
            self.optimizer.register_step_pre_hook(self._before),
            self.optimizer.register_step_post_hook(self._after),
        ]

    def __repr__(self) -> str:
        """Say what it does to which layers."""
        chosen = f"select={None if self.select is None else self.select.name!r}, replace={self.replace.name!r}"
        return f"TurnoverManager({chosen}, schedule={self.schedule}, widths={self.widths}, steps={self.steps})"

    @property
    def widths(self) -> dict[str, int]:
        """Width of each layer now."""
        return self.first_widths | {one.name: len(one.population) for one in self._layers}

    # At the optimizer's steps

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        if self._paused or calls_itself(optimizer):
            return None
        self._seen = False
        if has_closure(args, kwargs):
            return self._with_closure(args, kwargs)
        self._observe()
        return None

    def _with_closure(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """Return the arguments of a step with a closure after which the gradients are read: it makes them."""
        closure = args[1] if args[1:] else kwargs["closure"]

        @functools.wraps(closure)
        def observed() -> Any:
            loss = closure()
            self._observe()
            return loss

        if args[1:]:
            return (args[0], observed, *args[2:]), kwargs
        return args, {**kwargs, "closure": observed}

    def _observe(self) -> None:
        """Measure once for each step, what the scaler will skip excepted."""
        if self._seen or _is_skipped(self.optimizer):
            return
        self._seen = True
        for layer in self._layers:
            layer.measure(self.steps, getattr(self.optimizer, "grad_scale", None))

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._paused or calls_itself(optimizer) or _is_skipped(optimizer):
            return
        self.steps += 1
        self._audit()
        self._turn_over()

    def _audit(self) -> None:
        if not self._audit_due or self._compile_policy is None:
            return
        self._audit_due = False
        report = self._compile_policy.report()
        self.audits.append((self.steps, report))
        if report.status != "APPLIED" or report.limit_hits:
            hit = f"; recompile limit: {report.limit_hits[0]}" if report.limit_hits else ""
            _LOG.warning(
                "after a change of width, at step %d: compile %s (%s)%s", self.steps, report.status, report.reason, hit
            )

    def _turn_over(self) -> None:
        decisions = self._decided()
        happens = any(one.leaving or one.newborn for one in decisions) or any(one.has_faded for one in self._layers)
        fades = any(one.population.fading for one in self._layers)
        if not happens and not fades:
            return
        for layer in self._layers:
            layer.refuse_strangers(self.model)
        before = self._measured() if happens else None
        widths, drafts, after = self.widths, list[TurnoverEvent](), None
        try:
            for layer, decision in zip(self._layers, decisions, strict=True):
                for event in layer.carry_out(decision, self.steps, grow=self.grow):
                    drafts.append(event)
                for other in self._layers:
                    other.settle()
            after = self._measured() if happens else None
        finally:  # what happened before somebody raised is on record, too
            events = [replaced(draft, loss_before=before, loss_after=after) for draft in drafts]
            self.events += events
            for event in events:
                self.lineage.add(event)
            self._audit_due = self._audit_due or self.widths != widths
        for event in events:
            for hook in self._on_event:
                hook(event)

    def _decided(self) -> list[Decision]:
        """Return what is to happen in each layer, by the weights as they are before any of it does."""
        nothing = [Decision()] * len(self._layers)
        if not self.schedule.is_due(self.steps):
            return nothing
        diverged = next((layer.name for layer in self._layers if layer.has_diverged), None)
        if diverged is not None:
            _LOG.warning("step %d: weights of %r are not finite; no neuron dies or is born", self.steps, diverged)
            return nothing
        decisions = []
        for layer in self._layers:
            count = layer.owed(self.steps, share=self.schedule.share, fraction=self.fraction)
            decisions.append(layer.decide(self.steps, count, cap=self._cap(layer)) if count else Decision())
        return decisions

    def _cap(self, layer: LayerTurnover) -> int:
        if self.grow_to is None:
            return 0
        return self.grow_to if isinstance(self.grow_to, int) else round(self.grow_to * layer.population.first_width)

    def _measured(self) -> float | None:
        if self._measure is None:
            return None
        return measured(self._measure, self.model, [layer.observer for layer in self._layers])

    # Around the training

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let steps of the optimizer and forward passes not count: a step that is tried, and put back.

        No neuron turns over meanwhile, and nothing is observed.
        """
        before, self._paused = self._paused, True
        try:
            with ExitStack() as kept:
                for layer in self._layers:
                    kept.enter_context(layer.observer.off())
                if self._surgeon is not None:
                    kept.enter_context(self._surgeon.paused())
                yield
        finally:
            self._paused = before

    def close(self) -> None:
        """Take all hooks off model and optimizer; what was recorded stays."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        for layer in self._layers:
            layer.observer.close()
        if self._surgeon is not None:
            self._surgeon.close()
        checks.release(self)

    def __enter__(self) -> TurnoverManager:
        """Return self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def summary(self) -> dict[str, Any]:
        """Return what came of it, as JSON values: see `summary.summarised`."""
        counted = summarised(self.events, self.lineage, self.widths)
        return {"steps": self.steps, **counted, "audits": [[step, report.status] for step, report in self.audits]}

    def state_dict(self) -> dict[str, Any]:
        """Return plain values and tensors, which `torch.load` takes with `weights_only=True`."""
        return {
            "format": _FORMAT,
            "settings": self._described(),
            "steps": self.steps,
            "generator": self._generator.get_state(),
            "first_widths": dict(self.first_widths),
            "layers": {layer.name: layer.state_dict() for layer in self._layers},
            "young": None if self._surgeon is None else self._surgeon.young.state_dict(),
            "events": [event.plain() for event in self.events],
            "audit_due": self._audit_due,
        }

    def _described(self) -> dict[str, Any]:
        return {
            "select": None if self.select is None else self.select.name,
            "replace": self.replace.name,
            "grow_to": self.grow_to,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`: resizes the model's layers to the widths of that time.

        Load it first: `model.load_state_dict` and `optimizer.load_state_dict` fit after it. Audits are not kept.

        Raises:
            TurnoverError: the state of other layers or settings, or a damaged one; nothing has changed then.
            TurnoverRefusedError: a layer that can't be resized.
        """
        checks.refuse_state(
            state, format=_FORMAT, layers=[layer.name for layer in self._layers], settings=self._described()
        )
        for layer in self._layers:
            layer.resize(len(state["layers"][layer.name]["population"]["serials"]))
        for layer in self._layers:
            layer.load_state_dict(state["layers"][layer.name])
        if self._surgeon is not None and state["young"] is not None:
            self._surgeon.young.load_state_dict(state["young"], [layer.layer for layer in self._layers])
        self.steps, self._audit_due = state["steps"], state["audit_due"]
        self._generator.set_state(state["generator"])
        self.first_widths = dict(state["first_widths"])
        self.events = [TurnoverEvent.of(event) for event in state["events"]]
        self.lineage = Lineage(self.first_widths, self.events)


def _is_skipped(optimizer: Optimizer) -> bool:
    """Whether a GradScaler has told a fused optimizer to make no step of this one."""
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(found_inf)
