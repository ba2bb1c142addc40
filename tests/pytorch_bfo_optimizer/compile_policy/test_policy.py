from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytorch_bfo_optimizer.compile_policy import CompiledStep, CompilePolicy
from pytorch_bfo_optimizer.compile_policy import attempt as attempt_module
from pytorch_bfo_optimizer.errors import CompileFailedError, HyperparameterError

from .conftest import (
    IMAGES,
    LABELS,
    RECOMPILE_LIMIT,
    SIZES,
    BrokenError,
    Net,
    ThirdShape,
    backward_fails,
    backward_refused,
    forward_fails,
    refuses,
    same,
    training,
)

FAILING = {
    "compile": refuses,
    "forward": forward_fails,
    "backward (compiled)": backward_refused,
    "backward (run)": backward_fails,
}
THIRD = ("compiles", "runs", "compiles backward", "runs backward")


@pytest.fixture(scope="module")
def eager() -> dict[str, Any]:
    """Twenty steps without any compiler."""
    return training().run(SIZES).state()


@pytest.mark.parametrize("where", FAILING)
def test_a_failing_backend_leaves_an_eager_training_and_says_why(where: str, eager: dict[str, Any]) -> None:
    run = training()
    policy = CompilePolicy(enabled=True, backend=FAILING[where])
    assert policy.apply(run.model, probe=run.step) is run.model
    assert same(run.run(SIZES).state(), eager)
    report = policy.report()
    assert report.status == "NOT APPLIED"
    assert "BrokenError" in report.reason
    assert report.fallbacks[0].where == where.split()[0]
    assert report.fallbacks[0].shapes == ("float32[32, 64]",)
    assert report.fallbacks[0].call == 0
    assert (report.calls, report.calls_compiled, report.proved) == (0, 0, ())  # the module is plain again


@pytest.mark.parametrize("when", THIRD)
@pytest.mark.parametrize("dynamic", [False, None])
def test_a_backend_that_fails_at_the_third_shape(when: str, dynamic: bool | None, eager: dict[str, Any]) -> None:
    run = training()
    backend = ThirdShape(when)
    policy = CompilePolicy(enabled=True, backend=backend, dynamic=dynamic)
    policy.apply(run.model, probe=run.step)
    assert same(run.run(SIZES).state(), eager)
    report = policy.report(run.model)
    third_compiles = dynamic is False  # else the second graph, of dynamic shapes, serves the third shape too
    assert backend.compiled == (3 if third_compiles else 2)
    assert report.proved == ("forward", "backward", "optimizer step")
    if when.startswith("compiles") and not third_compiles:
        assert (report.status, report.calls_compiled) == ("APPLIED", 20)
        return
    assert (report.status, report.calls, report.calls_compiled) == ("PARTIAL", 20, 13)
    assert [(found.call, found.shapes) for found in report.fallbacks] == [(14, ("float32[48, 64]",))]
    assert "third" in report.fallbacks[0].error
    assert "7 calls of 20 ran no graph" in report.reason


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_after_a_probe_that_passed_training_begins_where_it_would_have(backend: str, eager: dict[str, Any]) -> None:
    run = training()
    before = copy.deepcopy(run.state())
    policy = CompilePolicy(enabled=True, backend=backend)
    policy.apply(run.model, probe=run.step)
    assert same(run.state(), before)
    assert not run.optimizer.state
    assert same(run.run(SIZES).state(), eager)
    report = policy.report()
    assert (report.status, report.reason) == ("APPLIED", "")
    assert (report.calls, report.calls_compiled, report.graphs) == (20, 20, 2)
    assert report.proved == ("forward", "backward", "optimizer step")
    assert len(report.recompiles) == 1
    assert (report.breaks, report.limit_hits, report.fallbacks, report.notes) == ((), (), (), ())


