"""Steps whose graph is not what it looks like: no false alarm, no wrong line, nothing changed."""

from __future__ import annotations

import pytest
import torch
from torch.nn.modules import module as module_hooks
from torch.optim import optimizer as optimizer_hooks

from bfo_diag.probes import load_all
from bfo_diag.probes.gradients.statistics import gradient_stats
from bfo_diag.probes.gradients.trace import Trace
from bfo_diag.records import Severity


def line_of(file, name):
    return next(n for n, text in enumerate(file.read_text().splitlines(), 1) if text.endswith(f"# cut: {name}"))


@pytest.fixture
def examine(capture, targets_folder):
    file = targets_folder / "tricky_steps.py"

    def run(name, steps=2):
        run, findings = capture("gradients", f"{file}:{name}", steps=steps)
        return run, findings, load_all()["gradients"].summarise(run), file

    return run


@pytest.mark.healthy
@pytest.mark.parametrize(
    "name",
    [
        "custom_function",
        "padded_embedding",
        "checkpointed",
        "adversarial",
        "with_closure",
        "gradient_penalty",
        "grad_only",
        "ensemble",
        "hidden_state",
        "input_gradient",
        "scaled",
        "returns_a_dictionary",
        "returns_a_tuple",
        "evolution",
    ],
)
def test_no_alarm_where_every_parameter_gets_its_gradient(examine, name):
    _, findings, summary, _ = examine(name)
    assert findings == ()
    assert summary["parameters"]["with_grad"]
    assert summary["parameters"]["without_grad"] == []


@pytest.mark.planted
def test_a_cut_behind_a_custom_function_is_the_cut_and_not_the_function(examine):
    _, _, summary, file = examine("custom_function_then_cut", steps=1)
    assert [(cut["op"], cut["line"]) for cut in summary["cuts"]] == [("detach", line_of(file, "after_function"))]


@pytest.mark.planted
def test_a_write_through_data_is_the_cut(examine):
    _, findings, summary, file = examine("through_alias", steps=1)
    assert [(cut["op"], cut["line"]) for cut in summary["cuts"]] == [("copy_", line_of(file, "alias"))]
    assert findings[0].code == "GRAD-CUT-DATA"


@pytest.mark.planted
@pytest.mark.parametrize(
    ("name", "op", "code", "marker"),
    [
        ("function_returns_none", "Forgetful.backward", "GRAD-CUT-FUNCTION", "function"),
        ("function_without_graph", "Function.apply", "GRAD-CUT-NO_DERIVATIVE", "not_differentiable"),
        ("checkpoint_without_input_gradient", "checkpoint", "GRAD-CUT-CHECKPOINT", "reentrant"),
        ("cut_in_a_checkpoint", "detach", "GRAD-CUT-DETACH", "in_checkpoint"),
        ("assigned_parameter", "leaf", "GRAD-CUT-LEAF", "assigned"),
        ("variable", "data", "GRAD-CUT-DATA", "variable"),
        ("samples", "sample", "GRAD-CUT-SAMPLE", "sample"),
    ],
)
def test_a_cut_that_is_not_an_operation_of_torch_is_found_at_its_line(examine, name, op, code, marker):
    _, findings, summary, file = examine(name, steps=1)
    line = file.read_text().splitlines()[line_of(file, marker) - 1]
    assert [(cut["op"], cut["line"]) for cut in summary["cuts"]] == [(op, line_of(file, marker))], line
    assert [f.code for f in findings if f.severity is Severity.ERROR] == [code]


def test_what_the_backward_pass_was_not_asked_for_is_a_note(examine):
    _, findings, summary, _ = examine("asked_inputs", steps=1)
    assert [(f.code, f.severity) for f in findings] == [("GRAD-NOT-ASKED", Severity.NOTE)]
    assert set(summary["parameters"]["with_grad"]) == {"third.weight", "third.bias"}


def test_a_gradient_that_is_lost_in_a_later_step_is_told(examine):
    _, findings, _, file = examine("loses_it_later", steps=3)
    assert [(f.code, f.severity) for f in findings] == [("GRAD-INTERMITTENT", Severity.NOTE)]
    assert findings[0].place.line == line_of(file, "later")
    assert "from step 2 on" in findings[0].message


def test_an_input_that_wants_a_gradient_is_no_parameter(examine):
    _, _, summary, _ = examine("input_gradient")
    assert len(summary["parameters"]["with_grad"]) == 2


def test_gradients_of_torch_func_are_said_to_be_not_followed(examine):
    run, findings, _, _ = examine("functional_gradients", steps=1)
    assert [(f.code, f.severity) for f in findings] == [("GRAD-NOT-FOLLOWED", Severity.NOTE)]
    assert load_all()["gradients"].verdict(run, findings).startswith("Not measured: torch.func")


@pytest.mark.parametrize(("name", "code"), [("only_logged", "GRAD-DROPPED"), ("equal_numbers", "GRAD-UNUSED")])
def test_what_is_only_logged_is_not_blamed_for_a_missing_gradient(examine, name, code):
    run, findings, _, _ = examine(name, steps=1)
    assert [(f.code, f.severity) for f in findings] == [(code, Severity.WARNING)]
    assert not list(run.of_kind("cut"))


def test_a_long_run_that_makes_new_parameters_keeps_no_old_ones(examine):
    _, _, summary, _ = examine("assigned_parameter", steps=40)
    names = summary["parameters"]["with_grad"] + summary["parameters"]["without_grad"]
    assert sorted(names) == ["hyper.bias", "hyper.weight", "main_net.bias", "main_net.weight"]


