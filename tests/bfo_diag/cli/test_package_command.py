"""From two real runs to a package, and what its receiver does with it: verify, replay, its own tests, diff, report."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest

from bfo_diag import archive

SOURCE = '''"""A step whose encoder gets no gradient, by alice_w."""
import torch
from losses_of_alice_w import loss_of

API_KEY = "sk-" + "x"  # and a mail: alice.w@corp.example
torch.manual_seed(0)
encoder, head = torch.nn.Linear(4, 4), torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD([*encoder.parameters(), *head.parameters()], lr=0.1)
x, y = torch.randn(8, 4), torch.randn(8, 1)


def step():
    optimizer.zero_grad()
    hidden = encoder(x).detach()
    loss = loss_of(head(hidden), y)
    loss.backward()
    optimizer.step()
    return loss
'''
USER = {"USER": "alice_w", "LOGNAME": "alice_w", "LNAME": "alice_w", "USERNAME": "alice_w"}


class Evidence:
    def __init__(self, root: Path, run) -> None:
        self.root, self._run = root, run
        self.home = root / "home" / "alice_w"
        self.project = self.home / "project"
        self.workspace = root / "workspace"
        self.target = f"{self.project / 'train_alice_w.py'}:step"

    def run(self, *arguments, environment=None, **options):
        env = {"HOME": str(self.home), **USER, "BFO_DIAG_WORKSPACE": str(self.workspace), **(environment or {})}
        return self._run(*arguments, environment=env, **options)

    def package(self, out: Path, *options: str, **how) -> Path:
        done = self.run("package", "--out", str(out), "--name", "evidence", *options, **how)
        assert done.returncode == 0, done.stderr
        return out / "evidence.tar.gz"


@pytest.fixture(scope="module")
def evidence(tmp_path_factory, module_command):
    made = Evidence(tmp_path_factory.mktemp("evidence"), module_command)
    made.project.mkdir(parents=True)
    (made.project / "train_alice_w.py").write_text(SOURCE)
    (made.project / "losses_of_alice_w.py").write_text("def loss_of(a, b):\n    return (a - b).square().mean()\n")
    (made.project / "private_notes.py").write_text("never imported\n")
    assert made.run("gradients", made.target).returncode == 1
    assert made.run("compile", made.target, "--backend", "eager").returncode == 1
    return made


@pytest.fixture(scope="module")
def package(evidence, tmp_path_factory):
    return evidence.package(tmp_path_factory.mktemp("out"), "--question", "Where did it go, alice_w?")


@pytest.fixture
def unpacked(package, tmp_path):
    (tmp_path / "unpacked").mkdir()
    assert archive.unpack(package, tmp_path / "unpacked").ok
    return tmp_path / "unpacked"


@pytest.fixture
def told(evidence, bfo_diag_here):
    """Run a command on the evidence in this process, where all that counts is what it says."""

    def call(*arguments: str):
        return bfo_diag_here(*arguments, environment={"BFO_DIAG_WORKSPACE": str(evidence.workspace)})

    return call


def names(package: Path) -> set[str]:
    with tarfile.open(package) as tar:
        return {name.removeprefix("evidence/") for name in tar.getnames()}


def test_the_package_holds_what_an_expert_needs_and_no_file_that_did_not_run(package):
    held = names(package)
    assert {
        "README.md",
        "MANIFEST.json",
        "report.html",
        "environment.json",
        "src/train_REDACTED_user_1.py",
        "src/losses_of_REDACTED_user_1.py",
        "issues/GRAD-CUT-DETACH.md",
        "issues/ERROR_LOGS.md",
        "solutions/PROPOSED_SOLUTIONS.md",
        "solutions/IMPLEMENTATION_EXAMPLES.md",
        "tests/test_gradient_modes.py",
        "tests/test_compile_modes.py",
    } <= held
    assert {name for name in held if name.startswith("src/")} == {
        "src/train_REDACTED_user_1.py",
        "src/losses_of_REDACTED_user_1.py",
    }
    assert sum(name.endswith("observations.jsonl") for name in held) == 2
    assert not any("identity" in name or "private" in name for name in held)


def test_nothing_in_it_names_the_person_or_the_folders(package, evidence):
    content = gzip.decompress(package.read_bytes())
    for secret in (b"alice_w", b"alice.w@", str(evidence.home).encode(), b"alice"):
        assert secret not in content


def test_the_page_says_the_verdict_and_the_question(unpacked):
    page = (unpacked / "report.html").read_text("utf-8")
    assert "2 of 4 parameters got no gradient" in page
    assert "Where did it go, REDACTED_user_1?" in page
    assert "hidden = encoder(x).detach()" in page


def test_the_manifest_counts_what_was_hidden_and_holds_no_map(unpacked):
    about = json.loads((unpacked / "MANIFEST.json").read_text("utf-8"))["about"]
    assert about["redacted"]["user"] > 3
    assert about["redacted"]["email"] == 1
    assert [run["probe"] for run in about["runs"]] == ["gradients", "compile"]


def test_what_was_not_measured_is_said(unpacked):
    readme = (unpacked / "README.md").read_text("utf-8")
    assert "bench: not measured: there is no run of bfo-diag bench" in readme
    solutions = (unpacked / "solutions" / "PROPOSED_SOLUTIONS.md").read_text("utf-8")
    assert "src/train_REDACTED_user_1.py:14: drop the detach()" in solutions
    assert solutions.count("not measured: the examined target is a training step") == 3


def test_the_same_runs_give_the_same_bytes_in_any_locale_zone_umask_and_folder(evidence, package, tmp_path):
    other = {"LC_ALL": "C", "TZ": "Asia/Kolkata", "USER": "bob", "LOGNAME": "bob", "USERNAME": "bob", "LNAME": "bob"}
    again = evidence.package(
        tmp_path,
        "--question",
        "Where did it go, alice_w?",
        environment={**other, "HOME": "/home/bob", "PYTHONHASHSEED": "7"},
        cwd="/",
        umask=0o077,
    )
    assert again.read_bytes() == package.read_bytes()


AS_ANOTHER_USER = """
import os, pathlib, sys
from bfo_diag import bundle
runs, out = sys.argv[2:], pathlib.Path(sys.argv[1])
wanted = bundle.Wanted(tuple(map(pathlib.Path, runs)), "evidence", ("Where did it go, alice_w?",))
bundle.build(wanted, out)  # brings in every module while this Python may still be read
(out / "evidence.tar.gz").unlink()
os.setgid(65534)
os.setuid(65534)
os.environ["HOME"] = "/"
bundle.build(wanted, out)
print(os.getuid(), (out / "evidence.tar.gz").stat().st_uid)
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to become another user")
def test_another_user_makes_the_same_bytes(evidence, package):
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # (pytest's own folders are closed to others)
        logs, out = Path(folder, "logs"), Path(folder, "out")
        shutil.copytree(evidence.workspace / "logs", logs)
        out.mkdir()
        for path in (Path(folder), out, *logs.rglob("*")):
            path.chmod(0o777)
        script = [sys.executable, "-c", AS_ANOTHER_USER, str(out), *map(str, sorted(logs.iterdir()))]
        done = subprocess.run(script, capture_output=True, text=True, check=False)
        assert done.stdout.split() == ["65534", "65534"], done.stderr
        assert (out / "evidence.tar.gz").read_bytes() == package.read_bytes()


