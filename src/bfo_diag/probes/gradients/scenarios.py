"""The situations that an optimizer's closure meets in real training, each arranged on a workload."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bfo_diag.cases.workload import Workload

Loss = Callable[[], Tensor]


class ScenarioError(ValueError):
    """What the scenario `raises` raises; it has to reach the caller as it is."""


@dataclass
class Arrangement:
    """A workload in one situation.

    `loss()` is the loss as this situation computes it. `closure(zero_grad)` is one call of the closure as a user
    writes it, with backward where the situation has it; `evaluate()` is the same without backward.
    """

    parameters: dict[str, Tensor]
    loss: Loss
    closure: Callable[[Callable[[], None]], Tensor | float]
    evaluate: Callable[[], Tensor | float]
    before_step: Callable[[int], None] = lambda step: None


@dataclass(frozen=True)
class Scenario:
    """A named situation; `not_trained` says what each mode does of our own optimizer where it can't train."""

    name: str
    help: str
    arrange: Callable[[Workload], Arrangement]
    not_trained: dict[str, str] = field(default_factory=dict)

    def expected(self, mode: str) -> str:
        """Return the status that a right optimizer has in `mode`."""
        return self.not_trained.get(mode, "trained")


def _usual(parameters: dict[str, Tensor], loss: Loss, **changes: object) -> Arrangement:
    def closure(zero_grad: Callable[[], None]) -> Tensor:
        zero_grad()
        value = loss()
        value.backward()
        return value

    arrangement = Arrangement(parameters=parameters, loss=loss, closure=closure, evaluate=loss)
    for name, value in changes.items():
        setattr(arrangement, name, value)
    return arrangement


def _all_grad(work: Workload) -> Arrangement:
    return _usual(work.parameters, work.loss)


def _no_grad(work: Workload) -> Arrangement:
    for parameter in work.parameters.values():
        parameter.requires_grad_(False)

    def closure(zero_grad: Callable[[], None]) -> float:
        zero_grad()
        loss = work.loss()
        loss.backward()
        return loss.item()

    return _usual(work.parameters, work.loss, closure=closure)


def _mixed(work: Workload) -> Arrangement:
    for index, parameter in enumerate(work.parameters.values()):
        parameter.requires_grad_(index % 2 == 0)
    return _usual(work.parameters, work.loss)


def _toggled(work: Workload) -> Arrangement:
    def before_step(step: int) -> None:
        for parameter in work.parameters.values():
            parameter.requires_grad_(step % 2 == 1)

    return _usual(work.parameters, work.loss, before_step=before_step)


def _detached(work: Workload) -> Arrangement:
    return _usual(work.parameters, lambda: work.loss(detached=True))


def _under_no_grad(work: Workload) -> Arrangement:
    def loss() -> Tensor:
        with torch.no_grad():
            return work.loss()

    return _usual(work.parameters, loss)


def _item_loss(work: Workload) -> Arrangement:
    def evaluate() -> float:
        return work.loss().item()

    def closure(zero_grad: Callable[[], None]) -> float:
        zero_grad()
        return evaluate()

    return _usual(work.parameters, work.loss, closure=closure, evaluate=evaluate)


def _frozen_backbone(work: Workload) -> Arrangement:
    for parameter in work.trunk_parameters.values():
        parameter.requires_grad_(False)
    return _usual(dict(work.head_parameters), work.loss)


def _nan_region(work: Workload) -> Arrangement:
    coordinate = next(iter(work.trunk_parameters.values()))
    border = coordinate.detach().flatten()[0].clone()

    def loss() -> Tensor:
        # Half of the space: wherever this coordinate lies above its start.
        # (Added as a constant: a NaN factor would make the gradient NaN on this side of the border too.)
        outside = coordinate.flatten()[0].detach() > border
        return work.loss() + torch.where(outside, float("nan"), 0.0)

    return _usual(work.parameters, loss)


def _raises(work: Workload) -> Arrangement:
    calls = 0

    def loss() -> Tensor:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise ScenarioError("the closure's own error, raised at its fourth evaluation")
        return work.loss()

    return _usual(work.parameters, loss)


def _autocast(work: Workload) -> Arrangement:
    device = next(iter(work.parameters.values())).device.type

    def loss() -> Tensor:
        with torch.autocast(device, dtype=torch.bfloat16):
            return work.loss()

    return _usual(work.parameters, loss)


def _accumulation(work: Workload) -> Arrangement:
    def closure(zero_grad: Callable[[], None]) -> float:
        zero_grad()
        total = 0.0
        for part in range(work.parts):
            loss = work.part_loss(part) / work.parts
            loss.backward()
            total += loss.item()
        return total

    return _usual(work.parameters, work.loss, closure=closure)


_NO_GRADIENT_TO_HAVE = {"dual": "refused", "smart": "refused"}

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("all-grad", "all parameters require grad", _all_grad),
        Scenario("no-grad", "none requires grad, and the closure calls backward()", _no_grad, {"as-is": "failed"}),
        Scenario("mixed", "every second parameter requires grad", _mixed),
        Scenario("toggled", "requires_grad is switched between the steps", _toggled, {"as-is": "failed"}),
        Scenario("detached", "the graph is cut in the middle of the closure", _detached),
        Scenario(
            "under-no-grad",
            "the closure computes under no_grad() and calls backward()",
            _under_no_grad,
            {**_NO_GRADIENT_TO_HAVE, "as-is": "failed"},
        ),
        Scenario(
            "item-loss", "the closure returns a float and never calls backward()", _item_loss, _NO_GRADIENT_TO_HAVE
        ),
        Scenario("frozen-backbone", "the trunk is frozen, the optimizer holds the head", _frozen_backbone),
        Scenario("nan-region", "the loss is NaN in half of the space", _nan_region),
        Scenario(
            "raises",
            "the closure raises an error of its own",
            _raises,
            dict.fromkeys(("dual", "smart", "config", "minimal", "as-is"), "failed"),
        ),
        Scenario("autocast", "the closure runs under autocast to bfloat16", _autocast),
        Scenario("accumulation", "the closure runs backward on each of two micro-batches", _accumulation),
    )
}
