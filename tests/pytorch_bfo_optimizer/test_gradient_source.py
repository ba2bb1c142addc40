from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pytorch_bfo_optimizer import FunctionObjective, GradientConfig, HybridBFO, NoGradientError
from pytorch_bfo_optimizer.gradient_source import TRUSTED


class Rows:
    """A batched objective that is no closure."""

    def bind(self, params: Any) -> None: ...

    def evaluate_population(self, pop_PD: Tensor) -> Tensor:
        return (pop_PD**2).sum(dim=1)


# --- when a gradient is asked for ---


def test_auto_says_what_it_decided_and_looks_again(caplog: pytest.LogCaptureFixture) -> None:
    param = torch.ones(2)
    optimizer = HybridBFO([param], population_size=2, gradient_config=GradientConfig(check_every=4))
    graph = {"there": False}

    def closure() -> Any:
        loss = (param**2).sum()
        return loss if graph["there"] else loss.item()

    caplog.set_level(logging.INFO, logger="pytorch_bfo_optimizer")
    tries = []
    for step in range(10):
        graph["there"] = step in (3, 4, 5, 6)
        optimizer.step(closure)
        tries.append(optimizer.gradient_evaluations)
    # tried at 0; from the check at 4 on while it works (4, where a run begins, twice; 5, 6), and once more when it no
    # longer does (7); at 8
    assert tries == [1, 1, 1, 1, 3, 4, 5, 6, 7, 7]
    decision = optimizer.gradient_decision
    assert decision is not None
    assert not decision.use_gradient
    assert "plain number" in decision.why
    assert decision.step == 7
    messages = [record.getMessage() for record in caplog.records]
    assert [message.split(",")[0] for message in messages] == [
        "generation 0: no gradient",
        "generation 4: gradient",
        "generation 7: no gradient",
    ]


def test_always_raises_without_a_gradient_unless_told_to_go_on(caplog: pytest.LogCaptureFixture) -> None:
    param = torch.ones(2)
    optimizer = HybridBFO([param], population_size=2, gradient_config=GradientConfig(mode="always"))
    with pytest.raises(NoGradientError, match="plain number"):
        optimizer.step(lambda: param.sum().item())
    assert param.tolist() == [1, 1]
    optimizer.gradient_config = GradientConfig(mode="always", fallback_on_error=True)
    optimizer.step(lambda: param.sum().item())
    assert "going on without" in caplog.text
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)


def test_an_objective_that_cannot_be_called_is_searched_without_a_gradient() -> None:
    param = torch.ones(2)
    optimizer = HybridBFO([param], population_size=4, swim_length=2)
    losses = [optimizer.step(Rows()) for _ in range(6)]  # type: ignore[call-overload]
    assert losses[-1] < losses[0]
    assert optimizer.evaluations == 6 * 4 * 3
    assert optimizer.gradient_evaluations == 0
    assert optimizer.gradient_decision is not None
    assert "cannot be called" in optimizer.gradient_decision.why
    optimizer.step(Rows(), lambda: (param**2).sum())  # type: ignore[arg-type]
    assert optimizer.gradient_evaluations == 0  # auto looks again at its next check
    optimizer.gradient_config = GradientConfig(mode="always")
    loss = optimizer.step(Rows(), lambda: (param**2).sum())  # type: ignore[arg-type]
    assert optimizer.gradient_evaluations == 2
    assert loss == pytest.approx(float((param**2).sum()))


def test_a_gradient_that_is_not_finite_is_not_followed() -> None:
    param = torch.ones(2)

    def closure() -> Tensor:
        return (param**2).sum() + (param - 1).abs().sum().sqrt()  # its slope at 1 is NaN

    strict = HybridBFO([param], population_size=2, gradient_config=GradientConfig(mode="always"))
    with pytest.raises(NoGradientError, match="not finite in parameter 0") as caught:
        strict.step(closure)
    assert caught.value.reason == "non-finite"
    auto = HybridBFO([param], population_size=2)
    auto.step(closure)
    assert auto.gradient_decision is not None
    assert "not finite" in auto.gradient_decision.why
    assert bool(param.isfinite().all())


# --- one closure, or two ---