def test_without_a_probe_each_graph_is_still_proved_at_its_first_run(eager: dict[str, Any]) -> None:
    run = training()
    policy = CompilePolicy(enabled=True, backend=backward_refused)
    policy.apply(run.model)
    assert policy.report().status == "NOT APPLIED"
    assert "not called yet" in policy.report().reason
    assert same(run.run(SIZES).state(), eager)
    report = policy.report()
    assert (report.status, report.calls, report.calls_compiled) == ("NOT APPLIED", 20, 0)
    assert [found.where for found in report.fallbacks] == ["backward", "backward"]


@pytest.mark.compile
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, when it imports Inductor
def test_inductor_in_the_mode_that_was_asked_for() -> None:
    run, plain = training(), training()
    policy = CompilePolicy(enabled=True, mode="reduce-overhead")
    policy.apply(run.model, probe=run.step)
    plain.model.compile(mode="reduce-overhead")
    torch.manual_seed(1)
    ours = run.run((32, 32)).state()
    torch.manual_seed(1)
    assert same(ours, plain.run((32, 32)).state())  # the same code as torch.compile makes of it
    report = policy.report()
    assert (report.calls_compiled, report.graphs, report.fallbacks) == (2, 1, ())
    assert (report.status, report.reason) == ("PARTIAL", "1 skipped CUDA graph")  # this is a CPU


def test_raise_leaves_the_target_in_eager_and_all_state_as_it_was() -> None:
    run = training()
    before = copy.deepcopy(run.state())
    policy = CompilePolicy(enabled=True, backend=refuses, fallback="raise")
    with pytest.raises(CompileFailedError, match="did not compile") as caught:
        policy.apply(run.model, probe=run.step)
    assert caught.value.__cause__ is not None
    assert same(run.state(), before)
    assert run.model._compiled_call_impl is None
    assert policy.report(run.model).status == "NOT APPLIED"


@pytest.mark.parametrize("when", THIRD)
def test_raise_holds_for_the_third_shape_too(when: str) -> None:
    run = training()
    CompilePolicy(enabled=True, backend=ThirdShape(when), fallback="raise", dynamic=False).apply(
        run.model, probe=run.step
    )
    run.run((32, 20))
    before = copy.deepcopy(run.state())
    with pytest.raises(CompileFailedError, match="third"):
        run.model(IMAGES[:48])
    after = run.state()
    assert same(after, before)


class Picky(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] == 48:
            raise ValueError("48 are too many")
        return self.layer(x)


@pytest.mark.parametrize("fallback", ["eager", "raise"])
@pytest.mark.parametrize("fullgraph", [False, True])
def test_the_users_exception_reaches_the_user(fallback: str, fullgraph: bool) -> None:
    run = training(Picky)
    policy = CompilePolicy(enabled=True, backend="eager", fallback=fallback, fullgraph=fullgraph)  # type: ignore[arg-type]
    policy.apply(run.model, probe=run.step)
    run.step()
    expected = CompileFailedError if (fallback, fullgraph) == ("raise", True) else ValueError
    with pytest.raises(expected, match="48 are too many" if expected is ValueError else "exception"):
        run.step(48)


@pytest.mark.parametrize("fullgraph", [False, True])
def test_a_shape_that_does_not_fit_is_torchs_own_error(fullgraph: bool) -> None:
    model = Picky()
    CompilePolicy(enabled=True, backend="eager", fullgraph=fullgraph).apply(model, probe=lambda: model(IMAGES[:2]))
    with pytest.raises(RuntimeError, match="cannot be multiplied") as caught:
        model(torch.ones(2, 3))
    assert type(caught.value) is RuntimeError


@pytest.mark.parametrize("fallback", ["eager", "raise"])
def test_a_probe_that_fails_in_eager_too_is_told_from_a_compiler_that_fails(fallback: str) -> None:
    run = training(Picky)
    before = copy.deepcopy(run.state())
    policy = CompilePolicy(enabled=True, backend="eager", fallback=fallback)  # type: ignore[arg-type]
    if fallback == "raise":
        with pytest.raises(ValueError, match="48 are too many"):
            policy.apply(run.model, probe=lambda: run.step(48))
    else:
        policy.apply(run.model, probe=lambda: run.step(48))
        assert policy.report().reason == "the step itself fails, in eager too: ValueError: 48 are too many"
    assert same(run.state(), before)


