"""What is copied into a package: capped, strict, readable, and redacted once."""

from __future__ import annotations

import json

import pytest

from bfo_diag import archive, packing, recorded, store
from bfo_diag.packing import Packing
from bfo_diag.records import CaseRecord, Observation, Outcome, dumps
from bfo_diag.redact import Identity, Redactor
from bfo_diag.workspace import Workspace


@pytest.fixture
def run(tmp_path):
    place = Workspace.find(tmp_path / "workspace")
    case = CaseRecord("id", "builtin")
    folder, header = store.create(place, probe="gradients", case=case, argv=(), environment={}, options={})
    with store.ObservationWriter(folder) as log:
        for number in range(2000):
            log.write(Observation("step", {"step_ms": 1.0, "loss": 1.0 / (number + 1), "judged": True}))
    store.finish(folder, header, Outcome.COMPLETE)
    return folder


def packed(run, tmp_path, *, cap=packing.CAP, identity=Identity(users=("alice_w",))):  # noqa: B008 - it is frozen
    made = Packing(tmp_path / "stage", Redactor(identity), cap)
    return made, made.run(run)


def test_a_log_over_the_cap_keeps_whole_lines_of_its_beginning_and_its_end(run, tmp_path):
    made, folder = packed(run, tmp_path, cap=10_000)
    lines = (folder / store.OBSERVATIONS_FILE).read_text().splitlines()
    parsed = [json.loads(line) for line in lines]
    losses = [line["values"].get("loss") for line in parsed if line["kind"] == "step"]
    assert losses[0] == 1.0
    assert losses[-1] == 1.0 / 2000
    (left_out,) = [line for line in parsed if line["kind"] == "damaged"]
    assert "left out here" in left_out["values"]["why"]
    assert [cut["path"].rpartition("/")[2] for cut in made.truncated] == ["observations.jsonl"]
    again = recorded.read(folder)
    assert "LOG-DAMAGED" in [finding.code for finding in again.findings]


def test_a_log_within_the_cap_is_whole(run, tmp_path):
    made, folder = packed(run, tmp_path)
    assert (folder / store.OBSERVATIONS_FILE).read_bytes() == (run / store.OBSERVATIONS_FILE).read_bytes()
    assert made.truncated == []


def test_a_line_that_a_kill_cut_short_is_replaced_by_one_that_says_so(run, tmp_path):
    with (run / store.OBSERVATIONS_FILE).open("ab") as log:
        log.write(b'{"schema": 1, "kind": "st')
    _, folder = packed(run, tmp_path)
    lines = (folder / store.OBSERVATIONS_FILE).read_text().splitlines()
    assert len(lines) == 2001
    assert json.loads(lines[-1])["kind"] == "damaged"


@pytest.mark.parametrize("line", [b'{"a": NaN}', b"[" * 5000, b"\xff\xfe", b'{"a": "' + b"x" * (5 * 2**20) + b'"}'])
def test_a_line_that_no_reader_would_take_is_replaced(run, tmp_path, line):
    (run / store.OBSERVATIONS_FILE).write_bytes(line + b"\n" + line)
    _, folder = packed(run, tmp_path)
    lines = (folder / store.OBSERVATIONS_FILE).read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["damaged", "damaged"]


def test_binary_output_is_packed_as_text_that_a_reader_takes(run, tmp_path):
    (run / "raw" / "stdout.txt").write_bytes(b"loss \xff\x00\x80 alice_w\n" + bytes(range(256)))
    made, folder = packed(run, tmp_path)
    text = (folder / "raw" / "stdout.txt").read_text("utf-8")
    assert text.startswith("loss �")
    assert "\0" not in text
    assert "alice_w" not in text
    archive.write(made.folder, tmp_path / "x.tar.gz", root="x", about={})
    assert archive.verify(tmp_path / "x.tar.gz").ok


def test_what_is_no_text_is_left_out_by_name(run, tmp_path):
    (run / "raw" / "weights.pt").write_bytes(b"\x80\x04")
    made, folder = packed(run, tmp_path)
    assert [left["path"].rpartition("/")[2] for left in made.left_out] == ["weights.pt"]
    assert not (folder / "raw" / "weights.pt").exists()


def test_what_only_this_machine_needs_is_not_packed(run, tmp_path):
    for name in (store.IDENTITY_FILE, store.PROGRESS_FILE, "part-01-survey.json"):
        (run / "raw" / name).write_text(dumps({"users": ["alice_w"]}))
    made, folder = packed(run, tmp_path)
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == ["observations.jsonl", "run.json"]
    assert made.left_out == []


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-8", "utf-8-sig"])
def test_source_of_any_encoding_becomes_utf_8_that_still_runs(run, tmp_path, encoding):
    cookie = "" if encoding.startswith("utf-8") else f"# -*- coding: {encoding} -*-\n"
    folder = run / "raw" / "src"
    folder.mkdir()
    (folder / "step_of.py").write_bytes(f"{cookie}name = 'Zoë'\n".encode(encoding))
    made, _ = packed(run, tmp_path)
    values: dict[str, str] = {}
    exec(compile((made.folder / "src" / "step_of.py").read_bytes(), "step_of.py", "exec"), values)
    assert values["name"] == "Zoë"


def test_a_source_that_was_edited_between_two_runs_is_told(run, tmp_path):
    folder = run / "raw" / "src"
    folder.mkdir()
    (folder / "train.py").write_text("first = 1\n")
    made, _ = packed(run, tmp_path)
    (folder / "train.py").write_text("second = 2\n")
    made.run(run)
    assert made.changed == ["src/train.py"]
    assert (made.folder / "src" / "train.py").read_text() == "second = 2\n"


def test_a_link_in_the_log_is_not_followed(run, tmp_path):
    (tmp_path / "elsewhere.txt").write_text("private")
    (run / "raw" / "stdout.txt").symlink_to(tmp_path / "elsewhere.txt")
    _, folder = packed(run, tmp_path)
    assert not (folder / "raw" / "stdout.txt").exists()


def test_whose_machine_it_was_is_read_from_the_run_and_not_from_who_packs(run, tmp_path):
    (run / "raw" / store.IDENTITY_FILE).write_text(dumps(Identity(users=("somebody_else",)).to_json()))
    redactor = packing.redactor_for([run], [])
    assert "somebody_else" not in redactor.text("hello somebody_else")