def test_a_teacher_that_no_optimizer_holds_is_a_note(examine):
    _, findings, summary, _ = examine("moving_teacher")
    assert {f.severity for f in findings} == {Severity.NOTE}
    assert set(summary["parameters"]["without_grad"]) == {"teacher.weight", "teacher.bias"}
    assert set(summary["parameters"]["with_grad"]) == {"student.weight", "student.bias"}


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("not_a_number", "GRAD-NAN"),
        ("huge", "GRAD-EXPLODING"),
        ("tiny", "GRAD-VANISHING"),
        ("rounded", "GRAD-ZERO"),
    ],
)
def test_a_gradient_that_can_not_train_is_a_finding(examine, name, code):
    _, findings, summary, file = examine(name, steps=1)
    assert [f.code for f in findings] == [code]
    assert summary["parameters"]["without_grad"] == []
    if name == "rounded":
        assert (findings[0].place.file, findings[0].place.line) == (str(file), line_of(file, "rounded"))


def test_a_parameter_that_the_optimizer_does_not_hold_is_found(examine):
    _, findings, _, _ = examine("wrong_optimizer", steps=1)
    said = {f.code: f for f in findings}
    assert "weight" in said["GRAD-NOT-IN-OPTIMIZER"].message
    assert set(said) == {"GRAD-NOT-IN-OPTIMIZER", "GRAD-STALE"}


@pytest.mark.healthy
def test_a_step_of_our_own_optimizer_gets_no_alarm(examine):
    _, findings, summary, _ = examine("bfo_step", steps=1)
    assert [f for f in findings if f.severity is not Severity.NOTE] == []
    assert len(summary["parameters"]["with_grad"]) == 2


def train(steps):
    torch.manual_seed(3)
    net = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1)
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = net(torch.randn(16, 4)).pow(2).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 0.1)
        optimizer.step()
    return [p.detach().clone() for p in net.state_dict().values()]


def test_the_trace_changes_nothing_of_what_it_follows():
    expected = train(3)
    with Trace() as trace:
        trace.begin_step()
        seen = train(3)
    assert all(torch.equal(a, b) for a, b in zip(expected, seen, strict=True))
    assert len(trace.step.backwards) == 3


def test_the_trace_takes_its_hooks_away_also_after_an_error():
    def hooks():
        return (
            len(optimizer_hooks._global_optimizer_pre_hooks),
            len(optimizer_hooks._global_optimizer_post_hooks),
            len(module_hooks._global_forward_pre_hooks),
            torch.is_grad_enabled(),
            torch._C._len_torch_function_stack(),
        )

    before = hooks()
    with Trace():
        assert hooks() != before
    assert hooks() == before

    def fails():
        with Trace():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert hooks() == before


@pytest.mark.parametrize(
    ("gradient", "norm", "nan", "inf"),
    [
        (torch.tensor([3.0, 4.0]), 5.0, 0, 0),
        (torch.full((4,), 1e30), 2e30, 0, 0),
        (torch.full((4,), 1e-30), 2e-30, 0, 0),
        (torch.full((100,), 300.0, dtype=torch.float16), 3000.0, 0, 0),
        (torch.tensor([3.0, 4.0]).to_sparse(), 5.0, 0, 0),
        (torch.tensor([3 + 4j]), 5.0, 0, 0),
        (torch.tensor([1.0, float("nan"), float("inf"), -float("inf")]), None, 1, 2),
    ],
)
def test_norms_and_counts_of_a_gradient(gradient, norm, nan, inf):
    stats = gradient_stats(gradient)
    assert (stats["nan_count"], stats["inf_count"]) == (nan, inf)
    if norm is not None:
        assert stats["grad_norm"] == pytest.approx(norm, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "code", "severity"),
    [
        ("steps_without_backward", "GRAD-STEP-WITHOUT-BACKWARD", Severity.WARNING),
        ("clears_too_late", "GRAD-CLEARED", Severity.ERROR),
        ("loss_is_nan", "GRAD-LOSS-NOT-FINITE", Severity.ERROR),
    ],
)
def test_a_step_that_is_wrong_as_a_whole_is_a_finding(examine, name, code, severity):
    _, findings, _, _ = examine(name)
    assert (code, severity) in [(f.code, f.severity) for f in findings]


def test_a_number_that_may_feed_the_loss_is_named_as_a_guess(examine):
    _, findings, summary, file = examine("scaled_by_a_number", steps=1)
    assert [(f.code, f.place.line) for f in findings] == [("GRAD-DROPPED", line_of(file, "factor"))]
    assert "the cause can't be told for certain" in findings[0].message
    (cut,) = summary["cuts"]
    assert (cut["op"], cut["line"], cut["certain"]) == ("item", line_of(file, "factor"), False)
    assert set(cut["parameters"]) == {"second.weight", "second.bias"}


@pytest.mark.parametrize("name", ["wraps_an_object", "empty_cell"])
def test_odd_functions_are_examined_too(examine, name):
    _, findings, summary, _ = examine(name, steps=1)
    assert findings == ()
    assert len(summary["parameters"]["with_grad"]) == 2


def test_a_bare_tensor_names_the_line_that_froze_it(examine):
    _, findings, _, file = examine("frozen_at_import", steps=1)
    (frozen,) = [f for f in findings if f.code == "GRAD-FROZEN"]
    assert (frozen.place.line, frozen.severity) == (line_of(file, "frozen_tensor"), Severity.NOTE)


def test_an_edge_of_the_graph_as_an_input_is_taken(examine):
    _, findings, summary, _ = examine("edge_of_the_graph", steps=1)
    assert findings == ()
    assert set(summary["parameters"]["with_grad"]) == {"weight", "bias"}
