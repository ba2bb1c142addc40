"""All probes in one go, whatever becomes of each; in this process, for the review is what counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bfo_diag import archive
from bfo_diag.cli import review
from bfo_diag.cli.review import _PROBES, _options
from bfo_diag.findings import catalogue
from bfo_diag.probes import load_all
from bfo_diag.probes.compile import builtin


def test_one_probes_failure_does_not_stop_the_others_and_is_in_the_package(bfo_diag_here, tmp_path):
    (tmp_path / "raising_step.py").write_text(
        "import torch\nw = torch.zeros(2, requires_grad=True)\ndef step():\n"
        "    w.sum().backward()\n    raise ValueError('as it happens')\n"
    )
    done = bfo_diag_here(
        "review", f"{tmp_path / 'raising_step.py'}:step", "--name", "failed", "--question", "Why?", "--json"
    )
    assert done.code == 3
    document = done.document
    assert [run["probe"] for run in document["runs"]] == ["gradients", "telemetry", "compile", "bench"]
    assert {run["outcome"] for run in document["runs"]} == {"crashed"}
    package = Path(document["package"])
    assert package.name == "failed.tar.gz"
    assert archive.verify(package).ok
    assert Path(document["page"]).read_text("utf-8").count("as it happens") >= 3
    assert document["content_id"] == archive.read_manifest(package).content_id
    (tmp_path / "unpacked").mkdir()
    archive.unpack(package, tmp_path / "unpacked")
    errors = (tmp_path / "unpacked" / "issues" / "ERROR_LOGS.md").read_text("utf-8")
    assert errors.count("ValueError") >= 3
    assert "1. Why?" in (tmp_path / "unpacked" / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("no_such_file.py:step",), "there is no file"),
        (("{here}:no_such_name",), "there is no 'no_such_name'"),
        (("{here}:step", "--fail-on", "sometimes"), "choose finding or none"),
        (("--input", "float32[2]"), "--input goes with an nn.Module"),
        (("{here}:step", "--name", "a/b"), "can't name a package"),
    ],
)
def test_a_target_that_is_none_is_told_once_and_nothing_is_packed(bfo_diag_here, tmp_path, arguments, said):
    (tmp_path / "steps.py").write_text("def step():\n    pass\n")
    done = bfo_diag_here("review", *(word.format(here=tmp_path / "steps.py") for word in arguments))
    assert done.code == 2
    assert done.err.count(said) == 1
    assert not list((tmp_path / "review_packages").glob("*.tar.gz"))


def test_its_options_are_those_of_the_probes():
    for name in _PROBES:
        probe = load_all()[name]
        assert set(_options(probe, None)) == set(_options(probe, "a.py:b")) == set(probe.options)
    assert json.dumps(_options(load_all()["bench"], None))


def test_a_first_look_has_one_built_in_case_of_each_kind():
    short = load_all()["compile"].short(None)
    examined = builtin.chosen(short["cases"])
    assert [case.name for case in examined] == list(builtin.FIRST_LOOK)
    assert sorted(case.why for case in examined) == sorted({case.why for case in builtin.BUILTINS})


def test_a_busy_machine_is_told_and_is_no_fault_of_the_target():
    noisy, slower = (catalogue()[code].finding("said") for code in ("BENCH-NOISY", "BENCH-SLOWER"))
    assert review.counted((noisy, slower)) == (slower,)
