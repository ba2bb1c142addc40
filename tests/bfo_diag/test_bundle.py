"""A whole package made of a hand-written run: what is planted in it does not get out, what looks alike does."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from bfo_diag import archive, bundle, store
from bfo_diag.errors import DiagError
from bfo_diag.records import CaseRecord, Observation, Outcome, Place, dumps
from bfo_diag.redact import Identity
from bfo_diag.workspace import Workspace

HEX = "0123456789abcdef" * 4
SECRETS = {
    "home folder": "/home/jdoe42/project",
    "home folder on a Mac": "/Users/mary_ann/models",
    "home folder on Windows": "C:\\Users\\peterpan\\train",
    "user name": "jdoe42",
    "host name": "gpu-box-17",
    "GitHub token": "ghp_" + "a1B2c3D4e5F6g7H8i9J0" * 2,
    "GitHub fine-grained token": "github_pat_" + "11ABCDEFG0" * 5,
    "GitLab token": "glpat-" + "x1Y2z3W4v5U6t7S8r9Q0",
    "Hugging Face token": "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz12345678",
    "OpenAI key": "sk-" + "proj-" + "Zz9Yy8Xx7Ww6Vv5Uu4Tt3Ss2Rr1Qq0Pp",
    "AWS key id": "AKIA" + "IOSFODNN7QWERTYU",
    "AWS secret": "wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYzzzzzzzKEY",
    "Slack token": "xoxb-" + "123456789012-abcdefghijklmnop",
    "Google key": "AIza" + "SyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q",
    "PyPI token": "pypi-" + "AgEIcHlwaS5vcmcCJ" + "Dk4NzY1NDMyMTBhYmNkZWY" * 3,
    "JWT": "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0." + "dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
    "W&B key": "0af1" * 10,
    "password in a URL": "s3cr3tPassw0rd",
    "password in the environment": "hunter2hunter2",
    "password on a command line": "Tr0ub4dor&3x",
    "bearer token": "mF_9.B5f-4.1JqM-abcdef",
    "e-mail address": "jane.roe@research.example.com",
    "e-mail address, URL-encoded": "bob.builder@corp.example.org",
    "private IP": "10.42.17.203",
    "another private IP": "192.168.178.23",
    "a third private IP": "172.20.3.4",
    "private key": "MIIEowIBAAKCAQEAtz7" + "Qq8J5K2vXw9sYb3nL" * 4,
}
LOOK_ALIKES = [
    "3f2a9c1b7d6e5f4a3b2c1d0e9f8a7b6c5d4e3f2a",  # a git hash
    "git describe: v2.13.0-14-g3f2a9c1",
    "123e4567-e89b-12d3-a456-426614174000",
    HEX,  # a SHA-256
    "tensor([[ 0.1234, -1.2345e-05], [ 3.1416,  2.7183]], requires_grad=True)",
    "torch.Size([64, 32, 8])",
    "pad_token='<pad>'",
    "h = x@self.weight.t()",
    "num_tokens: 128",
    "nvidia-curand 10.3.5.147",
    "0x7f3a5c0de000",
    "2026-11-21T12:16:09.123Z",
    "fx graph cache key: fabcdefghijklmnopqrstuvwxyz",
]


def stdout():
    """Return what the target printed: each secret in a form that programs write it in."""
    s = SECRETS
    lines = [
        f"cwd {s['home folder']} on {s['home folder on a Mac']} as {s['user name']}@{s['host name']}",
        f'File "{s["home folder on Windows"]}\\x.py"',
        *(s[name] for name in SECRETS if "token" in name and name != "bearer token"),
        f"key={s['OpenAI key']} id {s['AWS key id']} aws_secret_access_key = {s['AWS secret']}",
        f"{s['Google key']} jwt {s['JWT']}",
        f"export WANDB_API_KEY={s['W&B key']}",
        f"postgres://admin:{s['password in a URL']}@db:5432/runs",
        f"DB_PASSWORD={s['password in the environment']}",
        f"train --password '{s['password on a command line']}' --epochs 3",
        f"Authorization: Bearer {s['bearer token']}",
        f"mail {s['e-mail address']} url ?to={quote(s['e-mail address, URL-encoded'], safe='')}",
        f"{s['private IP']}:6379 {s['another private IP']} {s['a third private IP']}",
        f"-----BEGIN RSA PRIVATE KEY-----\n{s['private key']}\n-----END RSA PRIVATE KEY-----",
        *LOOK_ALIKES,
    ]
    return "\n".join(lines) + "\n"


SOURCE = f'''"""By {SECRETS["e-mail address"]}."""
import os

TOKEN = "{SECRETS["Hugging Face token"]}"
password = os.environ.get("PASSWORD")  # a lookup is no secret
COMMIT = "{LOOK_ALIKES[0]}"


def step():
    return TOKEN, COMMIT
'''


@pytest.fixture
def run(tmp_path):
    place = Workspace.find(tmp_path / "workspace")
    home = SECRETS["home folder"]
    case = CaseRecord("id", "jdoe42-step", target=f"{home}/jdoe42_train.py:step", kind="step")
    environment = {"flags": {"TORCH_TOKEN": SECRETS["W&B key"]}, "executable": f"{home}/.venv/bin/python"}
    argv = (f"{home}/.venv/bin/bfo-diag", "gradients", "--token", SECRETS["GitLab token"])
    folder, header = store.create(place, probe="gradients", case=case, argv=argv, environment=environment, options={})
    file = f"{home}/jdoe42_train.py"
    with store.ObservationWriter(folder) as log:
        log.write(Observation("source", {"file": file, "path": "jdoe42_train.py", "target": True}))
        log.write(
            Observation("parameter", {"status": "gradient", "shape": [2], "in_optimizer": True}, Place(parameter="w"))
        )
        log.write(Observation("printed", {"text": stdout(), "nested": dumps({"again": stdout()})}))
        raised = {"by_target": True, "type": "ValueError", "message": stdout(), "traceback": stdout(), "phase": "step"}
        log.write(Observation("raised", raised, Place(file=file, line=4, source="TOKEN")))
    store.finish(folder, header, Outcome.CRASHED)
    raw = folder / "raw"
    identity = Identity(users=("jdoe42",), hosts=("gpu-box-17",), homes=("/home/jdoe42",))
    (raw / store.IDENTITY_FILE).write_text(dumps(identity.to_json()))
    (raw / "src").mkdir()
    (raw / "src" / "jdoe42_train.py").write_text(SOURCE)
    (raw / "stdout.txt").write_text(stdout())
    border = "x" * (2**16 - 10) + "\n"
    (raw / "stderr.txt").write_text("".join(border[: -1 - shift] + "\n" + stdout() for shift in range(5)))
    return folder


def contents(path):
    assert archive.verify(path).ok
    return gzip.decompress(path.read_bytes()).decode("utf-8")


@pytest.fixture
def package(run, tmp_path):
    question = f"Why, asks {SECRETS['e-mail address']}?"
    path, _, staged = bundle.build(bundle.Wanted((run,), None, (question,)), tmp_path)
    return path, staged


def test_there_are_enough_kinds_of_them():
    assert len(SECRETS) >= 25
    assert len(LOOK_ALIKES) >= 10


@pytest.mark.parametrize("name", SECRETS)
def test_no_planted_secret_is_in_the_package(package, name):
    text = contents(package[0])
    secret = SECRETS[name]
    for form in {secret, json.dumps(secret)[1:-1], quote(secret, safe=""), json.dumps(json.dumps(secret))[1:-1]}:
        assert form not in text


def test_every_look_alike_is(package):
    text = contents(package[0])
    for harmless in LOOK_ALIKES:
        assert harmless in text, harmless


def test_file_names_and_the_packages_own_name_are_redacted(package):
    path, _ = package
    assert "jdoe42" not in path.name
    assert "src/REDACTED_user_1_train.py" in contents(path)


def test_the_packed_source_still_runs(package, tmp_path):
    (tmp_path / "out").mkdir()
    archive.unpack(package[0], tmp_path / "out")
    values: dict[str, object] = {}
    exec((tmp_path / "out" / "src" / "REDACTED_user_1_train.py").read_text(), values)
    token, commit = values["step"]()
    assert token.startswith("REDACTED_token_")
    assert commit == LOOK_ALIKES[0]


def test_the_same_secret_has_the_same_placeholder_everywhere(package):
    text = contents(package[0])
    hidden = text.split('"""By ')[1].partition(".")[0]
    assert hidden.startswith("REDACTED_email_")
    assert f"Why, asks {hidden}?" in text


