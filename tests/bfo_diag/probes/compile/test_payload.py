"""The reader of torch's texts, on what four versions of torch really wrote (tests/data/breaks)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bfo_diag.probes.compile.payload import Break, guarded_name, plain_function, read_break, read_guards

DATA = Path(__file__).parents[3] / "data" / "breaks"
LOGS = {path.stem.removeprefix("torch-"): json.loads(path.read_text()) for path in sorted(DATA.glob("*.json"))}
NEW = ("2.11.0", "2.13.0")
# torch 2.8 writes no link: the wheel's own registry gives the id.
REGISTRY = {
    "Failed to trace builtin operator": "GB0059",
    "Attempted to inline function marked as skipped": "GB0008",
    "Unsupported Tensor.backward() call": "GB0123",
}


def breaks(version: str, case: str) -> list[Break]:
    texts = [text for name, text in LOGS[version][case] if name == "dynamo_graph_break_reason"]
    return [read_break(text, types=REGISTRY if version == "2.8.0" else None) for text in texts]


def test_logs_of_four_versions_are_there():
    assert sorted(LOGS) == ["2.11.0", "2.13.0", "2.6.0", "2.8.0"]


@pytest.mark.parametrize("version", LOGS)
@pytest.mark.parametrize(
    ("case", "codes", "innermost"),
    [
        ("nested_helper_prints", ["GB0059", "GB0059"], ("compile_steps.py", "_helper")),
        ("while_on_a_tensor", ["GB0170", "GB0170"], ("compile_steps.py", "while_on_a_tensor")),
        ("item_in_the_middle", ["GB0124"], ("compile_steps.py", "item_in_the_middle")),
        ("print_in_a_loop", ["GB0059"], ("compile_steps.py", "step")),
        ("sgd_closure", ["GB0008", "GB0123", "GB0025", "GB0025"], ("optimizer.py", "_use_grad")),
    ],
)
def test_every_version_gives_the_same_id_and_place(version, case, codes, innermost):
    found = breaks(version, case)
    assert [seen.code for seen in found] == codes
    file, function = innermost
    frame = found[-1].frames[-1]
    assert frame.file.endswith(file)
    if frame.function:  # with no traceback in the text, file and line are all
        assert frame.function == function
    assert frame.line > 0


@pytest.mark.parametrize("version", NEW)
def test_new_versions_tell_explanation_hint_link_and_cascade(version):
    (found,) = breaks(version, "print_in_a_loop")
    assert found.type == "Failed to trace builtin operator"
    assert found.explanation.startswith("Dynamo does not know how to trace builtin operator `print`")
    assert any("reorderable_logging_functions" in hint for hint in found.hints)
    assert not any("report an issue" in hint for hint in found.hints)
    assert found.cascade == (("GB7000", "graph break in loop"),)
    assert found.url.endswith("/gb0059.html")
    assert found.context.startswith("builtin print")


def test_a_stack_of_several_lines_keeps_each_frame():
    found = breaks("2.13.0", "nested_helper_prints")[0]
    assert [frame.function for frame in found.frames][-2:] == ["nested_helper_prints", "_helper"]
    assert found.frames[-1].source == 'print("hello")'


@pytest.mark.parametrize("version", LOGS)
def test_guards(version):
    sizes = [text for name, text in LOGS[version]["four_shapes"] if name == "recompile_reasons"]
    (guard,) = read_guards(sizes[0])
    assert guard.text.replace("L['x']", "x") == "tensor 'x' size mismatch at index 0. expected 4, actual 5"
    assert guard.name == "tensor x"
    if version in NEW:
        counted = [text for name, text in LOGS[version]["counting_module"] if name == "recompile_reasons"]
        newest, oldest = read_guards(counted[1])
        assert (newest.text, oldest.text) == ("model.step == 1", "model.step == 0")
        assert newest.name == "model.step"
        assert newest.source == "self.step += 1"
        assert newest.file.endswith("compile_steps.py")


@pytest.mark.parametrize(
    ("condition", "name"),
    [
        ("self.step == 1", "self.step"),
        ("tensor 'x' size mismatch at index 0. expected 4, actual 5", "tensor x"),
        ("len(items) == 3", "items"),
        ("L['name'] == 'k3'", "name"),
        ("(0.9*s.lr) == 0.0729", "s.lr"),
        ("self.param_groups[0]['lr'] == 0.1", "self.param_groups[0]['lr']"),
        ("not self.history", "self.history"),
        ("___check_obj_id(L['model']._modules['b'].training, 1234)", "model._modules['b'].training"),
        ("GLOBAL_STATE changed: grad_mode", "GLOBAL_STATE changed: grad_mode"),
    ],
)
def test_what_a_guard_is_about(condition, name):
    assert guarded_name(condition) == name


def test_resume_functions_get_their_own_name_back():
    assert plain_function("torch_dynamo_resume_in_torch_dynamo_resume_in_step_at_3_at_9") == "step"
    assert plain_function("step") == "step"


def test_what_is_not_understood_keeps_its_text_and_its_place():
    text = "Graph break in user code at /home/me/train.py:42\nReason of a later torch: no such thing yet"
    found = read_break(text)
    assert found.code == "GB-UNKNOWN"
    assert found.raw == text
    assert (found.frames[-1].file, found.frames[-1].line) == ("/home/me/train.py", 42)


@given(st.text())
def test_no_text_is_too_strange(text):
    assert read_break(text).raw == text
    read_guards(text)