def test_a_step_of_a_run_costs_one_call_of_one_closure(make_bowl: Callable[..., Any]) -> None:
    bowl, calls = make_bowl(), []
    optimizer = HybridBFO(bowl.params, population_size=3, swim_length=2)
    for _ in range(8):
        before = bowl.calls
        optimizer.step(bowl)
        calls.append(bowl.calls - before)
        assert optimizer.evaluations == bowl.calls
    assert calls == [2, 1, 1, 1, 1, 1, 1, 1]  # the first feels the slope twice: where it stands, and where it goes
    assert optimizer.gradient_evaluations == 9


def test_of_two_closures_that_agree_the_first_is_called_now_and_then(make_bowl: Callable[..., Any]) -> None:
    bowl, forwards, gradients = make_bowl(), [], []

    def forward() -> Tensor:
        forwards.append(torch.is_grad_enabled())
        return bowl.loss()

    def grad_closure() -> Tensor:
        gradients.append(torch.is_grad_enabled())
        return bowl.loss()

    optimizer = HybridBFO(bowl.params, population_size=4)
    losses = []
    for _ in range(2 * TRUSTED + 1):
        losses.append(optimizer.step(forward, grad_closure))
        assert losses[-1] == pytest.approx(bowl.loss().item())
    assert forwards == [False] * 2
    assert gradients == [True] * (2 * TRUSTED + 2)
    assert optimizer.evaluations == len(forwards)
    assert optimizer.gradient_evaluations == len(gradients)


@pytest.mark.parametrize("other", [lambda loss: loss * 1000, lambda loss: (loss, {}), lambda loss: "0.5"])
def test_where_they_do_not_the_first_says_what_the_loss_is(other: Any, make_bowl: Callable[..., Any]) -> None:
    bowl, calls = make_bowl(), []

    def forward() -> Tensor:
        calls.append(torch.is_grad_enabled())
        return bowl.loss()

    def grad_closure() -> Any:
        loss = sum(((param - 1) ** 2).sum() for param in bowl.params)
        loss.backward()  # type: ignore[union-attr]
        return other(loss)

    optimizer = HybridBFO(bowl.params, population_size=4)
    for step in range(5):
        before = bowl.calls
        loss = optimizer.step(forward, grad_closure)
        assert bowl.calls - before == (2 if step == 0 else 1)
        assert loss == pytest.approx(float(bowl.loss().detach()))
        bowl.calls -= 1
    assert calls == [False] * 6
    assert all(param.grad is None for param in bowl.params)


def test_two_that_part_later_are_noticed() -> None:
    param, grown = torch.ones(2, requires_grad=True), {"by": 0.0}

    def grad_closure() -> Tensor:
        loss = (param**2).sum() + grown["by"]
        grown["by"] = 5.0 if optimizer.generation > 2 else 0.0
        return loss

    optimizer = HybridBFO([param], population_size=2)
    losses = [optimizer.step(lambda: (param**2).sum(), grad_closure) for _ in range(20)]
    assert max(losses[3:TRUSTED]) > 5  # believed, and no longer than that:
    assert max(losses[TRUSTED + 1 :]) < 2


def test_a_batched_objective_gives_gradients_as_a_closure_and_one_loss_at_a_time() -> None:
    param, rows = torch.ones(3, requires_grad=True), []

    def fn(x_PD: Tensor) -> Tensor:
        rows.append(len(x_PD))
        return (x_PD**2).sum(dim=1)

    optimizer = HybridBFO([param], population_size=5)
    for _ in range(4):
        optimizer.step(FunctionObjective(fn))
    assert rows == [1] * 5
    optimizer.step(FunctionObjective(fn), lambda: (param**2).sum() + 1)
    assert rows == [1] * 6
    assert optimizer.evaluations == 6


def test_as_it_stands_the_closure_runs_its_own_backward() -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = HybridBFO([param], population_size=3, gradient_config=None)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (param**2).sum()
        loss.backward()
        return loss

    losses = [optimizer.step(closure) for _ in range(5)]
    assert losses[-1] < losses[0]
    assert param.grad is not None
    optimizer.step(lambda: (param**2).sum(), closure)  # type: ignore[arg-type]
    assert optimizer.gradient_evaluations == 7
    with torch.no_grad():
        optimizer.zero_grad()
        optimizer.step(lambda: (param**2).sum())  # nothing in .grad
    assert optimizer.gradient_decision is not None
    assert not optimizer.gradient_decision.use_gradient
    assert math.isfinite(optimizer.best_fitness or math.nan)