def test_the_counts_are_in_the_manifest_and_the_map_is_not(package):
    manifest = archive.read_manifest(package[0])
    redacted = manifest.about["redacted"]
    assert {"home", "user", "host", "token", "password", "email", "ip"} <= set(redacted)
    assert all(isinstance(count, int) and count > 0 for count in redacted.values())
    assert all(secret not in dumps(manifest.about) for secret in SECRETS.values())


def test_two_builds_are_the_same_bytes(run, tmp_path):
    wanted = bundle.Wanted((run,), "same")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        bundle.build(wanted, tmp_path / name)
    assert (tmp_path / "a" / "same.tar.gz").read_bytes() == (tmp_path / "b" / "same.tar.gz").read_bytes()


def other_run(run, name, *, target=None, probe="gradients", torch="2.13.0"):
    """Put another run into the same logs/, and return its folder."""
    place = Workspace(run.parents[1])
    case = CaseRecord("id", name, target=target)
    folder, header = store.create(place, probe=probe, case=case, argv=(), environment={"torch": torch}, options={})
    store.finish(folder, header, Outcome.COMPLETE)
    renamed = folder.with_name(name)
    folder.rename(renamed)
    return renamed


def test_the_latest_of_each_probe_is_taken_and_of_one_target_where_it_is_named(run):
    first = other_run(run, "29990101T000000Z-a", target="a.py:x", probe="compile")
    second = other_run(run, "29990102T000000Z-b", target="b.py:y", probe="compile")
    place = Workspace(run.parents[1])
    assert bundle.latest(place) == [run, second]
    assert bundle.latest(place, target="a.py:x") == [first]
    with pytest.raises(DiagError, match=r"no run of c.py:z") as raised:
        bundle.latest(place, target="c.py:z")
    assert "a.py:x, b.py:y" in raised.value.mend


