"""What is copied into a package: capped, strict, readable, and redacted once."""

from __future__ import annotations

import json
import shutil

import pytest

from bfo_diag import archive, packing, recorded, store
from bfo_diag.errors import DiagError
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


@pytest.mark.parametrize(
    "line",
    [
        b'{"a": 1e999}',
        b'{"a": 1, "a": 2}',
        b"[" * 150 + b"]" * 150,
        b'{"a": NaN}',
        b"[" * 5000,
        b"\xff\xfe",
        b'{"a": "' + b"x" * (5 * 2**20) + b'"}',
    ],
)
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


def test_a_source_that_differs_between_two_runs_is_told(run, tmp_path):
    folder = run / "raw" / "src"
    folder.mkdir()
    (folder / "train.py").write_text("first = 1\n")
    later = run.with_name("later")
    shutil.copytree(run, later)
    made, _ = packed(run, tmp_path)
    (later / "raw" / "src" / "train.py").write_text("second = 2\n")
    made.run(later)
    assert made.changed == ["src/train.py"]
    assert (made.folder / "src" / "train.py").read_text() == "second = 2\n"
    again, _ = packed(run, tmp_path / "again")
    shutil.copytree(run, run.with_name("same"))
    again.run(run.with_name("same"))
    assert again.changed == []


def test_a_run_is_packed_once(run, tmp_path):
    made, _ = packed(run, tmp_path)
    with pytest.raises(DiagError, match="two runs would be packed as"):
        made.run(run)


@pytest.mark.parametrize(
    ("name", "why"),
    [("aux.py", "device"), ("x" * 120 + ".py", "too long"), ("NET.py", "can't stand beside"), ("a:b.py", "colon")],
)
def test_a_file_whose_name_no_package_can_hold_is_left_out_by_name(run, tmp_path, name, why):
    folder = run / "raw" / "src"
    folder.mkdir()
    for each in (name, "net.py"):
        (folder / each).write_text(f"x = {each!r}\n")
    made, _ = packed(run, tmp_path)
    assert [why in left["why"] for left in made.left_out] == [True]
    archive.write(made.folder, tmp_path / "x.tar.gz", root="x" * packing.LONGEST_NAME, about={})


def test_a_folder_called_home_is_no_home(run, tmp_path):
    folder = run / "raw" / "src" / "home" / "zed"
    folder.mkdir(parents=True)
    (folder / "net.py").write_text("x = 1\n")
    made, _ = packed(run, tmp_path)
    assert (made.folder / "src" / "home" / "zed" / "net.py").is_file()


def test_a_link_among_the_sources_is_not_followed(run, tmp_path):
    (tmp_path / "private.py").write_text("private")
    (run / "raw" / "src").mkdir()
    (run / "raw" / "src" / "x.py").symlink_to(tmp_path / "private.py")
    made, _ = packed(run, tmp_path)
    assert not (made.folder / "src").exists()


def test_a_long_output_without_a_line_end_keeps_its_beginning_and_end(run, tmp_path):
    (run / "raw" / "stdout.txt").write_text("first " + "progress\r" * 600_000 + "last")
    _, folder = packed(run, tmp_path, cap=1_000_000)
    text = (folder / "raw" / "stdout.txt").read_text()
    assert text.startswith("first ")
    assert text.endswith("last")
    assert len(text) < 1_001_000


def test_a_line_that_is_no_json_once_it_is_redacted_says_so(run, tmp_path):
    line = dumps(
        Observation(
            "printed", {"password": 1234567890123, "x": "-----BEGIN RSA PRIVATE KEY-----\nMIIE" + "A" * 60}
        ).to_json()
    )
    (run / store.OBSERVATIONS_FILE).write_text(f"{line}\n" * 3)
    _, folder = packed(run, tmp_path)
    lines = (folder / store.OBSERVATIONS_FILE).read_text().splitlines()
    assert len(lines) == 3
    assert all(json.loads(line)["kind"] in ("printed", "damaged") for line in lines)
    assert "MIIE" not in "".join(lines)


@pytest.mark.parametrize("user", ["adam", "target", "gradients", "kind", "relu"])
def test_a_user_called_like_a_word_of_the_code_or_the_record_breaks_neither(tmp_path, user):
    place = Workspace.find(tmp_path / "workspace")
    case = CaseRecord("id", "step", target=f"/home/{user}/train.py:step")
    folder, header = store.create(place, probe="gradients", case=case, argv=(), environment={}, options={})
    file = f"/home/{user}/train.py"
    with store.ObservationWriter(folder) as log:
        log.write(Observation("source", {"file": file, "path": "train.py", "target": True}))
    store.finish(folder, header, Outcome.COMPLETE)
    (folder / "raw" / store.IDENTITY_FILE).write_text(
        dumps(Identity(users=(user,), homes=(f"/home/{user}",)).to_json())
    )
    (folder / "raw" / "src").mkdir()
    source = (
        f"import torch\nmine_{user} = 1\ndef step(p):\n    return torch.optim.Adam(p), torch.relu(p)\n# by {user}\n"
    )
    (folder / "raw" / "src" / "train.py").write_text(source)
    made = Packing(tmp_path / "stage", packing.redactor_for([folder], []))
    again = recorded.read(made.run(folder), source_folder=made.folder / "src")
    text = (made.folder / "src" / "train.py").read_text()
    assert again.probe.name == "gradients"
    assert again.portable_target == "train.py:step"
    assert "torch.optim.Adam(p), torch.relu(p)" in text
    assert f"mine_{user}" not in text
    assert f"/home/{user}" not in (made.folder / "logs" / folder.name / store.OBSERVATIONS_FILE).read_text()


def test_a_link_in_the_log_is_not_followed(run, tmp_path):
    (tmp_path / "elsewhere.txt").write_text("private")
    (run / "raw" / "stdout.txt").symlink_to(tmp_path / "elsewhere.txt")
    _, folder = packed(run, tmp_path)
    assert not (folder / "raw" / "stdout.txt").exists()


def test_whose_machine_it_was_is_read_from_the_run_and_not_from_who_packs(run, tmp_path):
    (run / "raw" / store.IDENTITY_FILE).write_text(dumps(Identity(users=("somebody_else",)).to_json()))
    redactor = packing.redactor_for([run], [])
    assert "somebody_else" not in redactor.text("hello somebody_else")


def test_without_a_record_of_it_whoever_packs_is_hidden(run, monkeypatch):
    monkeypatch.setattr(
        packing.Identity, "here", classmethod(lambda cls: Identity(users=("packer_q",), secrets=("s3cretvalue9",)))
    )
    assert packing.redactor_for([run], []).text("packer_q s3cretvalue9") == "REDACTED_user_1 REDACTED_secret_1"


def test_a_question_may_name_who_packs_and_users_that_only_a_path_names(run, monkeypatch):
    (run / "raw" / store.IDENTITY_FILE).write_text(dumps(Identity(users=("alice_w",)).to_json()))
    monkeypatch.setattr(packing.Identity, "here", classmethod(lambda cls: Identity(users=("packer_q",))))
    (run / "raw" / "stdout.txt").write_text("in /home/carol_z/x")
    redactor = packing.redactor_for([run], ["asks packer_q of /home/dave_y/x"])
    assert not any(name in redactor.text("packer_q carol_z dave_y") for name in ("packer_q", "carol_z", "dave_y"))
