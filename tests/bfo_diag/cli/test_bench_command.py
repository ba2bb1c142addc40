"""`bfo-diag bench` as its user meets it, with the backend aot_eager and little time: the figures mean nothing here.

One run of each kind is made of real processes; what else the command answers is had in this one (`bfo_diag_here`).
"""

from __future__ import annotations

import json
import signal
import subprocess
import time

import pytest

from bfo_diag import store
from bfo_diag.records import Outcome
from bfo_diag.workspace import Workspace

pytestmark = pytest.mark.compile
SHORT = ("--modes", "backend:aot_eager", "--processes", "1", "--seconds", "0.1")


@pytest.fixture
def steps(targets_folder):
    return f"{targets_folder / 'compile_steps.py'}:"


def test_a_step_is_timed_compared_and_advised_upon(bfo_diag_here, steps):
    done = bfo_diag_here("bench", steps + "clean", *SHORT, "--json", "--steps", "1000", "--fail-on", "none")
    assert done.code == 0, done.err
    summary = done.document["summary"]
    mode = summary["modes"]["backend:aot_eager"]
    assert mode["verdict"] in ("faster", "slower", "no difference")
    assert mode["correctness"]["result"] == "same"
    assert mode["compile_s"]["cold"] > 0
    assert mode["memory"]["peak_rss_mib"] > 10
    assert summary["control"]["low"] <= summary["control"]["value"] <= summary["control"]["high"]
    assert summary["advice"]["steps"] == 1000
    measured = [o for o in done.document["observations"] if o["kind"] == "measured"]
    assert len(measured) == 1
    assert len(measured[0]["values"]["step_s"]["eager"]) >= 6
    kept = [o["values"]["part"] for o in done.document["observations"] if o["kind"] == "part_started"]
    assert kept == ["first", "first", "first", "measure"]


def test_a_compiled_step_that_computes_something_else_is_an_error(bfo_diag_here, steps):
    done = bfo_diag_here("bench", steps + "wrong_when_compiled", *SHORT, "--json")
    assert done.code == 1
    found = next(f for f in done.document["findings"] if f["code"] == "BENCH-RESULT-DIFFERS")
    assert found["severity"] == "error"


def test_a_mode_that_fails_is_left_out_and_said(bfo_diag_here, steps):
    done = bfo_diag_here("bench", steps + "only_raises_when_compiled", *SHORT, "--json")
    assert done.code == 4
    assert "BENCH-MODE-FAILED" in [finding["code"] for finding in done.document["findings"]]


@pytest.mark.parametrize("name", ["exits", "raises"])
def test_what_the_target_raises_ends_it_and_is_told(bfo_diag_here, misbehaving, name):
    done = bfo_diag_here("bench", misbehaving + name, *SHORT, "--json")
    assert done.code == 3
    assert [finding["code"] for finding in done.document["findings"]] == ["TARGET-RAISED"]


def test_a_target_that_kills_its_process_leaves_a_log_and_an_exit_code(bfo_diag, misbehaving):
    done = bfo_diag("bench", misbehaving + "kills_itself", *SHORT, "--json")
    assert done.code == 3
    assert [finding["code"] for finding in done.document["findings"]] == ["TARGET-DIED"]


def test_a_target_that_never_returns_is_stopped(bfo_diag, misbehaving):
    done = bfo_diag("bench", misbehaving + "never_returns", *SHORT, "--timeout", "1", "--json")
    assert done.code == 3
    assert done.document["outcome"] == "timed_out"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--modes", "fast"], "--modes fast is not known"), (["--processes", "0"], "0 is not in the range")],
)
def test_wrong_options_end_with_two(bfo_diag_here, steps, arguments, said):
    done = bfo_diag_here("bench", steps + "clean", *arguments)
    assert done.code == 2
    assert said in done.err


def test_ctrl_c_keeps_the_processes_that_finished(steps, tmp_path, command):
    arguments = [
        *command,
        "bench",
        steps + "clean",
        *SHORT,
        "--processes",
        "50",
        "--workspace",
        str(tmp_path),
        "--json",
    ]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        runs = store.runs(Workspace(tmp_path))
        if runs and any(o.kind == "measured" for o in store.read(runs[0]).observations):
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert store.read(store.runs(Workspace(tmp_path))[0]).outcome is Outcome.INTERRUPTED
    document = json.loads(out)
    started = [o["values"]["part"] for o in document["observations"] if o["kind"] == "part_started"]
    assert started[:4] == ["first", "first", "first", "measure"]  # (the very first part says what it runs on instead)
    summary = document["summary"]
    assert 1 <= summary["processes"] < 50
    mode = summary["modes"]["backend:aot_eager"]
    assert mode["speed_up"]["value"] > 0
    assert mode["compile_s"]["cold"] > 0
    assert mode["memory"]["peak_rss_mib"] > 10