def test_state_dicts_saved_compiled_load_plain_and_the_other_way(tmp_path: Any) -> None:
    compiled, plain = training(), training()
    keys = list(compiled.model.state_dict())
    CompilePolicy(enabled=True, backend="eager").apply(compiled.model, probe=compiled.step)
    assert list(compiled.model.state_dict()) == keys
    assert [name for name, _ in compiled.model.named_modules()] == [name for name, _ in plain.model.named_modules()]
    compiled.run((32, 32))
    torch.save(compiled.model.state_dict(), tmp_path / "compiled.pt")
    plain.model.load_state_dict(torch.load(tmp_path / "compiled.pt", weights_only=True))
    plain.step()
    torch.save(plain.model.state_dict(), tmp_path / "plain.pt")
    compiled.model.load_state_dict(torch.load(tmp_path / "plain.pt", weights_only=True))
    compiled.step()
    assert not hasattr(copy.deepcopy(compiled.model), "_orig_mod")


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(64, 10, bias=False)
        self.outer = nn.Linear(64, 10)
        self.outer.weight = self.inner.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(x) + self.inner(x).detach()


@pytest.mark.parametrize("backend", ["aot_eager", forward_fails])
def test_tied_weights_stay_tied(backend: Any) -> None:
    run = training(Tied)
    weight = run.model.inner.weight
    CompilePolicy(enabled=True, backend=backend).apply(run.model, probe=run.step)
    assert run.model.inner.weight is run.model.outer.weight is weight
    assert same(run.run(SIZES).state(), training(Tied).run(SIZES).state())


def test_twelve_widths_in_one_process_meet_the_recompile_limit_and_the_audit_says_so() -> None:
    policy = CompilePolicy(enabled=True, backend="eager", dynamic=False)
    models = []
    for width in range(8, 20):
        run = training(lambda width=width: Net(width))
        policy.apply(run.model, probe=run.step)
        run.step()
        models.append(run.model)
    reports = [policy.report(model) for model in models]
    limit = RECOMPILE_LIMIT
    assert [report.status for report in reports] == ["APPLIED"] * limit + ["NOT APPLIED"] * (12 - limit)
    assert [len(report.limit_hits) for report in reports] == [0] * limit + [1] + [0] * (11 - limit)
    assert all("recompile limit" in report.reason for report in reports[limit:])
    whole = policy.report()
    assert (whole.status, len(whole.parts), len(whole.limit_hits), whole.calls_compiled) == ("PARTIAL", 12, 1, limit)
    assert "recompile limit" in whole.reason
    assert str(whole).count("NOT APPLIED: Net") == 12 - limit


def test_the_limit_met_during_training_shows_as_calls_without_a_graph() -> None:
    def scaled(x: Tensor, word: str) -> Tensor:
        return x * len(word)

    policy = CompilePolicy(enabled=True, backend="eager")
    step = policy.apply(scaled)
    assert [float(step(torch.ones(()), "k" * count)) for count in range(12)] == list(range(12))
    report = policy.report(step)
    assert (report.status, report.calls, report.calls_compiled, len(report.limit_hits)) == ("PARTIAL", 12, 8, 1)
    assert "4 calls of 12 ran no graph (dynamo's recompile limit" in report.reason


def test_models_of_the_same_shape_share_what_was_compiled() -> None:
    compiled = []

    def backend(gm: torch.fx.GraphModule, inputs: Any) -> Any:
        compiled.append(gm)
        return gm.forward

    for policy in (CompilePolicy(enabled=True, backend=backend), CompilePolicy(enabled=True, backend=backend)):
        for _ in range(2):
            run = training()
            policy.apply(run.model, probe=run.step)
            run.step()
        assert policy.report().calls_compiled == 2
    assert len(compiled) == 1


