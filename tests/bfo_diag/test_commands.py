"""The command line that a run stands for, put together from its record."""

from __future__ import annotations

import pytest

from bfo_diag import commands
from bfo_diag.probes import load_all
from bfo_diag.records import CaseRecord, RunHeader


def header(probe, *, target="train.py:step", device="cpu", seed=0, inputs=(), timeout=None, **options):
    case = CaseRecord("id", "name", target=target, device=device, seed=seed, inputs=inputs)
    return RunHeader("id", probe, ("anything", "at all"), "2026-01-01T00:00:00Z", case, {}, options, timeout)


def words(probe, *, elsewhere=False, **how):
    made = header(probe, **how)
    return commands.arguments(made, load_all()[probe], target=made.case.target, elsewhere=elsewhere)


def test_what_is_the_default_is_left_out():
    assert words("gradients", steps=3, mode="all", scenario="all", evaluations=200) == ["gradients", "train.py:step"]
    assert words("gradients", target=None) == ["gradients"]


def test_what_is_not_the_default_is_said():
    assert words("gradients", steps=7, seed=3, inputs=("float32[2,3]",), timeout=2.5) == [
        "gradients",
        "train.py:step",
        "--input=float32[2,3]",
        "--seed=3",
        "--timeout=2.5",
        "--steps=7",
    ]


@pytest.mark.parametrize(("probe", "device", "said"), [("gradients", "cuda", True), ("bench", "auto", False)])
def test_the_device_is_said_where_it_is_not_the_probes_own(probe, device, said):
    assert (f"--device={device}" in words(probe, device=device)) is said


def test_switches_are_written_as_they_are_declared():
    assert words("compile", fullgraph=True, try_fixes=True, dynamic=False)[2:] == ["--fullgraph", "--try-fixes"]
    assert words("bench", cold=False, device="auto")[2:] == ["--warm"]


def test_a_replay_elsewhere_gets_no_option_about_files_of_the_first_machine():
    how = {"baseline": "/somewhere/known.json", "update_baseline": True, "calls": 6}
    assert words("compile", **how)[2:] == ["--calls=6", "--baseline=/somewhere/known.json", "--update-baseline"]
    assert words("compile", elsewhere=True, **how)[2:] == ["--calls=6"]


def test_options_that_the_probe_does_not_know_are_never_said():
    assert words("gradients", **{"steps; rm -rf": "1", "workspace": "/elsewhere"}) == ["gradients", "train.py:step"]


def test_a_value_cannot_become_an_option_of_its_own():
    assert words("compile", backend="--update-baseline")[2:] == ["--backend=--update-baseline"]


def test_the_line_to_copy_is_quoted():
    made = header("gradients", target="my file.py:step")
    assert commands.command_line(made, load_all()["gradients"]) == "bfo-diag gradients 'my file.py:step'"


def test_a_sweep_is_run_by_two_words_and_elsewhere_as_a_study_of_its_own():
    how = {"target": "s.toml", "device": "auto", "study": "mine", "storage": "sqlite:///s.db", "report_only": True}
    own = ["--study=mine", "--storage=sqlite:///s.db", "--report-only"]
    assert words("sweep", **how) == ["sweep", "run", "s.toml", *own]
    assert words("sweep", elsewhere=True, **how) == ["sweep", "run", "s.toml"]
