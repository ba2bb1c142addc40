"""What a replay would run, and what it takes over from the recorded environment."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from bfo_diag import difference, replay
from bfo_diag.errors import DiagError, RecordError
from bfo_diag.probes import load_all
from bfo_diag.recorded import Recorded
from bfo_diag.records import CaseRecord, Observation, Outcome, Run, RunHeader


@pytest.fixture
def recording(tmp_path):
    for path in ("train.py", "pkg/train.py"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("")

    def make(**how):
        return recorded_in(tmp_path, **how)

    return make


def recorded_in(
    folder, target="/home/a/train.py:step", path="train.py", flags=None, packed=True, probe="compile", **options
):
    case = CaseRecord("id", "name", target=target)
    header = RunHeader("id", probe, ("rm", "-rf", "/"), "2026-01-01T00:00:00Z", case, {"flags": flags}, options)
    source = Observation("source", {"file": "/home/a/train.py", "path": path, "target": True})
    run = Run(header, (source,) if packed else (), Outcome.COMPLETE)
    return Recorded(folder, folder, run, load_all()[probe])


def test_the_target_is_named_from_the_folder_of_the_packed_sources(recording):
    (command,) = replay.plan([recording(path="pkg/train.py", fullgraph=True)])
    assert str(command) == "bfo-diag compile pkg/train.py:step --fullgraph"


def test_the_recorded_command_line_is_not_what_is_run(recording):
    (command,) = replay.plan([recording()])
    assert "rm" not in str(command)


def test_a_module_keeps_its_name_and_the_built_in_cases_need_none(recording):
    module, builtin = replay.plan([recording(target="pkg.mod:step"), recording(target=None, packed=False)])
    assert str(module) == "bfo-diag compile pkg.mod:step"
    assert str(builtin) == "bfo-diag compile"


def test_a_target_whose_source_is_not_packed_says_why_it_is_not_run(recording):
    (command,) = replay.plan([recording(packed=False)])
    assert command.why_not
    assert command.words == ()


def test_of_the_environment_only_flags_that_change_results_are_set_again(recording):
    flags = {
        "TORCHDYNAMO_DISABLE": "1",
        "OMP_NUM_THREADS": "4",
        "TORCHINDUCTOR_CACHE_DIR": "/elsewhere",
        "TORCH_COMPILE_DEBUG": "1; rm -rf /",
        "MKL_NUM_THREADS": 4,
        "LD_PRELOAD": "x.so",
    }
    (command,) = replay.plan([recording(flags=flags)])
    assert command.flags == (("TORCHDYNAMO_DISABLE", "1"), ("OMP_NUM_THREADS", "4"))
    assert str(command).startswith("TORCHDYNAMO_DISABLE=1 OMP_NUM_THREADS=4 bfo-diag compile")


@pytest.mark.parametrize("flags", [None, [], "x", 3, {"OMP_NUM_THREADS": None}])
def test_odd_flags_are_no_flags(recording, flags):
    assert replay.plan([recording(flags=flags)])[0].flags == ()


def test_a_value_with_the_shells_own_characters_stays_one_word(recording):
    (command,) = replay.plan([recording(backend="x; touch y")])
    assert shlex.split(str(command))[-1] == "--backend=x; touch y"


def test_the_checks_of_a_package_without_such_a_run_are_skipped_by_name(tmp_path):
    said: list[str] = []
    (tmp_path / "logs").mkdir()
    assert replay.Recheck(tmp_path, "compile").main(said.append) == 0
    assert said == ["skipped compile: not measured: no run of bfo-diag compile is packed\n"]


def test_a_target_that_is_not_in_the_package_is_not_run(recording, tmp_path):
    (command,) = replay.plan([recording(path="../outside.py")])
    assert command.why_not
    (tmp_path / "link.py").symlink_to("/etc/hostname")
    (command,) = replay.plan([recording(path="link.py")])
    assert command.why_not


def test_a_target_cannot_become_an_option(recording):
    with pytest.raises(RecordError, match="begins with a dash"):
        replay.plan([recording(target="--workspace=x")])


def test_for_the_built_in_cases_only_the_packed_optimizers_stand_in(recording, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", ":relative::")
    (tmp_path / "pytorch_bfo_optimizer").mkdir()
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit")
    (builtin,) = replay.plan([recording(target=None)])
    (tmp_path / "work").mkdir()
    entries = replay._import_path(builtin, tmp_path, tmp_path / "work").split(":")
    assert [sorted(path.name for path in Path(entries[0]).iterdir())] == [["pytorch_bfo_optimizer"]]
    assert all(Path(entry).is_absolute() for entry in entries)
    (module,) = replay.plan([recording(target="a.b:c")])
    assert str(tmp_path) not in replay._import_path(module, tmp_path, tmp_path).split(":")


def compared(status, code="GRAD-CUT-DETACH"):
    finding = difference.catalogue()[code].finding("said")
    return difference.Compared(status, finding, finding, "")


@pytest.mark.parametrize(
    ("status", "outcomes", "code"),
    [
        ("reproduced", ("complete", "complete"), 0),
        ("changed", ("complete", "complete"), 1),
        ("gone", ("complete", "complete"), 1),
        ("new", ("complete", "complete"), 1),
        ("reproduced", ("complete", "crashed"), 1),
    ],
)
def test_the_checks_of_a_package_fail_at_each_difference(tmp_path, status, outcomes, code):
    check = replay.Recheck(tmp_path, "gradients")
    check._differences = [difference.Difference("t", (compared(status),), outcomes, ("", ""), (), ())]
    said: list[str] = []
    assert check.main(said.append) == code
    assert any(line.startswith("FAILED") for line in said) is bool(code)


def test_a_package_that_does_not_verify_is_not_opened(tmp_path):
    (tmp_path / "x.tar.gz").write_bytes(b"no package")
    with pytest.raises(DiagError, match="does not verify"), replay.opened(tmp_path / "x.tar.gz"):
        pass
