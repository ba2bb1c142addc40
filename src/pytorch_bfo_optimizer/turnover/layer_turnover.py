"""The turnover of one layer: whom it loses, who is born there, and what the record says of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from pytorch_bfo_optimizer.errors import TurnoverError
from pytorch_bfo_optimizer.turnover.events import TurnoverEvent
from pytorch_bfo_optimizer.turnover.initialisers import Initialiser, Plan, singly
from pytorch_bfo_optimizer.turnover.layers import Layer
from pytorch_bfo_optimizer.turnover.observing import Observer
from pytorch_bfo_optimizer.turnover.population import Average, Population
from pytorch_bfo_optimizer.turnover.selectors import Selector
from pytorch_bfo_optimizer.turnover.surgery import Births, Surgeon
from pytorch_bfo_optimizer.turnover.view import View

_NOBODY = torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True)
class Decision:
    """What is to happen in a layer after a step; decided for all layers before anything changes in one of them."""

    leaving: tuple[int, ...] = ()
    """Slots of the neurons that were chosen, the worst first."""
    why: str = ""
    """Why they were."""
    newborn: int = 0
    """How many neurons the layer grows by."""
    scores: Tensor | None = field(default=None, compare=False)


class LayerTurnover:
    """One layer with its neurons' serial numbers, running averages and observer."""

    def __init__(
        self,
        layer: Layer,
        *,
        surgeon: Surgeon,
        select: Selector | None,
        replace: Initialiser,
        generator: torch.Generator,
    ) -> None:
        self.layer = layer
        self.population = Population(layer.producer.out_features)
        watches = select is not None and select.needs_activity
        self.observer = Observer(layer, activity=watches, kept_rows=replace.kept_rows)
        self._surgeon, self._select, self._replace, self._generator = surgeon, select, replace, generator
        self._average = Average(len(self.population), layer.producer.weight)
        self._parameters: list[tuple[str, Tensor | None]] = []
        self.settle()

    @property
    def _modules(self) -> list[tuple[str, nn.Linear]]:
        return [(self.layer.name, self.layer.producer), *self.layer.consumers]

    @property
    def _named_parameters(self) -> list[tuple[str, Tensor | None]]:
        return [
            (f"{name}.{part}", getattr(module, part)) for name, module in self._modules for part in ("weight", "bias")
        ]

    def settle(self) -> None:
        """Take widths and parameters as they are now: it was the manager who changed them, in this layer or another."""
        self._parameters = self._named_parameters
        self._average.resize(len(self.population))
        self.observer.fit(self.layer)

    def refuse_strangers(self, model: nn.Module) -> None:
        """Check that the layer is still the one that this was made for.

        Raises:
            TurnoverError: somebody put another module or parameter in its place.
        """
        here = {id(module) for module in model.modules()}
        gone = [name for name, part in self._modules if id(part) not in here]
        changed = [
            name
            for (name, now), (_, then) in zip(self._named_parameters, self._parameters, strict=True)
            if now is not then
        ]
        if gone or changed:
            raise TurnoverError(
                f"{(gone + changed)[0]!r} is another object than when the TurnoverManager last saw it: something "
                "wrapped the model, loaded it with assign=True, or changed its width. Make the manager last, on the "
                "model as it is trained, one manager for a layer"
            )

    def view(self, step: int, *, grad_scale: Tensor | None = None) -> View:
        """Return the layer as a selector sees it."""
        return View(
            layer=self.layer,
            ages=self.population.ages(step),
            founders=self.population.founders(),
            fading=self.population.fading_mask(),
            average=self._average.value(),
            generator=self._generator,
            grad_scale=grad_scale,
        )

    @torch.no_grad()
    def measure(self, step: int, grad_scale: Tensor | None) -> None:
        """Take what the last forward and backward passes showed; before the optimizer steps."""
        activity = self.observer.taken()
        if self._select is None or not self._select.watches:
            return
        seen = self._select.measure(self.view(step, grad_scale=grad_scale), activity)
        if seen is not None:
            self._average.add(*seen, decay=self._select.decay)

    @torch.no_grad()
    def owed(self, step: int, *, share: float | None, fraction: float) -> int:
        """Return how many neurons are to turn over at a step that is due; a share adds up until it makes one."""
        if share is None:
            return max(1, round(fraction * len(self.population)))
        candidates = len(self.population) if self._select is None else int(self._select.eligible(self.view(step)).sum())
        self.population.owed += share * candidates
        whole = int(self.population.owed)
        self.population.owed -= whole
        return whole

    @torch.no_grad()
    def decide(self, step: int, count: int, *, cap: int) -> Decision:
        """Return what `count` neurons turning over means here.

        Raises:
            TurnoverError: nothing is known of any neuron, or there are no recorded inputs.
        """
        newborn = min(count, max(0, cap - len(self.population)))
        if self._select is None:
            return Decision(newborn=newborn)
        view = self.view(step)
        if self._has_only_unsound_inputs(view):
            return Decision()
        self._refuse_ignorance(view)
        eligible_H = self._select.eligible(view)
        spare = len(view.survivors(_NOBODY)) - 1  # somebody has to survive
        scores_H = self._select.scores(view)
        if tuple(scores_H.shape) != (len(self.population),):
            raise TurnoverError(
                f"select={self._select.name!r}: its scores() returned {tuple(scores_H.shape)} for the "
                f"{len(self.population)} neurons of {self.name!r}: one for each"
            )
        slots = self._select.choose(view, eligible_H, min(count, int(eligible_H.sum()), spare))
        return Decision(tuple(slots.tolist()), self._why(scores_H.cpu()[slots].tolist()), newborn, scores_H)

    @property
    def has_diverged(self) -> bool:
        """Whether a weight is not finite: whoever is born then is lost from the beginning."""
        return not all(bool(module.weight.isfinite().all()) for _, module in self._modules)

    def _has_only_unsound_inputs(self, view: View) -> bool:
        inputs_NI = _sound(view, self.observer.inputs())
        return inputs_NI is not None and not len(inputs_NI) and self.observer.has_seen_inputs

    def _why(self, scores: Sequence[float]) -> str:
        if not scores or self._select is None:
            return ""
        low, high = f"{min(scores):.3g}", f"{max(scores):.3g}"
        return f"lowest {self._select.scored}, {low if low == high else f'{low} to {high}'}"

    def _refuse_ignorance(self, view: View) -> None:
        if self._select is not None and self._select.watches and bool(view.average.isnan().all()):
            what = "forward pass in training mode" if self._select.needs_activity else "gradient"
            self._refuse_unseen(f"select={self._select.name!r}", what)

    def _refuse_unseen(self, setting: str, what: str) -> None:
        raise TurnoverError(
            f"{setting} has seen no {what} of {self.layer.name!r} so far. It sees training steps alone (model.train(), "
            "gradients on), and under torch.compile only if the TurnoverManager was made before the first compiled call"
        )

    @torch.no_grad()
    def carry_out(self, decision: Decision, step: int, *, grow: str) -> Iterator[TurnoverEvent]:
        """Have surgery do what was decided, and whatever fading neurons are due for; yield what happened."""
        view = replace(self.view(step), scores=decision.scores)
        if decision.leaving and self._replace.over:
            self.population.fading.update(dict.fromkeys(decision.leaving, self._replace.over))
            yield self._event(step, "fade", decision.leaving, decision.why)
        elif decision.leaving:
            yield from self._replaced(view, decision.leaving, decision.why, step)
        silent = self._shrink()
        if silent:
            yield from self._replaced(view, silent, f"faded over {self._replace.over} steps", step)
        if decision.newborn:
            yield self._grown(view, decision.newborn, grow, step)

    @property
    def has_faded(self) -> bool:
        """Whether the next shrink is the last one of a neuron."""
        return any(left == 1 for left in self.population.fading.values())

    def _shrink(self) -> list[int]:
        """Let the outgoing weights of what fades shrink once; return the slots in which nothing is left of them."""
        fading = self.population.fading
        if not fading:
            return []
        slots = torch.tensor(list(fading))
        lost_K = torch.tensor([1 / left for left in fading.values()], dtype=torch.float64)
        deltas = []
        for _, consumer in self.layer.consumers:
            weight = consumer.weight.detach()
            delta = torch.zeros_like(weight)
            here = slots.to(weight.device)
            delta[:, here] = (-weight[:, here].double() * lost_K.to(weight.device)).to(weight.dtype)
            deltas.append(delta)
        self._surgeon.add_to_outgoing(self.layer, deltas)
        self.population.fading = {slot: left - 1 for slot, left in fading.items() if left > 1}
        return [slot for slot, left in fading.items() if left == 1]

    def _planned(self, view: View, dying: Sequence[int], count: int) -> Plan:
        view = replace(view, inputs=_sound(view, self.observer.inputs()))
        if dying and view.inputs is not None and not len(view.inputs):
            self._refuse_unseen(f"replace={self._replace.name!r}", "forward pass in training mode")
        plan: object = self._replace.plan(view, torch.tensor(list(dying), dtype=torch.int64), count)
        if not isinstance(plan, Plan):
            raise TurnoverError(
                f"replace={self._replace.name!r}: its plan() returned {type(plan).__name__}, and has to return a Plan"
            )
        return plan

    def _replaced(self, view: View, slots: Sequence[int], why: str, step: int) -> Iterator[TurnoverEvent]:
        plan = self._planned(view, slots, len(slots))
        if plan.fold is not None:
            self._surgeon.add_to_outgoing(self.layer, plan.fold.weights, plan.fold.biases)
        self._surgeon.replace(self.layer, torch.tensor(list(slots)), plan.births)
        yield self._event(step, "death", slots, why)
        parents = [self.population.named(each) for each in plan.parents]
        self.population.bear(slots, step)
        self._average.forget(torch.tensor(list(slots)))
        yield self._event(step, "birth", slots, plan.why, parents)

    def _grown(self, view: View, count: int, grow: str, step: int) -> TurnoverEvent:
        if grow == "split":
            parents_K = view.fittest(count, _NOBODY)
            self._surgeon.split(self.layer, parents_K)
            parents, why = singly(parents_K), "split of a neuron (Net2Wider)"
        else:
            plan = self._planned(view, (), count)
            self._surgeon.resize(self.layer, torch.arange(len(self.population)), plan.births)
            parents, why = plan.parents, plan.why
        named = [self.population.named(each) for each in parents]
        slots = range(len(self.population), len(self.population) + count)
        self.population.bear(slots, step)
        return self._event(step, "birth", slots, why, named)

    def _event(
        self, step: int, kind: str, slots: Sequence[int], why: str, parents: Sequence[tuple[int, ...]] | None = None
    ) -> TurnoverEvent:
        return TurnoverEvent(
            step=step,
            layer=self.name,
            kind=kind,
            neurons=self.population.named(slots),
            parents=((),) * len(slots) if parents is None else tuple(parents),
            why=why,
            width=len(self.population),
            slots=tuple(slots),
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors."""
        return {
            "population": self.population.state_dict(),
            "average": self._average.state_dict(),
            "observer": self.observer.state_dict(),
        }

    @torch.no_grad()
    def resize(self, width: int) -> None:
        """Give the layer the width of a state that is about to be loaded; what newborn neurons are does not matter."""
        current, weight = self.layer.producer.out_features, self.layer.producer.weight
        more = max(0, width - current)
        births = Births(
            weight.new_zeros(more, weight.shape[1]),
            None,
            tuple(consumer.weight.new_zeros(consumer.out_features, more) for _, consumer in self.layer.consumers),
        )
        if width != current:
            self._surgeon.resize(self.layer, torch.arange(min(width, current)), births if more else None)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave; the layer has its width by now, and so has whoever feeds it."""
        self.population.load_state_dict(state["population"])
        self.settle()
        self._average.load_state_dict(state["average"])
        self.observer.load_state_dict(state["observer"])

    @property
    def name(self) -> str:
        """The producer's."""
        return self.layer.name


def _sound(view: View, inputs_NI: Tensor | None) -> Tensor | None:
    """Return the inputs at which activations can be squared in float32: one batch that overflowed would undo a fit."""
    if inputs_NI is None:
        return None
    squares_N: Tensor = view.activations(inputs_NI).float().square().sum(dim=1)
    return inputs_NI[squares_N.isfinite()]
