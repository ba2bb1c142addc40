"""`bfo-diag sweep` as its user meets it: killed and gone on with, its failures replayed, packed, refused in words."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from bfo_diag import archive, replay, store
from bfo_diag.probes.sweep import storage
from bfo_diag.probes.sweep.study import find
from bfo_diag.records import Outcome
from bfo_diag.workspace import Workspace

RECIPE = """
seeds = 3
[recipe.data]
name = "digits"
samples = 120
[recipe.model]
name = "mlp"
width = 8
[recipe.optimizer]
name = "AdamW"
[recipe.training]
epochs = 2
"""
SPEC = RECIPE + "[factors]\noptimizer.lr = [0.003, 0.03]\n"
FAILING = """
[factors]
model = [{ factory = "nets.py:Net" }, { factory = "nets.py:Raises" }]
optimizer = [{ name = "AdamW" }, { name = "SGD", lr = 1e38 }]
[control]
model = { factory = "nets.py:Net" }
"""
NETS = """
import torch
class Net(torch.nn.Linear):
    def __init__(self):
        super().__init__(64, 10)
class Raises(Net):
    def forward(self, x):
        if self.training and torch.is_grad_enabled():
            raise ZeroDivisionError("of the user")
        return super().forward(x)
"""


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "mine.toml").write_text(SPEC)
    return str(tmp_path / "mine.toml")


def figures(document: dict) -> dict:
    """Return a report without what time it took and where it was."""
    return {name: value for name, value in document["summary"].items() if name not in ("cost", "study")}


def lines(document: dict, kind: str) -> list[dict]:
    """Return the lines of the study that was told last."""
    seen = document["observations"]
    start = max(number for number, one in enumerate(seen) if one["kind"] == "study")
    return [
        {name: value for name, value in one["values"].items() if name not in ("seconds", "replay")}
        for one in seen[start:]
        if one["kind"] == kind
    ]


def test_a_sweep_that_was_killed_goes_on_to_the_same_report(bfo_diag_here, command, spec, tmp_path):
    place = tmp_path / "killed"
    words = [*command, "sweep", "run", spec, "--workspace", str(place)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        runs = store.runs(Workspace(place))
        if runs and sum(one.kind == "part_started" for one in store.read(runs[0]).observations) == 2:
            break  # one trial is over, and another one has begun
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert store.read(runs[0]).outcome is Outcome.RUNNING
    study = find(storage.opened(None, place / "sweeps" / "mine"), "mine")
    done = sum(len(arm.results) for arm in study.arms())
    assert 1 <= done < 9
    resumed = bfo_diag_here("sweep", "resume", "mine", "--workspace", str(place), "--json").document
    whole = bfo_diag_here("sweep", "run", spec, "--json").document
    assert [one["kind"] for one in resumed["observations"]].count("trial") == 9 - done + 9
    assert figures(resumed) == figures(whole)
    assert resumed["verdict"] == whole["verdict"]
    assert lines(resumed, "trial") == lines(whole, "trial")
    assert lines(resumed, "arm") == lines(whole, "arm")
    assert len({trial["digest"] for trial in lines(whole, "trial")}) == 9
    joined = bfo_diag_here("sweep", "run", spec, "--json").document
    assert [one["kind"] for one in joined["observations"]].count("trial") == 9, "nothing was left to train"
    assert figures(joined) == figures(whole)
    reported = bfo_diag_here("sweep", "report", "mine", "--json", "--html", str(tmp_path / "page.html")).document
    assert figures(reported) == figures(whole)
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "bfo-diag sweep run" in page
    assert "<svg" in page


class MainHere:
    """Stands in for the process of a replay: the command is run in this one."""

    def __init__(self, call) -> None:
        self._call, self.words = call, []

    def run(self, words: list[str], *, cwd: Path, env: dict[str, str], **_: object) -> SimpleNamespace:
        assert storage.VARIABLE not in env, "a replay does not write into the study of its reader"
        self.words = words[words.index("bfo_diag") + 1 :]
        with pytest.MonkeyPatch.context() as patch, mock.patch.dict(os.environ, env, clear=True):
            patch.chdir(cwd)
            done = self._call(*self.words)
        return SimpleNamespace(returncode=done.code, stderr=done.err.encode())


@pytest.fixture
def failing(tmp_path, bfo_diag_here):
    """Return what a sweep with arms that raise and arms that diverge ends with."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "nets.py").write_text(NETS)
    recipe = RECIPE.replace('name = "mlp"\nwidth = 8', 'factory = "nets.py:Net"')
    (project / "failing.toml").write_text(recipe + FAILING)
    return bfo_diag_here("sweep", "run", str(project / "failing.toml"), "--json")


