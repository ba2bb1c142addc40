"""`bfo-diag compile` as its user meets it; aot_eager, because generating code is not the point here.

One run of each kind is made of real processes; what else the command answers is had in this one (`bfo_diag_here`).
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from bfo_diag import store
from bfo_diag.records import Outcome
from bfo_diag.workspace import Workspace

pytestmark = pytest.mark.compile
FAST = ("--backend", "aot_eager")


@pytest.fixture
def steps(targets_folder):
    return f"{targets_folder / 'compile_steps.py'}:"


def test_the_summary_has_what_was_promised(bfo_diag, steps):
    done = bfo_diag("compile", steps + "nested_helper_prints", "--fullgraph", "--json", *FAST)
    assert done.code == 1
    summary = done.document["summary"]
    assert summary["applied"] == "APPLIED"
    assert summary["fullgraph"]["ok"] is False
    assert "GB0059" in summary["fullgraph"]["error"]
    assert summary["graphs"] == {"forward": 0, "backward": 0, "inference": 4}
    assert (summary["sites"], summary["user_sites"], summary["events"]) == (1, 1, 2)
    assert summary["explain"] == {"graph_break_count": 3, "graph_count": 4}
    assert (summary["recompiles"], summary["settled"], summary["limit_hit"]) == (0, True, False)
    assert summary["coverage"] == 1
    assert summary["compile_s"]["total"] > 0
    site = next(finding for finding in done.document["findings"] if finding["code"] == "GB0059")
    assert site["source"] == 'print("hello")'
    assert site["url"].endswith("gb0059.html")
    assert "reorderable_logging_functions" in site["fix"]
    lines = [done.document["observations"][number - 1] for number in site["evidence"]]
    assert {line["kind"] for line in lines} == {"break"}
    assert "hello" in (done.runs[0] / "raw" / "stdout.txt").read_text()  # what the target printed in each part


def test_nothing_compiled_ends_with_four_with_fullgraph_too(bfo_diag_here, steps):
    done = bfo_diag_here("compile", steps + "nothing_to_compile", "--fullgraph", *FAST)
    assert done.code == 4
    assert "NOT APPLIED: nothing to compile" in done.out


@pytest.mark.parametrize(
    ("environment", "name", "reason"),
    [
        ({"TORCHDYNAMO_DISABLE": "1"}, "clean", "the environment variable TORCHDYNAMO_DISABLE=1"),
        ({}, "sets_the_stance", 'torch.compiler.set_stance("force_eager")'),
    ],
)
def test_what_disables_compile_is_named(bfo_diag_here, steps, environment, name, reason):
    done = bfo_diag_here("compile", steps + name, "--fullgraph", *FAST, environment=environment)
    assert done.code == 4
    assert f"NOT APPLIED: disabled by {reason}" in done.out


@pytest.mark.parametrize(("fail_on", "code"), [("break", 1), ("user-break,recompile", 0), ("none", 0)])
def test_fail_on_tells_the_breaks_of_torch_from_those_of_the_user(bfo_diag_here, steps, fail_on, code):
    assert bfo_diag_here("compile", steps + "bound_adam_step", "--fail-on", fail_on, *FAST).code == code


def test_a_baseline_fails_only_on_what_is_new(bfo_diag_here, steps, tmp_path):
    source = """
import torch
x = torch.ones(4)

def step():
    y = x * 2
    print("known")
    return y + 1
