from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from pytorch_bfo_optimizer.compile_policy import CompilePolicy
from pytorch_bfo_optimizer.compile_policy import measure as measure_module
from pytorch_bfo_optimizer.errors import CompileFailedError, HyperparameterError

from .conftest import BrokenError, refuses, same, training


class Times:
    """Counts outside of what a policy puts back: nothing that the step reaches leads here."""

    now = 0.0
    eager_s = compiled_s = 0.0
    compile_s = 12.0
    eager = compiled = compiles = 0

    @classmethod
    def clock(cls) -> float:
        return cls.now

    @classmethod
    def backend(cls, gm: torch.fx.GraphModule, inputs: Any) -> Any:
        cls.now += cls.compile_s
        cls.compiles += 1

        def run(*args: Any) -> Any:
            cls.now += cls.compiled_s
            cls.compiled += 1
            return gm.forward(*args)

        return run


weight = torch.ones(3, requires_grad=True)


def step() -> Tensor:
    if not torch.compiler.is_compiling():
        Times.now += Times.eager_s
        Times.eager += 1
    return (weight**2).sum()


@pytest.fixture(autouse=True)
def _times(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("now", "eager_s", "compiled_s", "eager", "compiled", "compiles"):
        monkeypatch.setattr(Times, name, 0)


def auto(**settings: Any) -> CompilePolicy:
    return CompilePolicy(**{"backend": Times.backend, "clock": Times.clock, "least_compile_s": 3.0, **settings})


def test_fewer_steps_than_min_steps_are_left_without_a_try() -> None:
    policy = auto(steps=99, folds=10, min_steps=991)
    policy.apply(step)
    report = policy.report()
    assert (report.status, Times.eager, Times.compiles) == ("NOT APPLIED", 0, 0)
    assert report.decision is not None
    assert (report.reason, report.decision.planned_steps) == (report.decision.why, 990)
    assert "min_steps is 991" in report.reason


@pytest.mark.parametrize(("steps", "tried"), [(299, False), (300, True)])
def test_a_plan_that_eager_does_sooner_than_any_compile_is_not_tried(steps: int, tried: bool) -> None:
    Times.eager_s, Times.compiled_s = 0.01, 0.005
    policy = auto(steps=steps)
    policy.apply(step)
    assert (Times.compiles > 0) == tried
    assert policy.report().status == ("APPLIED" if tried else "NOT APPLIED")
    assert tried or "2.99 s in eager" in policy.report().reason


def test_steps_that_are_faster_compiled_are_kept_and_the_break_even_is_told() -> None:
    Times.eager_s, Times.compiled_s = 0.01, 0.006
    policy = auto(steps=4000)
    policy.apply(step)
    report = policy.report()
    assert report.status == "APPLIED"
    decision = report.decision
    assert decision is not None
    assert (decision.source, decision.use_compile, decision.pays) == ("measured", True, True)
    assert (decision.t_eager, decision.t_compiled) == (pytest.approx(0.01), pytest.approx(0.006))
    first_s = 12.0 + 2 * 0.006  # the trial's run and its own
    assert decision.compile_s == pytest.approx(first_s)
    assert decision.break_even_steps == 1 + -(-(first_s - 0.01) // 0.004)
    assert (report.calls, report.calls_compiled) == (0, 0)  # its own calls are none of the training's
    assert "decided: a compiled step takes 6 ms against 10 ms" in str(report)


def test_a_plan_shorter_than_the_break_even_keeps_what_has_been_paid_for() -> None:
    Times.eager_s, Times.compiled_s = 0.01, 0.006
    policy = auto(steps=400)
    policy.apply(step)
    assert policy.report().status == "APPLIED"
    assert policy.report().decision.pays is False
    assert "spent" in policy.report().decision.why


@pytest.mark.parametrize("compiled_s", [0.01, 0.02])
def test_steps_that_are_not_faster_go_back_to_eager(compiled_s: float) -> None:
    Times.eager_s, Times.compiled_s = 0.01, compiled_s
    policy = auto(steps=4000)
    compiled = policy.apply(step)
    ran = Times.compiled
    compiled()
    assert Times.compiled == ran
    assert policy.report().status == "NOT APPLIED"
    assert "not faster" in policy.report().reason
    assert policy.report().calls == 0


def test_blocks_of_short_steps_hold_many_and_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_module, "PAIRS", 3)
    Times.eager_s, Times.compiled_s = 0.001, 0.0005
    turns: list[str] = []
    policy = auto(steps=10_000)
    policy.apply(step, probe=lambda compiled: (turns.append("step"), compiled()))
    assert turns == []  # it was put back
    # warm-up and first timing, the proof, two quiet steps; then three pairs of blocks of ten
    assert Times.eager == 6 + 3 * 10
    assert Times.compiled == 2 + 2 + 3 * 10
    assert policy.report().status == "APPLIED"


def test_what_is_compiled_while_it_settles_is_part_of_the_cost() -> None:
    """The second step has another size, and compiles again."""
    Times.eager_s, Times.compiled_s = 0.01, 0.006
    sizes = iter((*[4] * 7, *[5] * 200))

    def probe(compiled: Any) -> None:
        compiled(torch.ones(next(sizes)))

    def sized(x: Tensor) -> Tensor:
        step()
        return x * 2

    policy = auto(steps=100_000, dynamic=False)
    policy.apply(sized, probe=probe)
    decision = policy.report().decision
    assert decision.compile_s == pytest.approx(2 * 12.0 + 4 * 0.006, rel=1e-3)
    assert Times.compiles == 2
    assert policy.report().notes == ("an iterator that the step can reach (tuple_iterator)",)


def test_all_that_was_timed_is_put_back() -> None:
    run = training()
    before = copy.deepcopy(run.state())
    policy = CompilePolicy(steps=10_000, backend="eager", least_compile_s=0)
    policy.apply(run.model, probe=run.step)
    assert same(run.state(), before)
    assert policy.report().decision.t_compiled > 0
    expected = training().run((32, 20, 32)).state()
    again = training()
    CompilePolicy(steps=10_000, backend="eager", least_compile_s=0).apply(again.model, probe=again.step)
    assert same(again.run((32, 20, 32)).state(), expected)


@pytest.mark.parametrize("fallback", ["eager", "raise"])
def test_a_step_that_fails_in_eager_ends_the_timing(fallback: Any) -> None:
    run = training()
    before = copy.deepcopy(run.state())

    def fails() -> None:
        run.step()
        raise BrokenError("mine")

    policy = CompilePolicy(steps=10_000, backend="eager", fallback=fallback)
    if fallback == "raise":
        with pytest.raises(BrokenError, match="mine"):
            policy.apply(run.model, probe=fails)
    else:
        policy.apply(run.model, probe=fails)
        assert policy.report().reason == "the step itself fails, in eager too: BrokenError: mine"
    assert same(run.state(), before)


@pytest.mark.parametrize("fallback", ["eager", "raise"])
def test_a_compile_that_fails_ends_it_too(fallback: Any) -> None:
    run = training()
    policy = CompilePolicy(steps=10_000, backend=refuses, fallback=fallback, least_compile_s=0)
    if fallback == "raise":
        with pytest.raises(CompileFailedError, match="compiles nothing"):
            policy.apply(run.model, probe=run.step)
    else:
        policy.apply(run.model, probe=run.step)
        assert "compiles nothing" in policy.report().reason
    assert run.model._compiled_call_impl is None


def test_without_anything_to_time_auto_says_what_it_needs() -> None:
    with pytest.raises(HyperparameterError, match="probe="):
        CompilePolicy(steps=10).apply(training().model)