@pytest.mark.parametrize("how", ["TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE", "config", "force_eager"])
def test_where_torch_compile_is_switched_off_nothing_is_claimed(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = training()
    policy = CompilePolicy(enabled=True, backend="eager", fallback="raise")
    stance = torch.compiler.set_stance("force_eager" if how == "force_eager" else "default")
    with monkeypatch.context() as patched, torch._dynamo.config.patch(disable=how == "config"), stance:
        if how.isupper():
            patched.setenv(how, "1")
        policy.apply(run.model, probe=run.step)
        report = policy.report()
    assert report.status == "NOT APPLIED"
    assert {"config": "config.disable"}.get(how, how) in report.reason
    assert run.losses == []
    run.step()
    assert policy.report().calls == 0


def test_a_stance_that_comes_later_is_seen_in_the_counts() -> None:
    run = training()
    policy = CompilePolicy(enabled=True, backend="eager")
    policy.apply(run.model, probe=run.step)
    with torch.compiler.set_stance("force_eager"):
        run.run((32, 32))
        assert policy.report().status == "NOT APPLIED"
        assert "no graph ran in 2 calls" in policy.report().reason
        assert "force_eager" in policy.report().reason
    run.step()
    assert (policy.report().status, policy.report().calls_compiled) == ("PARTIAL", 1)


def test_enabled_false_touches_nothing() -> None:
    run = training()
    policy = CompilePolicy(enabled=False)
    policy.apply(run.model, probe=run.step)
    assert (run.losses, run.model._compiled_call_impl) == ([], None)
    assert (policy.report().status, policy.report().reason) == ("NOT APPLIED", "enabled=False")


@pytest.mark.parametrize("how", ["Module.compile", "a policy", "torch.compile"])
def test_what_is_compiled_already_is_refused_by_name_and_left_as_it_is(how: str) -> None:
    run = training()
    target: Any = run.model
    if how == "Module.compile":
        run.model.compile(backend="eager")
    elif how == "a policy":
        CompilePolicy(enabled=True, backend="eager").apply(run.model, probe=run.step)
    else:
        target = torch.compile(run.model, backend="eager")
    compiled = run.model._compiled_call_impl
    policy = CompilePolicy(enabled=True, backend="eager")
    assert policy.apply(target, probe=run.step) is target
    assert policy.report().status == "NOT APPLIED"
    assert "torch.compile returned" in policy.report().reason or "compiled already" in policy.report().reason
    assert run.model._compiled_call_impl is compiled


def test_what_somebody_else_compiles_over_it_is_not_taken_for_the_policys() -> None:
    run = training()
    policy = CompilePolicy(enabled=True, backend="eager")
    policy.apply(run.model, probe=run.step)
    run.step()
    assert policy.report().status == "APPLIED"
    run.model.compile(backend="eager")
    run.step()
    report = policy.report()
    assert (report.status, report.calls) == ("NOT APPLIED", 1)
    assert report.reason == "something replaced it after 1 compiled calls"


def test_remove_goes_back_to_eager_and_the_account_stays() -> None:
    run = training()
    policy = CompilePolicy(enabled=True, backend="eager")
    policy.apply(run.model, probe=run.step)
    run.step()
    policy.remove(run.model)
    run.step()
    assert run.model._compiled_call_impl is None
    assert (policy.report().status, policy.report().calls) == ("NOT APPLIED", 1)
    assert "removed after 1 compiled call" in policy.report().reason
    assert "removed" in policy.report(run.model).reason
    with pytest.raises(HyperparameterError, match="was not applied"):
        policy.remove(Net())


def scaled_loss(x: Tensor, y: Tensor, *, scale: float = 1.0) -> Tensor:
    """A step of the user's."""
    return ((x - y) ** 2).sum() * scale


def test_a_function_becomes_a_step_that_counts_its_calls() -> None:
    weight = torch.ones(3, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)

    def probe(loss: Callable[..., Tensor]) -> None:
        optimizer.zero_grad()
        loss(weight, torch.zeros(3)).backward()
        optimizer.step()

    policy = CompilePolicy(enabled=True, backend="aot_eager")
    step = policy.apply(scaled_loss, probe=probe)
    assert isinstance(step, CompiledStep)
    assert (step.__name__, step.__doc__, step.__wrapped__) == ("scaled_loss", "A step of the user's.", scaled_loss)
    assert weight.tolist() == [1, 1, 1]
    assert weight.grad is None
    assert step(weight, torch.zeros(3), scale=2.0).item() == 6
    report = policy.report(step)
    assert (report.status, report.calls, report.target) == ("APPLIED", 1, "scaled_loss")
    assert report.proved == ("forward", "backward", "optimizer step")
    policy.remove(step)
    assert step(weight, torch.zeros(3)).item() == 3
    assert policy.report().calls == 1


@pytest.mark.filterwarnings("ignore")  # dynamo, inlining an optimizer, imports what is deprecated
def test_a_step_without_arguments_is_its_own_probe_and_its_breaks_are_counted() -> None:
    """The whole step compiled, Adam too, whose state is part of a graph and no input of it."""
    plain = training()
    compiled = torch.compile(plain.step, backend="eager")
    for _ in range(3):
        compiled()
    expected = plain.state()
    torch._dynamo.reset()
    run = training()

    def whole() -> Tensor:
        return run.step()

    policy = CompilePolicy(enabled=True, backend="eager")
    step = policy.apply(whole)
    assert (run.losses, len(run.optimizer.state)) == ([], 0)
    for _ in range(3):
        step()
    assert same(run.state(), expected)
    report = policy.report()
    assert (report.status, report.calls, report.calls_compiled) == ("PARTIAL", 3, 3)
    assert any("backward" in text and f"{Path(__file__).parent}/conftest.py" in text for text in report.breaks)
    assert "graph break" in report.reason


def test_a_module_of_torchs_own_is_compiled_too() -> None:
    """`nn.Sequential(...).compile()` compiles nothing: dynamo skips the frames of torch's own modules."""
    run = training(lambda: nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10)))
    policy = CompilePolicy(enabled=True, backend="eager")
    policy.apply(run.model, probe=run.step)
    run.step()
    assert (policy.report().status, policy.report().graphs) == ("APPLIED", 1)


