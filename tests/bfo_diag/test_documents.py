"""The documents of a package: in the order of the page, readable unrendered, and made of data."""

from __future__ import annotations

from pathlib import Path

import pytest

from bfo_diag import bundle, documents
from bfo_diag.probes import load_all
from bfo_diag.recorded import Recorded
from bfo_diag.records import CaseRecord, Observation, Outcome, Place, Run, RunHeader

HOSTILE = "</script><img src=x onerror=alert(1)> [a](javascript:alert(1)) **b** `c_d` _e_ @everyone #1 \x1b[31m\u202e"


def recording(*observations, probe="gradients", outcome=Outcome.COMPLETE):
    environment = {"torch": "2.13.0", "python": "3.11.7", "platform": "Linux"}
    case = CaseRecord("id", "step", "train.py:step")
    header = RunHeader(f"20260101T000000Z-{probe}-step", probe, (), "2026-01-01T00:00:00Z", case, environment)
    return Recorded(Path("nowhere"), Path("nowhere"), Run(header, observations, outcome), load_all()[probe])


def cut(message="x.detach()", reason="detach"):
    values = {"op": "detach", "reason": reason, "parameters": ["w"], "guessed": False, "candidates": 0}
    none = {"grad_mode_at": None, "left_torch_at": None, "library_at": None, "called_from": []}
    return Observation("cut", {**values, **none}, Place(file="/a/train.py", line=9, source=message, step=1))


def lost(source="x.detach()"):
    step = Observation("step", {"step_ms": 1.0, "loss": 1.0, "judged": True, "backwards": 1}, Place(step=1))
    values = {"status": "cut", "shape": [2], "in_optimizer": True}
    return step, Observation("parameter", values, Place(parameter="w", step=1)), cut(source)


def made(*runs, warnings=()):
    return dict(documents.of(runs, bundle.page(runs), warnings))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("torch._dynamo.config.trace_ops = True", "`torch._dynamo.config.trace_ops` = True"),
        ("trace_ops of snake_case", "trace_ops of snake_case"),
        ("`a_b <c>` <d>", "`a_b <c>` \\<d\\>"),
        ("__stack0[0] _x_", "`__stack0`\\[0\\] `_x_`"),
        ("# no heading", "\\# no heading"),
        ("a\n- b", "a - b"),
        ("&lt; & &#60;", "\\&lt; & \\&#60;"),
        ("1. no list", "1\\. no list"),
    ],
)
def test_what_markdown_would_read_is_escaped_and_the_rest_reads_as_it_is(text, shown):
    assert documents._plain(text) == shown


def test_hostile_text_makes_no_markup_in_any_document():
    raised = {"by_target": True, "type": "ValueError", "message": HOSTILE, "traceback": HOSTILE, "phase": "step"}
    run = recording(*lost(HOSTILE), Observation("raised", raised, Place(file="/a/train.py", line=3)))
    for path, text in made(run, warnings=[HOSTILE]).items():
        assert "\x1b" not in text, path
        assert "\u202e" not in text, path
        outside = "".join(part for index, part in enumerate(text.split("```")) if index % 2 == 0)
        assert "<img" not in outside.replace("\\<img", ""), path
        assert "[a](javascript" not in outside, path


def test_findings_stand_in_the_order_of_the_page_with_their_place():
    raised = {"by_target": True, "type": "ValueError", "message": "no", "traceback": "t", "phase": "step"}
    note = Observation("damaged", {"why": "cut short"})
    readme = made(recording(*lost(), note, Observation("raised", raised, Place(file="/a/train.py", line=3))))[
        "README.md"
    ]
    order = [readme.index(f"[{code}]") for code in ("TARGET-RAISED", "GRAD-CUT-DETACH", "LOG-DAMAGED")]
    assert order == sorted(order)
    assert "error [GRAD-CUT-DETACH](issues/GRAD-CUT-DETACH.md) at `train.py:9`: detach cuts" in readme
    assert "torch 2.13.0, Python 3.11.7, on Linux, 2026-01-01" in readme


def test_a_log_line_in_a_document_is_cut_and_says_so():
    issue = made(recording(*lost("x" * 3000)))["issues/GRAD-CUT-DETACH.md"]
    assert "more characters in the log)" in issue
    assert max(map(len, issue.splitlines())) < 3100


def test_many_damaged_lines_are_one_finding():
    many = [Observation("damaged", {"why": f"line {number}"}) for number in range(5000)]
    texts = made(recording(*lost(), *many))
    assert "(4999 more lines are damaged)" in texts["issues/LOG-DAMAGED.md"]
    assert sum(map(len, texts.values())) < 60_000


def test_the_end_of_an_output_begins_with_a_whole_line(tmp_path):
    (tmp_path / "out.txt").write_text("".join(f"line {number}\n" for number in range(1000)))
    tail = documents._tail(tmp_path / "out.txt")
    assert tail.startswith("line ")
    assert tail.endswith("line 999\n")
    assert documents._tail(tmp_path / "none.txt") == ""
