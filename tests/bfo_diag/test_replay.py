"""What a replay would run, and what it takes over from the recorded environment."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from bfo_diag import replay
from bfo_diag.probes import load_all
from bfo_diag.recorded import Recorded
from bfo_diag.records import CaseRecord, Observation, Outcome, Run, RunHeader


def recording(target="/home/a/train.py:step", path="train.py", flags=None, packed=True, probe="compile", **options):
    case = CaseRecord("id", "name", target=target)
    header = RunHeader("id", probe, ("rm", "-rf", "/"), "2026-01-01T00:00:00Z", case, {"flags": flags}, options)
    source = Observation("source", {"file": "/home/a/train.py", "path": path, "sha256": "0", "target": True})
    run = Run(header, (source,) if packed else (), Outcome.COMPLETE)
    return Recorded(Path("nowhere"), Path("nowhere"), run, load_all()[probe])


def test_the_target_is_named_from_the_folder_of_the_packed_sources():
    (command,) = replay.plan([recording(path="pkg/train.py", fullgraph=True)])
    assert str(command) == "bfo-diag compile pkg/train.py:step --fullgraph"


def test_the_recorded_command_line_is_not_what_is_run():
    (command,) = replay.plan([recording()])
    assert "rm" not in str(command)


def test_a_module_keeps_its_name_and_the_built_in_cases_need_none():
    module, builtin = replay.plan([recording(target="pkg.mod:step"), recording(target=None, packed=False)])
    assert str(module) == "bfo-diag compile pkg.mod:step"
    assert str(builtin) == "bfo-diag compile"


def test_a_target_whose_source_is_not_packed_says_why_it_is_not_run():
    (command,) = replay.plan([recording(packed=False)])
    assert command.why_not
    assert command.words == ()


def test_of_the_environment_only_flags_that_change_results_are_set_again():
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
def test_odd_flags_are_no_flags(flags):
    assert replay.plan([recording(flags=flags)])[0].flags == ()


def test_a_value_with_the_shells_own_characters_stays_one_word():
    (command,) = replay.plan([recording(backend="x; touch y")])
    assert shlex.split(str(command))[-1] == "--backend=x; touch y"


def test_the_checks_of_a_package_without_such_a_run_are_skipped_by_name(tmp_path):
    said: list[str] = []
    (tmp_path / "logs").mkdir()
    assert replay.Recheck(tmp_path, "compile").main(said.append) == 0
    assert said == ["skipped compile: not measured: no run of bfo-diag compile is packed\n"]
