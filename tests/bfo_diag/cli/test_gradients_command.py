"""The command as its user meets it: its exit code, what it prints, what it leaves in logs/.

One run of each kind is made of real processes; what else the command answers is had in this one (`bfo_diag_here`).
"""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch

from bfo_diag import store
from bfo_diag.records import Outcome
from bfo_diag.workspace import Workspace


def test_a_cut_ends_with_one_and_names_the_log_last(bfo_diag, targets_folder):
    done = bfo_diag("gradients", f"{targets_folder / 'planted_cuts.py'}:step_detach")
    assert done.code == 1
    assert "GRAD-CUT-DETACH" in done.out
    assert "return hidden.detach()  # cut: detach" in done.out
    assert "2 of 4 parameters got no gradient." in done.out
    assert done.out.rstrip().splitlines()[-1] == f"Wrote {done.runs[0]}"
    assert done.run.outcome is Outcome.COMPLETE
    assert done.run.header.case.kind == "step"
    assert (done.runs[0] / "raw").is_dir()


def test_the_json_document_is_alone_on_stdout_and_has_all_its_keys(bfo_diag, targets_folder):
    done = bfo_diag("gradients", f"{targets_folder / 'planted_cuts.py'}:step_no_grad", "--json")
    document = done.document
    assert set(document) == {
        "schema",
        "run_id",
        "probe",
        "case",
        "outcome",
        "verdict",
        "environment",
        "observations",
        "findings",
        "summary",
    }
    assert document["run_id"] == done.runs[0].name
    assert document["environment"]["torch"].startswith("2.")
    (finding,) = document["findings"]
    assert {"code", "severity", "file", "line", "message", "fix", "url", "evidence"} <= set(finding)
    assert document["observations"][finding["evidence"][0] - 1]["kind"] == "cut"
    (cut,) = document["summary"]["cuts"]
    assert {"file", "line", "op", "source", "parameters"} <= set(cut)
    assert set(document["summary"]["parameters"]) == {"with_grad", "without_grad"}
    assert done.err.rstrip().splitlines()[-1] == f"Wrote {done.runs[0]}"


def check_one_clean_document(done, code: int, outcome: str, said: str | None) -> None:
    assert done.code == code, done.err
    assert done.document["outcome"] == outcome == done.run.outcome.value
    assert [finding["code"] for finding in done.document["findings"]] == ([said] if said else [])


@pytest.mark.parametrize(
    ("name", "code", "outcome", "said"),
    [
        ("prints", 0, "complete", None),
        ("replaces_stdout", 0, "complete", None),
        ("spawns_threads", 0, "complete", None),
        ("exits_hard", 3, "crashed", "TARGET-DIED"),
        ("kills_itself", 3, "crashed", "TARGET-DIED"),
        ("crashes", 3, "crashed", "TARGET-DIED"),
    ],
)
def test_whatever_the_target_does_to_its_process_leaves_a_log_an_exit_code_and_one_clean_document(
    bfo_diag, misbehaving, name, code, outcome, said
):
    done = bfo_diag("gradients", misbehaving + name, "--json")
    check_one_clean_document(done, code, outcome, said)
    if name == "prints":
        raw = (done.runs[0] / "raw" / "stdout.txt").read_bytes()
        assert b"hello on stdout" in raw
        assert b"\xff\xfe\x00" in raw


@pytest.mark.parametrize(
    ("name", "code", "outcome", "said"),
    [
        ("good", 0, "complete", None),
        ("changes_state", 1, "complete", "GRAD-CUT-NO_GRAD"),
        ("exits", 3, "crashed", "TARGET-RAISED"),
        ("raises", 3, "crashed", "TARGET-RAISED"),
        ("returns_a_number", 4, "complete", "GRAD-NO-BACKWARD"),
    ],
)
def test_whatever_the_target_does_leaves_a_log_an_exit_code_and_one_clean_document(
    bfo_diag_here, misbehaving, name, code, outcome, said
):
    done = bfo_diag_here("gradients", misbehaving + name, "--json")
    check_one_clean_document(done, code, outcome, said)
    if name == "raises":
        assert done.document["findings"][0]["line"] is not None
        assert "ValueError" in done.document["findings"][0]["message"]
        shown = bfo_diag_here("gradients", misbehaving + name)
        assert "in raises" in shown.err, "the target's own traceback"