def test_what_dynamo_skips_whole_is_not_applied() -> None:
    class Chatty(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(2):
                print(end="")
                x = x + 1
            return x

    model = Chatty()
    policy = CompilePolicy(enabled=True, backend="eager")
    policy.apply(model, probe=lambda: model(torch.ones(2)))
    assert policy.report().status == "NOT APPLIED"
    assert "print" in policy.report().reason
    assert model._compiled_call_impl is None


def test_one_graph_that_fails_in_the_probe_leaves_the_whole_target_in_eager() -> None:
    def fails_on_the_second(gm: torch.fx.GraphModule, inputs: Any) -> Any:
        if len(compiled) == 1:
            raise BrokenError("the second graph")
        compiled.append(gm)
        return gm.forward

    def two_graphs(x: Tensor) -> Tensor:
        x = x + 1
        print(end="")
        return x * 2

    compiled: list[Any] = []
    policy = CompilePolicy(enabled=True, backend=fails_on_the_second)
    step = policy.apply(two_graphs, probe=lambda step: step(torch.ones(2)))
    assert step(torch.ones(2)).tolist() == [4, 4]
    report = policy.report()
    assert (report.status, report.calls, len(compiled)) == ("NOT APPLIED", 0, 1)
    assert report.reason == "the backend failed on a graph: BrokenError: the second graph"


def test_fullgraph_says_what_breaks() -> None:
    class Breaking(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = x + 1
            print(end="")
            return x * 2

    model = Breaking()
    policy = CompilePolicy(enabled=True, backend="eager", fullgraph=True)
    policy.apply(model, probe=lambda: model(torch.ones(2)))
    assert policy.report().status == "NOT APPLIED"
    assert "print" in policy.report().reason
    with pytest.raises(CompileFailedError, match="print"):
        CompilePolicy(enabled=True, backend="eager", fullgraph=True, fallback="raise").apply(
            model, probe=lambda: model(torch.ones(2))
        )


def test_fullgraph_that_breaks_later_falls_back_before_anything_ran() -> None:
    def sometimes(x: Tensor, chatty: bool) -> Tensor:
        x = x + 1
        if chatty:
            print(end="")
        return x * 2

    step = (policy := CompilePolicy(enabled=True, backend="eager", fullgraph=True)).apply(
        sometimes, probe=lambda compiled: compiled(torch.ones(2), False)
    )
    assert step(torch.ones(2), False).tolist() == [4, 4]
    assert step(torch.ones(2), True).tolist() == [4, 4]
    report = policy.report()
    assert (report.status, report.calls, report.calls_compiled) == ("PARTIAL", 2, 1)
    assert [(found.where, found.call) for found in report.fallbacks] == [("dynamo", 2)]


def test_a_probe_that_passes_the_target_by_is_no_proof() -> None:
    run = training()
    policy = CompilePolicy(enabled=True, backend="eager")
    step = policy.apply(scaled_loss, probe=lambda: scaled_loss(torch.ones(2), torch.ones(2)))
    assert "never called the target" in policy.report(step).reason
    policy.apply(run.model, probe=lambda: None)
    assert "never called the target" in policy.report(run.model).reason


def test_an_error_of_dynamos_own_is_kept_to_itself_where_half_the_step_has_run() -> None:
    """Warnings are errors here, and dynamo makes torch warn when a tensor with history crosses a break."""
    calls = []

    def step(x: Tensor) -> Tensor:
        calls.append(1)
        y = x * 2
        print(end="")
        return y.sum()

    x = torch.ones(3, requires_grad=True)
    policy = CompilePolicy(enabled=True, backend="eager")
    compiled = policy.apply(step)
    assert compiled(x).item() == 6
    report = policy.report()
    assert len(calls) == 1
    assert (report.status, report.calls_compiled) == ("PARTIAL", 1)
    assert [(found.where, found.call) for found in report.fallbacks] == [("dynamo", 1)]
    assert "leaf" in report.fallbacks[0].error
    torch._dynamo.reset()
    with pytest.raises(CompileFailedError, match="InternalTorchDynamoError"):
        CompilePolicy(enabled=True, backend="eager", fallback="raise").apply(step)(x)


def test_an_interrupt_restores_and_passes() -> None:
    run = training()
    before = copy.deepcopy(run.state())

    def interrupted() -> None:
        run.step()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CompilePolicy(enabled=True, backend="eager").apply(run.model, probe=interrupted)
    assert same(run.state(), before)
    assert run.model._compiled_call_impl is None


def test_under_somebody_elses_compile_the_target_is_traced_through() -> None:
    run = training(Picky)
    policy = CompilePolicy(enabled=True, backend="eager")
    policy.apply(run.model, probe=run.step)
    images = IMAGES[:4]
    graphs = []

    def backend(gm: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(gm)
        return gm.forward

    step = policy.apply(scaled_loss)
    around = torch.compile(lambda x: run.model(x) + step(x, x + 1), backend=backend, fullgraph=True)
    for _ in range(3):
        assert torch.equal(around(images), run.model._call_impl(images) + images.numel())
    assert (len(graphs), policy.report().calls) == (1, 0)


def test_autocast_in_bfloat16_and_a_loss_scaler() -> None:
    def run(policy: CompilePolicy | None) -> tuple[dict[str, Any], dict[str, Any], list[float]]:
        train = training()
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=2)

        def step() -> float:
            train.optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = nn.functional.cross_entropy(train.model(IMAGES[:32]), LABELS[:32])
            scaler.scale(loss).backward()
            scaler.step(train.optimizer)
            scaler.update()
            return loss.item()

        if policy is not None:
            policy.apply(train.model, probe=step)
            assert scaler._scale is None  # it is made at the first use
            assert scaler.state_dict()["_growth_tracker"] == 0
        losses = [step() for _ in range(6)]
        return train.state(), scaler.state_dict(), losses

    expected = run(None)
    for backend in ("eager", refuses):
        policy = CompilePolicy(enabled=True, backend=backend)
        assert same(run(policy), expected)
        assert policy.report().status == ("APPLIED" if backend == "eager" else "NOT APPLIED")
    policy = CompilePolicy(enabled=True, backend="aot_eager")
    run(policy)
    assert (policy.report().status, policy.report().calls_compiled) == ("APPLIED", 6)


def test_the_report_is_plain_values_for_json() -> None:
    run = training()
    policy = CompilePolicy(enabled=True, backend=ThirdShape("compiles"), dynamic=False)
    policy.apply(run.model, probe=run.step)
    run.run(SIZES)
    document = json.loads(json.dumps(policy.report().to_dict()))
    assert document["status"] == "PARTIAL"
    assert document["fallbacks"][0]["call"] == 14


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "steps"),
        ({"enabled": "yes"}, "enabled"),
        ({"enabled": 1}, "enabled"),
        ({"enabled": True, "fallback": "warn"}, "fallback"),
        ({"enabled": True, "folds": 0}, "folds"),
        ({"enabled": True, "trials": True}, "trials"),
        ({"enabled": "auto", "steps": 0}, "steps"),
        ({"enabled": True, "min_steps": 1.5}, "min_steps"),
        ({"enabled": True, "least_compile_s": float("nan")}, "least_compile_s"),
        ({"enabled": True, "mode": "max-autotune", "options": {"max_autotune": True}}, "one of them"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(HyperparameterError, match=says):
        CompilePolicy(**settings)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"mode": "reduce-overheads"}, "which torch.compile does not know"),
        ({"options": {"max_autotuned": True}}, "max_autotuned"),
    ],
)
def test_a_mode_or_option_that_inductor_does_not_know_is_the_users_error(settings: dict[str, Any], says: str) -> None:
    run = training()
    with pytest.raises(HyperparameterError, match=says):
        CompilePolicy(enabled=True, **settings).apply(run.model, probe=run.step)
    assert run.model._compiled_call_impl is None