def test_what_fails_is_kept_with_the_line_that_replays_it_and_ends_nothing(failing, bfo_diag_here):
    assert failing.code == 1
    assert failing.document["outcome"] == "complete"
    trials = [one["values"] for one in failing.document["observations"] if one["kind"] == "trial"][-12:]
    assert [trial["status"] for trial in trials] == ["complete"] * 3 + ["failed"] * 9
    raised = next(trial for trial in trials if trial["why"].startswith("ZeroDivisionError: of the user"))
    assert "nets.py" in raised["traceback"]
    diverged = next(trial for trial in trials if trial["why"].startswith("it diverged: the "))
    assert all(trial["val_loss"] is None for trial in (raised, diverged))
    for trial, code in ((trials[0], 0), (raised, 3), (diverged, 1)):
        words = trial["replay"].split()
        assert words[:2] == ["bfo-diag", "run"]
        again = bfo_diag_here(*words[1:], "--json")
        assert again.code == code
        if trial is trials[0]:
            assert again.document["summary"]["val_loss"]["mean"] == trial["val_loss"]
    ranked = failing.document["summary"]["leaderboard"]
    assert [entry["rank"] for entry in ranked] == [1, None, None, None]
    assert ranked[0]["control"]


def test_a_package_of_a_sweep_is_replayed_in_a_fresh_study(failing, bfo_diag_here, monkeypatch, tmp_path):
    done = bfo_diag_here("package", "--out", str(tmp_path), "--name", "sweep")
    assert done.code == 0, done.err
    (tmp_path / "unpacked").mkdir()
    assert archive.unpack(tmp_path / "sweep.tar.gz", tmp_path / "unpacked").ok
    packed = {path.name for path in (tmp_path / "unpacked" / "src").rglob("*")}
    assert {"failing.toml", "nets.py", "arm-01-seed-0.toml"} <= packed
    here = MainHere(bfo_diag_here)
    monkeypatch.setattr(replay, "subprocess", SimpleNamespace(run=here.run, DEVNULL=None, PIPE=None))
    monkeypatch.setenv(storage.VARIABLE, "sqlite:////nowhere/study.db")
    done = bfo_diag_here("replay", str(tmp_path / "sweep.tar.gz"), "--yes")
    assert done.code == 0, done.out + done.err
    assert here.words[:3] == ["sweep", "run", "failing.toml"]
    assert "reproduced" in done.out
    done = bfo_diag_here("replay", str(tmp_path / "sweep.tar.gz"), "--yes", "--keep", str(tmp_path))
    assert done.code == 2
    assert "holds studies of sweeps" in done.err


def test_what_an_optimizer_does_not_take_is_told_before_anything_is_made(bfo_diag_here, spec, tmp_path):
    Path(spec).write_text(SPEC.replace("optimizer.lr = [0.003, 0.03]", "optimizer.nesterov = [true]"))
    done = bfo_diag_here("sweep", "run", spec)
    assert done.code == 2
    assert "the arm nesterov=true: optimizer.nesterov: AdamW takes no such argument" in " ".join(done.err.split())
    assert not (tmp_path / "sweeps").exists()
    assert not [one for one in done.run.observations if one.kind == "trial"]