def test_a_target_that_never_returns_is_judged_by_what_was_seen(bfo_diag, misbehaving):
    done = bfo_diag("gradients", misbehaving + "never_returns", "--timeout", "4", "--json")
    assert done.code == 3
    assert done.document["outcome"] == "timed_out"
    assert {f["code"] for f in done.document["findings"]} == {"TARGET-TIMED-OUT", "GRAD-CUT-DETACH"}
    assert done.document["summary"]["parameters"]["without_grad"] == ["weight"]


def test_a_target_that_ignores_the_time_limit_is_killed(bfo_diag, misbehaving):
    done = bfo_diag("gradients", misbehaving + "ignores_the_time_limit", "--timeout", "1", "--json")
    assert done.code == 3
    assert done.document["outcome"] == "timed_out"
    assert "did not stop by itself" in done.document["findings"][0]["message"]


def test_the_time_limit_stops_the_matrix_and_invents_no_finding(bfo_diag, targets_folder):
    target = f"{targets_folder / 'foreign_optimizers.py'}:Hangs"
    done = bfo_diag("gradients", target, "--scenario", "all-grad", "--mode", "as-is", "--timeout", "6", "--json")
    assert done.code == 3
    assert done.document["outcome"] == "timed_out"
    (finding,) = done.document["findings"]
    assert (finding["code"], finding["source"]) == ("TARGET-TIMED-OUT", None)
    assert "digits-mlp, all-grad, as-is" in finding["message"]


def test_a_refusal_is_a_document_too(bfo_diag_here, targets_folder):
    done = bfo_diag_here("gradients", f"{targets_folder / 'planted_cuts.py'}:no_such_step", "--json")
    assert done.code == 2
    assert [f["code"] for f in done.document["findings"]] == ["TARGET-REFUSED"]


def test_stdout_that_can_not_be_written_is_said_without_a_traceback(bfo_diag, targets_folder, tmp_path, command):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [*command, "gradients", f"{targets_folder / 'misbehaving.py'}:good", "--workspace", str(tmp_path)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert "stdout can't be written" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_leaves_a_log_that_says_so(tmp_path, misbehaving, command):
    process = subprocess.Popen(
        [*command, "gradients", misbehaving + "never_returns", "--workspace", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A background job inherits an ignored SIGINT; a person's terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if any("went back" in path.read_text() for path in tmp_path.glob("logs/*/raw/stdout.txt")):
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    try:
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "GRAD-CUT-DETACH" in out, "what was seen until then is judged"
    assert "Traceback" not in out
    assert "RUN-INTERRUPTED" in out
    (folder,) = store.runs(Workspace(tmp_path))
    assert store.read(folder).outcome is Outcome.INTERRUPTED
    assert not children_in(folder), "the child lives on"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.py:step"], "there is no file nowhere.py"),
        (["train.py"], "names no object"),
        (["{planted}:no_such_step"], "there is no 'no_such_step'"),
        (["{planted}:outer"], "wants arguments (helper, hidden)"),
        (["{planted}:Net"], "--input 'float32[32,64]'"),
        (["{planted}:net", "--input", "float32[4"], "is not of the form dtype[shape]"),
        (["torch.nn:Identity", "--input", "float32[8,4]", "--input", "float32[2]"], "does not take 2 inputs"),
        (["{planted}:step_healthy", "--input", "float32[4]"], "--input goes with an nn.Module"),
        (["{planted}:step_healthy", "--mode", "dual"], "go with an Optimizer class"),
        (["--mode", "quantum"], "--mode quantum is not known"),
        (["--scenario", "all-grad,none"], "--scenario none is not known"),
        (["--input", "float32[4]"], "--input goes with an nn.Module"),
        (["{foreign}:WantsMore"], "wants more than its parameters (temperature)"),
        (["{planted}:step_healthy", "--workspace", "/proc/nowhere"], "can't be written"),
        (["{planted}:step_healthy", "--steps", "0"], "--steps"),
    ],
)
def test_wrong_usage_ends_with_two_and_says_what_to_do(bfo_diag_here, targets_folder, arguments, said):
    places = {"planted": targets_folder / "planted_cuts.py", "foreign": targets_folder / "foreign_optimizers.py"}
    done = bfo_diag_here("gradients", *(argument.format(**places) for argument in arguments))
    assert done.code == 2
    assert said in done.err
    assert done.out == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_cuda_without_cuda_is_refused(bfo_diag_here, targets_folder):
    done = bfo_diag_here(
        "gradients", f"{targets_folder / 'planted_cuts.py'}:net", "--input", "float32[4]", "--device", "cuda"
    )
    assert done.code == 2
    assert "--device cpu" in done.err


def test_an_import_error_shows_the_users_traceback(bfo_diag_here, tmp_path):
    path = tmp_path / "broken_import.py"
    path.write_text("import no_such_package\n")
    done = bfo_diag_here("gradients", f"{path}:step")
    assert done.code == 2
    assert "ModuleNotFoundError: No module named 'no_such_package'" in done.err
    assert f'File "{path}", line 1' in done.err


def test_a_relative_import_in_a_package_works(bfo_diag_here, tmp_path):
    package = tmp_path / "my_training" / "inner"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text("")
    (package.parent / "net.py").write_text("import torch\nw = torch.ones(2, requires_grad=True)\n")
    (package / "train.py").write_text("from ..net import w\n\ndef step():\n    return (w.detach() * w).sum()\n")
    done = bfo_diag_here("gradients", f"{package / 'train.py'}:step", "--json")
    assert done.code == 0
    assert done.document["summary"]["parameters"]["with_grad"] == ["w"]


@pytest.mark.parametrize(("limit", "code"), [("error", 0), ("warning", 1), ("none", 0)])
def test_fail_on_sets_what_counts(bfo_diag_here, targets_folder, limit, code):
    done = bfo_diag_here("gradients", f"{targets_folder / 'planted_cuts.py'}:step_unused", "--fail-on", limit)
    assert done.code == code
    assert "GRAD-UNUSED" in done.out


def test_a_log_over_the_limit_of_file_size_stands_for_a_full_disk(bfo_diag, targets_folder):
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1200, 1200))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    done = bfo_diag("gradients", f"{targets_folder / 'planted_cuts.py'}:step_healthy", preexec_fn=small_files)
    assert done.code == 2
    assert "can't be written" in done.err
    assert "--workspace" in done.err
    assert store.read(done.runs[0]).observations[0].kind == "environment"