def test_verify_says_yes_and_a_change_of_one_line_is_named(told, package, unpacked, tmp_path):
    done = told("verify", str(package))
    assert done.code == 0
    assert "Verified: " in done.out
    source = unpacked / "src" / "train_REDACTED_user_1.py"
    source.write_text(source.read_text().replace(".detach()", ""))
    forged = tmp_path / "forged.tar.gz"
    with tarfile.open(forged, "w:gz", format=tarfile.USTAR_FORMAT) as tar:
        with tarfile.open(package) as old:
            members = [(member.name, member) for member in old]
        for name, member in members:
            file = unpacked / name.removeprefix("evidence/")
            member.size = file.stat().st_size
            with file.open("rb") as content:
                tar.addfile(member, content)
    done = told("verify", str(forged), "--json")
    assert done.code == 1
    document = json.loads(done.out)
    assert not document["ok"]
    changed = [file["path"] for file in document["files"] if file["state"] != "ok"]
    assert changed == ["src/train_REDACTED_user_1.py"]
    assert document["refused"] == []
    refused = told("replay", str(forged), "--yes")
    assert refused.code == 1
    assert "nothing of it is run" in refused.err


def test_a_replay_is_not_run_unasked(evidence, package):
    done = evidence.run("replay", str(package), stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert "bfo-diag gradients train_REDACTED_user_1.py:step" in done.stdout
    assert "--yes" in done.stderr


def test_a_replay_reproduces_every_finding_and_a_repacked_change_is_told(evidence, package, unpacked, tmp_path):
    done = evidence.run("replay", str(package), "--yes", "--json")
    assert done.returncode == 0, done.stdout
    document = json.loads(done.stdout)
    assert document["reproduced"]
    assert len(document["runs"]) == 2
    found = [finding for run in document["runs"] for finding in run["findings"]]
    assert {finding["status"] for finding in found} == {"reproduced"}
    assert "GRAD-CUT-DETACH" in [finding["before"]["code"] for finding in found]

    source = unpacked / "src" / "train_REDACTED_user_1.py"
    source.write_text(source.read_text().replace("encoder(x).detach()", "encoder(x)"))
    about = archive.read_manifest(package).about
    (unpacked / "MANIFEST.json").unlink()
    archive.write(unpacked, tmp_path / "repacked.tar.gz", root="evidence", about=about)
    assert evidence.run("verify", str(tmp_path / "repacked.tar.gz")).returncode == 0
    done = evidence.run("replay", str(tmp_path / "repacked.tar.gz"), "--yes", "--probe", "gradients")
    assert done.returncode == 1
    assert "gone" in done.stdout
    assert "Not reproduced: 1 gone." in done.stdout


def test_the_packages_own_tests_run_the_real_checks_and_see_a_change(unpacked, tmp_path):
    test = [sys.executable, "tests/test_gradient_modes.py"]
    done = subprocess.run(test, cwd=unpacked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok ") == 3
    source = unpacked / "src" / "losses_of_REDACTED_user_1.py"
    source.write_text("def loss_of(a, b):\n    raise ValueError('edited')\n")
    pytest_run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_gradient_modes.py"]
    done = subprocess.run(pytest_run, cwd=unpacked, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "3 failed" in done.stdout, done.stdout  # it ends otherwise, a finding is gone, and one is new
    assert "edited" in done.stdout


def test_a_dry_run_lists_and_writes_nothing(told, evidence, tmp_path):
    before = sorted(evidence.workspace.rglob("*"))
    done = told("package", "--dry-run", "--out", str(tmp_path / "no"))
    assert done.code == 0
    assert "what would go in" in done.out
    assert "src/train_REDACTED_user_1.py" in done.out
    assert sorted(evidence.workspace.rglob("*")) == before
    assert not (tmp_path / "no").exists()


def test_a_package_is_not_overwritten_unless_forced(evidence, tmp_path):
    first = evidence.package(tmp_path)
    first.write_bytes(b"mine")
    done = evidence.run("package", "--out", str(tmp_path), "--name", "evidence")
    assert done.returncode == 2
    assert "--force" in done.stderr
    assert first.read_bytes() == b"mine"
    assert archive.verify(evidence.package(tmp_path, "--force")).ok
    assert [path.name for path in tmp_path.iterdir()] == ["evidence.tar.gz"]


def test_a_file_over_the_cap_is_cut_and_says_so(told, tmp_path):
    done = told("package", "--out", str(tmp_path), "--name", "cut", "--max-file-mib", "0.01", "--json")
    document = json.loads(done.out)
    assert document["truncated"]
    cut = document["truncated"][0]
    assert cut["bytes"] > cut["cap"] == 10485
    assert archive.verify(tmp_path / "cut.tar.gz").ok
    packed = next(file for file in document["files"] if file["path"] == cut["path"])
    assert packed["bytes"] < cut["cap"] + 1000
    assert any("its beginning and end are packed" in warning for warning in document["warnings"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("package", "nothing-like-it"), "there is no run nothing-like-it"),
        (("package", "--case", "other.py:step"), "there are runs of"),
        (("package", "--name", "../up"), "can't name a package"),
        (("package", "--name", "two words"), "can't name a package"),
        (("package", "2", "--case", "x.py:y"), "leave one of the two out"),
        (("verify", "no-such-file.tar.gz"), "no-such-file.tar.gz"),
        (("replay", "no-such-file.tar.gz", "--yes"), "no-such-file.tar.gz"),
        (("report", "--format", "pdf"), "choose from html, md, json"),
        (("diff", "nothing", "nowhere"), "there is no run nothing"),
    ],
)
def test_bad_input_gets_a_clear_error(told, arguments, said):
    done = told(*arguments)
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err


def test_a_package_and_its_runs_find_the_same(told, evidence, package):
    run = next(path.name for path in sorted((evidence.workspace / "logs").iterdir()) if "gradients" in path.name)
    same = told("diff", str(package), str(package))
    assert same.code == 0, same.out
    assert told("diff", run, run).code == 0
    renamed = told("diff", run, str(package))
    assert renamed.code == 1
    assert "file src/train_alice_w.py -> src/train_REDACTED_user_1.py" in renamed.out
    assert "not compared: compile" in renamed.out


def test_a_report_is_written_in_each_format(told, package, tmp_path):
    done = told("report", "--out", str(tmp_path / "page.html"))
    assert done.code == 0
    assert "<!doctype html>" in (tmp_path / "page.html").read_text().lower()
    markdown = told("report", str(package), "--format", "md").out
    assert "GRAD-CUT-DETACH" in markdown
    document = json.loads(told("report", str(package), "--format", "json").out)
    assert [run["probe"] for run in document["runs"]] == ["gradients", "compile"]
    assert document["runs"][0]["verdict"] == "2 of 4 parameters got no gradient."
