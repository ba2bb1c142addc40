"""What a replay would run, and what it takes over from the recorded environment."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from bfo_diag import replay
from bfo_diag.errors import DiagError, RecordError
from bfo_diag.parts import SAFE_PATH
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


def test_the_file_that_was_named_is_the_target_and_not_another_that_it_imported(recording):
    one = recording()
    other = Observation("source", {"file": "/home/a/losses.py", "path": "pkg/train.py", "target": False})
    run = replace(one.run, observations=(other, *one.run.observations))
    (command,) = replay.plan([replace(one, run=run)])
    assert str(command) == "bfo-diag compile train.py:step"


def test_a_module_keeps_its_name_and_the_built_in_cases_need_none(recording):
    module, builtin = replay.plan([recording(target="pkg.mod:step"), recording(target=None, packed=False)])
    assert str(module) == "bfo-diag compile pkg.mod:step"
    assert str(builtin) == "bfo-diag compile"


def test_a_recipe_is_named_from_the_folder_of_the_packed_sources_too(recording, tmp_path):
    (tmp_path / "r.toml").write_text("")
    how = {"target": "/home/a/r.toml", "path": "r.toml", "probe": "run", "resume": "some-run", "telemetry": "every=5"}
    (command,) = replay.plan([recording(**how)])
    assert str(command) == "bfo-diag run r.toml --device=cpu --telemetry=every=5"
    (command,) = replay.plan([recording(**how, packed=False)])
    assert command.why_not


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


def test_the_replay_has_the_recorded_flags_and_not_those_of_whoever_replays(recording, tmp_path, monkeypatch):
    seen = {}

    def started(words, **how):
        seen.update(how, words=words)
        return subprocess.CompletedProcess(words, 7, stderr=b"why")

    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    monkeypatch.setattr(replay.subprocess, "run", started)
    (command,) = replay.plan([recording(flags={"OMP_NUM_THREADS": "4"})])
    with pytest.raises(DiagError, match="left no run") as raised:
        replay.run(command, tmp_path)
    assert raised.value.detail == "why"
    assert "TORCHDYNAMO_DISABLE" not in seen["env"]
    assert seen["env"]["OMP_NUM_THREADS"] == "4"
    assert seen["cwd"] == tmp_path
    assert seen["words"][1 : 1 + len(SAFE_PATH)] == SAFE_PATH