def test_another_spec_does_not_join_a_study_and_its_mend_works(bfo_diag_here, spec):
    assert bfo_diag_here("sweep", "run", spec, "--fail-on", "none").code == 0
    Path(spec).write_text(SPEC.replace("epochs = 2", "epochs = 1"))
    done = bfo_diag_here("sweep", "run", spec)
    assert done.code == 2
    said = " ".join(done.err.split())
    assert "there is a study mine of another spec: recipe.training.epochs: 2 there, 1 here" in said
    assert "--study NAME begins another one" in said
    assert bfo_diag_here("sweep", "run", spec, "--study", "second", "--fail-on", "none").code == 0
    said = " ".join(bfo_diag_here("sweep", "report", "third").err.split())
    assert "there is no study third" in said
    assert "there are mine, second" in said


def test_a_password_is_on_no_record(bfo_diag_here, spec, monkeypatch):
    pytest.importorskip("psycopg2")
    monkeypatch.setenv(storage.VARIABLE, "")  # (and so put back afterwards)
    url = "postgresql+psycopg2://me:hunter2@127.0.0.1:1/db?sslpassword=hunter3"
    done = bfo_diag_here("sweep", "run", spec, "--storage", url)
    assert done.code == 2
    assert "refused" in done.err, "nobody listens there"
    hidden = "postgresql+psycopg2://me:***@127.0.0.1:1/db?sslpassword=***"
    assert hidden in done.err.replace("\n", "")
    assert hidden in done.run.header.argv
    assert done.run.header.options["storage"] == hidden
    written = [path.read_bytes() for path in done.runs[-1].rglob("*") if path.suffix not in ("", ".py")]
    assert len(written) > 4
    assert not [text for text in (*written, done.out.encode(), done.err.encode()) if re.search(rb"hunter[23]", text)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run"], "bfo-diag sweep wants a SPEC"),
        (["run", "nowhere.toml"], "there is no file nowhere.toml"),
        (["run", "{spec}", "--seed", "3"], "No such option: --seed"),
        (["run", "{spec}", "--study", "a/b"], "--study 'a/b' can't name a study"),
        (["run", "{spec}", "--storage", "study.db"], "--storage study.db is no URL"),
        (["run", "{spec}", "--storage", "nosql://here"], "--storage nosql://here"),
        (["resume", "mine"], "there is no study mine"),
        (["report", "mine", "--storage", "postgresql://me:***@here/db"], "the password of postgresql://me:***@here/db"),
    ],
)
def test_what_is_wrong_ends_with_two_and_in_words(bfo_diag_here, spec, arguments, said, monkeypatch):
    monkeypatch.setenv(storage.VARIABLE, "")
    done = bfo_diag_here("sweep", *(word.format(spec=spec) for word in arguments))
    assert done.code == 2
    assert said in " ".join(done.err.split())


def test_without_optuna_it_says_what_to_install(bfo_diag_here, spec, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = bfo_diag_here("sweep", "run", spec)
    assert done.code == 2
    assert "bfo-diag sweep needs optuna and tomli_w" in done.err
    assert "pip install 'bfo-diag[sweep]'" in done.err


def test_help_imports_neither_optuna_nor_torch():
    code = (
        "import sys; sys.argv = ['bfo-diag', *sys.argv[1:]]\n"
        "from bfo_diag.cli.app import main\n"
        "try: main()\n"
        "except SystemExit: print({'optuna', 'torch', 'sqlalchemy'} & set(sys.modules), file=sys.stderr)\n"
    )
    for arguments in (["--help"], ["sweep", "run", "--help"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        assert "sweep" in done.stdout
        assert done.stderr == "set()\n"
    assert "--seed " not in done.stdout


def test_the_commands_of_a_sweep_are_three(bfo_diag_here):
    listed = bfo_diag_here("sweep", "--help").out
    assert re.findall(r"^  (run|resume|report) ", listed, re.MULTILINE) == ["run", "resume", "report"]
    assert json.dumps(listed)