def test_a_backend_that_is_not_there_is_a_failure_as_any_other() -> None:
    run = training()
    policy = CompilePolicy(enabled=True, backend="no-such-backend")
    policy.apply(run.model, probe=run.step)
    assert "no-such-backend" in policy.report().reason
    with pytest.raises(CompileFailedError, match="no-such-backend"):
        CompilePolicy(enabled=True, backend="no-such-backend", fallback="raise").apply(run.model, probe=run.step)


def test_a_state_that_cannot_be_kept_ends_it_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(roots: Any) -> None:
        raise MemoryError("no room for a copy")

    monkeypatch.setattr(attempt_module, "Snapshot", full)
    run = training()
    policy = CompilePolicy(enabled=True, backend="eager")
    policy.apply(run.model, probe=run.step)
    assert policy.report().reason == "the state of the step could not be kept: MemoryError: no room for a copy"
    assert (run.losses, run.model._compiled_call_impl) == ([], None)
    with pytest.raises(CompileFailedError, match="no room"):
        CompilePolicy(enabled=True, backend="eager", fallback="raise").apply(run.model, probe=run.step)


def test_a_probe_that_wants_more_than_the_target_is_refused() -> None:
    with pytest.raises(HyperparameterError, match="needs 2 arguments"):
        CompilePolicy(enabled=True).apply(scaled_loss, probe=lambda compiled, batch: compiled(batch, batch))


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(HyperparameterError, match="pass a module or a function"):
        CompilePolicy(enabled=True).apply(3)  # type: ignore[call-overload]
    with pytest.raises(HyperparameterError, match="was not applied"):
        CompilePolicy(enabled=True).report(Net())
    assert CompilePolicy(enabled=True).report().reason == "apply() was not called"


def test_broken_is_what_the_backends_raise() -> None:
    with pytest.raises(BrokenError):
        refuses(torch.fx.symbolic_trace(Picky().layer), ())