@pytest.mark.parametrize("arguments", [["--help"], ["gradients", "--help"], ["--version"]])
def test_help_never_imports_torch(arguments):
    code = (
        f"import sys; sys.argv = ['bfo-diag', *{arguments!r}]\n"
        "from bfo_diag.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit as e:\n    assert not e.code, e.code\n"
        "assert 'torch' not in sys.modules\n"
        "assert 'numpy' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "bfo-diag" in done.stdout


def children_in(workspace) -> list[int]:
    found = subprocess.run(["pgrep", "-f", f"bfo_diag.child {workspace}"], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


def left_running(workspace) -> list[int]:
    """Return the child processes of a tool that is gone which do not end within seconds, and end them."""
    deadline = time.monotonic() + 5
    while (alive := children_in(workspace)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    return alive


def test_a_kill_of_the_tool_at_random_moments_leaves_a_log_that_loads_and_no_child(tmp_path, targets_folder, command):
    moments = random.Random(1)
    for _ in range(4):
        tool = subprocess.Popen(
            [*command, "gradients", "--scenario", "all-grad", "--steps", "500", "--evaluations", "100000"],
            env={**os.environ, "BFO_DIAG_WORKSPACE": str(tmp_path)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(moments.uniform(0.3, 5))
        tool.kill()
        tool.wait()
    left = left_running(tmp_path)
    folders = store.runs(Workspace(tmp_path))
    assert folders
    for folder in folders:
        run = store.read(folder)
        assert run.outcome is Outcome.RUNNING
        assert len(run.damaged) <= 1
    assert not left, "a child lives on"


def test_a_tool_that_is_killed_while_its_child_starts_leaves_none(tmp_path, misbehaving, command):
    arguments = ["gradients", misbehaving + "ignores_the_time_limit", "--workspace", str(tmp_path)]
    tool = subprocess.Popen([*command, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not children_in(tmp_path):
        time.sleep(0.002)
    tool.kill()
    tool.wait()
    assert not left_running(tmp_path), "the child lives on"