"""
    target, baseline = tmp_path / "train.py", tmp_path / "compile.baseline.json"
    target.write_text(source)
    base = ("--baseline", str(baseline))
    refused = bfo_diag_here("compile", f"{target}:step", *base, *FAST)
    assert refused.code == 2
    assert "--update-baseline" in refused.err
    wrote = bfo_diag_here("compile", f"{target}:step", *base, "--update-baseline", *FAST)
    assert wrote.code == 0
    assert f"Wrote 1 to {baseline}" in wrote.out
    written = baseline.read_text()
    (entry,) = json.loads(written)["sites"]
    assert (entry["file"], entry["function"], entry["source"]) == ("train.py", "step", 'print("known")')
    target.write_text("# a line more\n# and another\n" + source)
    moved = bfo_diag_here("compile", f"{target}:step", *base, *FAST)
    assert moved.code == 0
    assert "0 new, 1 known" in moved.out
    assert "known from the baseline" in moved.out
    target.write_text(source.replace("    return y + 1", "    z = y + 1\n    print('new')\n    return z * 2"))
    new = bfo_diag_here("compile", f"{target}:step", *base, "--json", *FAST)
    assert new.code == 1
    failing = [finding for finding in new.document["findings"] if "user-break" in finding.get("gates", ())]
    assert [finding["source"] for finding in failing] == ["print('new')"]
    target.write_text(source.replace('    print("known")\n', ""))
    gone = bfo_diag_here("compile", f"{target}:step", *base, *FAST)
    assert gone.code == 0
    assert "COMPILE-BASELINE-GONE" in gone.out
    assert baseline.read_text() == written


@pytest.mark.parametrize("content", ["[]", "{", '{"schema": 99, "sites": []}', '{"schema": 1, "sites": [{"key": []}]}'])
def test_a_baseline_that_is_none_is_refused(bfo_diag_here, steps, tmp_path, content):
    baseline = tmp_path / "b.json"
    baseline.write_text(content)
    done = bfo_diag_here("compile", steps + "clean", "--baseline", str(baseline), *FAST)
    assert done.code == 2
    assert str(baseline) in done.err
    assert baseline.read_text() == content


def test_a_run_that_did_not_come_to_its_end_leaves_the_baseline_as_it_was(bfo_diag_here, steps, tmp_path):
    baseline = tmp_path / "b.json"
    baseline.write_text('{"schema": 1, "sites": []}')
    arguments = ("--baseline", str(baseline), "--update-baseline", *FAST)
    done = bfo_diag_here("compile", steps + "only_raises_when_compiled", *arguments)
    assert done.code == 2
    assert "is not written" in done.err
    assert baseline.read_text() == '{"schema": 1, "sites": []}'


def test_a_process_that_dies_under_fullgraph_alone_leaves_the_rest_of_the_answer(bfo_diag, tmp_path):
    (tmp_path / "dies.py").write_text(
        "import os, pathlib, torch\n"
        "count = pathlib.Path(__file__).with_suffix('.count')\n"
        "count.write_text(str(int(count.read_text() if count.exists() else 0) + 1))\n"
        "if count.read_text() == '3':\n"
        "    os._exit(7)\n"
        "x = torch.ones(4)\n"
        "def step():\n"
        "    return x * 2\n"
    )
    done = bfo_diag("compile", f"{tmp_path / 'dies.py'}:step", "--fullgraph", "--json", "--backend", "eager")
    assert done.document["outcome"] == "complete"
    assert done.document["summary"]["fullgraph"] == {"ok": False, "error": "the process died: exit status 7"}
    assert len(done.document["summary"]["compiles"]) == 5


def test_the_built_in_cases_that_are_named_are_examined(bfo_diag_here):
    done = bfo_diag_here("compile", "--cases", "original_pattern", "--json")
    assert done.code == 0
    assert list(done.document["summary"]["cases"]) == ["original_pattern"]


def test_only_a_fix_that_was_seen_to_work_is_confirmed(bfo_diag_here, steps):
    done = bfo_diag_here("compile", steps + "item_in_the_middle", "--try-fixes", *FAST)
    assert "confirmed in a run of its own: torch._dynamo.config.capture_scalar_outputs = True" in done.out
    done = bfo_diag_here("compile", steps + "nested_helper_prints", "--try-fixes", *FAST)
    assert "confirmed" not in done.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--mode", "fast"], "--mode 'fast' is no mode"),
        (["--mode", "max-autotune", "--backend", "eager"], "goes with the backend inductor"),
        (["--fail-on", "maybe"], "--fail-on maybe is not known"),
        (["--fail-on", "none,break"], "none goes with no other"),
        (["--calls", "3"], "3 is not in the range x>=5"),
        (["--update-baseline"], "--update-baseline names no file"),
        (["--backend", "warp"], "warp"),
        (["--cases", "adam_step,warp"], "--cases warp is not known"),
        (["--cases", ""], "--cases '' is not known"),
        (["--cases", "adam_step"], "--cases names built-in cases"),
    ],
)
def test_wrong_options_end_with_two(bfo_diag_here, steps, arguments, said):
    done = bfo_diag_here("compile", steps + "clean", *arguments)
    assert done.code == 2
    assert said in done.err


@pytest.mark.parametrize(
    ("name", "code", "outcome", "said"),
    [
        ("spawns_threads", 4, "complete", None),
        ("kills_itself", 3, "crashed", "TARGET-DIED"),
        ("crashes", 3, "crashed", "TARGET-DIED"),
    ],
)
def test_whatever_the_target_does_leaves_a_log_an_exit_code_and_one_clean_document(
    bfo_diag, misbehaving, name, code, outcome, said
):
    done = bfo_diag("compile", misbehaving + name, "--json", *FAST)
    assert done.code == code, done.err + done.out[-2000:]
    assert done.document["outcome"] == outcome == done.run.outcome.value
    if said:
        assert [finding["code"] for finding in done.document["findings"]] == [said]


def test_a_target_that_exits_has_raised(bfo_diag_here, misbehaving):
    done = bfo_diag_here("compile", misbehaving + "exits", "--json", *FAST)
    assert done.code == 3, done.err + done.out[-2000:]
    assert done.document["outcome"] == "crashed" == done.run.outcome.value
    assert [finding["code"] for finding in done.document["findings"]] == ["TARGET-RAISED"]


@pytest.mark.parametrize("name", ["never_returns", "ignores_the_time_limit"])
def test_a_target_that_never_returns_is_stopped(bfo_diag, misbehaving, name):
    done = bfo_diag("compile", misbehaving + name, "--timeout", "1", "--json", *FAST)
    assert done.code == 3
    assert done.document["outcome"] == "timed_out"
    assert "TARGET-TIMED-OUT" in [finding["code"] for finding in done.document["findings"]]


def test_ctrl_c_leaves_a_log_that_says_so(misbehaving, tmp_path, command):
    process = subprocess.Popen(
        [*command, "compile", misbehaving + "never_returns", "--workspace", str(tmp_path), *FAST],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        runs = store.runs(Workspace(tmp_path))
        if runs and any(o.kind == "environment" for o in store.read(runs[0]).observations):
            break
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    run = store.read(store.runs(Workspace(tmp_path))[0])
    assert run.outcome is Outcome.INTERRUPTED
    assert "RUN-INTERRUPTED" in out
    assert not _children_of(process.pid)


def _children_of(pid: int) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(entry.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(entry.parent.name)
        except (OSError, ValueError):
            continue
    return found