def test_a_run_that_no_probe_of_this_version_made_is_passed_over(run):
    other_run(run, "29990101T000000Z-a", probe="unheard-of")
    (run.parent / "29990102T000000Z-b").mkdir()
    (run.parent / "29990102T000000Z-b" / store.RUN_FILE).write_text("null")
    assert bundle.latest(Workspace(run.parents[1])) == [run]


def test_the_environment_is_that_of_the_last_run_with_what_was_another_before(run, tmp_path):
    later = other_run(run, "29990101T000000Z-a", probe="compile", torch="9.9")
    earlier = other_run(run, "29980101T000000Z-a", probe="compile", torch="8.8")
    bundle.build(bundle.Wanted((earlier, later), "both"), tmp_path)
    (tmp_path / "out").mkdir()
    archive.unpack(tmp_path / "both.tar.gz", tmp_path / "out")
    environment = json.loads((tmp_path / "out" / "environment.json").read_text())
    assert environment["torch"] == "9.9"
    assert [values["torch"] for values in environment["otherwise"].values()] == ["8.8"]


def test_no_run_at_all_says_what_to_do(tmp_path):
    with pytest.raises(DiagError, match="holds no runs") as raised:
        bundle.latest(Workspace.find(tmp_path))
    assert "bfo-diag review" in raised.value.mend


BIG = """
import pathlib, sys
from bfo_diag import archive, bundle
run, out, cap = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
path, _, _ = bundle.build(bundle.Wanted((run,), "big", cap=cap), out)
assert archive.verify(path).ok
status = pathlib.Path("/proc/self/status").read_text()  # (ru_maxrss is inherited from who starts a process)
print(int(status.partition("VmHWM:")[2].split()[0]) // 1024)
"""


def peak_mib(run, out, cap):
    out.mkdir()
    script = [sys.executable, "-c", BIG, str(run), str(out), str(cap)]
    return int(subprocess.run(script, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads its peak memory from /proc")
def test_memory_does_not_grow_with_what_the_target_printed(run, tmp_path):
    def printed(lines):
        with (run / "raw" / "stdout.txt").open("w") as out:
            for number in range(lines):
                out.write(f"step {number} loss {number * 0.6180339887 % 1:.12f} {number * 2654435761 % 2**64:016x}\n")

    printed(1000)
    small = peak_mib(run, tmp_path / "small", 2**40)
    printed(700_000)
    assert (run / "raw" / "stdout.txt").stat().st_size > 30 * 2**20
    large = peak_mib(run, tmp_path / "large", 2**40)
    assert large < 200
    assert large < small + 30


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads its peak memory from /proc")
def test_memory_is_bounded_for_a_log_of_any_length(run, tmp_path):
    line = dumps(
        Observation("parameter", {"status": "gradient", "shape": [2], "grad_norm": 0.5}, Place(parameter="w")).to_json()
    )
    with (run / store.OBSERVATIONS_FILE).open("a") as log:
        for _ in range(400_000):
            log.write(line + "\n")
    assert (run / store.OBSERVATIONS_FILE).stat().st_size > 40 * 2**20
    assert peak_mib(run, tmp_path / "out", bundle.CAP) < 200
