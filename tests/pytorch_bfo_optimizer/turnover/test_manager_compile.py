from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from pytorch_bfo_optimizer import CompilePolicy, TurnoverError
from pytorch_bfo_optimizer.turnover import Every, TurnoverManager

pytestmark = pytest.mark.compile
Make = Callable[..., Any]
LIMIT = "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"  # torch 2.6


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def trained(training: Any, preset: str, *, compiled: bool) -> TurnoverManager:
    manager = TurnoverManager.preset(preset, training.model, training.optimizer, every=3, fraction=0.1)
    if compiled:
        training.model = torch.compile(training.model, backend="aot_eager", fullgraph=True)
    training.model.train()
    for _ in range(6):
        training.step()
    return manager


@pytest.mark.parametrize("preset", ["hybrid", "growth"])
def test_compiled_code_is_observed_without_a_graph_break(preset: str, digits: Make) -> None:
    plainly, compiled = digits(model="mlp"), digits(model="mlp")
    expected, manager = trained(plainly, preset, compiled=False), trained(compiled, preset, compiled=True)
    assert [(event.kind, event.slots) for event in manager.events] == [
        (event.kind, event.slots) for event in expected.events
    ]
    assert manager.events[0].step == 3
    for one, other in zip(plainly.model.parameters(), compiled.model.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def audited(training: Any, policy: CompilePolicy, caplog: pytest.LogCaptureFixture, steps: int) -> TurnoverManager:
    manager = TurnoverManager(
        training.model,
        training.optimizer,
        select=None,
        replace="zero_outgoing",
        schedule=Every(2),
        grow_to=2.0,
        compile_policy=policy,
    )
    with manager.paused():
        policy.apply(training.model, probe=lambda: training.step(32), optimizer=training.optimizer)
    assert manager.steps == 0
    with caplog.at_level(logging.WARNING, "pytorch_bfo_optimizer"):
        for _ in range(steps):
            training.step(32)
    return manager


def test_growth_compiles_again_and_the_audit_says_so(digits: Make, caplog: pytest.LogCaptureFixture) -> None:
    policy = CompilePolicy(enabled=True, backend="eager")
    manager = audited(digits(model="mlp"), policy, caplog, 4)
    assert [event.step for event in manager.events] == [2, 4]
    ((step, report),) = manager.audits  # of the second growth nothing has run yet
    assert step == 3
    assert report.status == "APPLIED"
    assert len(report.recompiles) == 1
    assert report.graphs == 2
    assert manager.summary()["audits"] == [[3, "APPLIED"]]
    assert not [record for record in caplog.records if record.name == "pytorch_bfo_optimizer"]


def test_a_model_that_is_compiled_no_more_is_told_of(digits: Make, caplog: pytest.LogCaptureFixture) -> None:
    policy = CompilePolicy(enabled=True, backend="eager")
    with torch._dynamo.config.patch({LIMIT: 1}):
        manager = audited(digits(model="mlp"), policy, caplog, 3)
    ((step, report),) = manager.audits
    assert report.status != "APPLIED"
    assert report.limit_hits
    (said,) = (record.getMessage() for record in caplog.records if record.name == "pytorch_bfo_optimizer")
    assert said.startswith(f"after a change of width, at step {step}: compile {report.status} (")
    assert "recompile limit: " in said


def test_hooks_that_came_after_the_compile_are_missed_with_a_clear_error(digits: Make) -> None:
    training = digits(model="mlp")
    model = training.model
    training.model = torch.compile(model, backend="eager")
    training.step()
    TurnoverManager(model, training.optimizer, select="utility", schedule=Every(2))
    training.step()
    with pytest.raises(TurnoverError, match="only if the TurnoverManager was made before the first compiled call"):
        training.step()
