"""`bfo-diag run` as its user meets it: killed and gone on from, packed and replayed, refused in words."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bfo_diag import archive, store
from bfo_diag.records import Outcome
from bfo_diag.training import reading
from bfo_diag.workspace import Workspace

COMMAND = [sys.executable, "-c", "from bfo_diag.cli.app import main; main()"]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
ADAM = """
seed = 3
[data]
name = "digits"
samples = 300
batch_size = 16
[model]
name = "mlp"
width = 16
dropout = 0.2
[optimizer]
name = "Adam"
[training]
epochs = 30
folds = 2
[telemetry]
every = 7
"""
HYBRID = ADAM.replace('"Adam"', '"HybridBFO"\npopulation_size = 4\nswim_length = 1').replace(
    "epochs = 30", "epochs = 6"
)


NETS = """
import torch
def net():
    return torch.nn.Linear(64, 10)
"""
MINE = """# by adam
data.name = "digits"
model.factory = "nets_of_mine.py:net"
optimizer.name = "Adam"
training.epochs = 2
"""
RAISES = """
import torch
class Net(torch.nn.Linear):
    def __init__(self):
        super().__init__(64, 10)
    def forward(self, x):
        raise ZeroDivisionError("of the user")
"""


class Trainings:
    """Three runs of one recipe: one that was killed in its middle, one that went on from it, and one undisturbed."""

    def __init__(self, root: Path, recipe: str, module_command) -> None:
        self.root, self._run = root, module_command
        self.recipe = root / "training.toml"
        self.recipe.write_text(recipe)
        self.killed = self._killed()
        self.resumed = self.run(str(self.recipe), "--resume", self.killed.name, "--json")
        self.whole = self.run(str(self.recipe), "--json")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        words = [*COMMAND, "run", *arguments, "--workspace", str(self.root)]
        return subprocess.Popen(
            words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **ONE_THREAD}, text=True
        )

    def run(self, *arguments: str, probe: str = "run"):
        return self._run(probe, *arguments, "--workspace", str(self.root), environment=ONE_THREAD)

    def runs(self) -> list[Path]:
        return store.runs(Workspace(self.root))

    def until(self, process: subprocess.Popen[str], *, epochs: int) -> Path:
        """Return the folder of the latest run as soon as it has so many epochs."""
        before = len(self.runs())
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            found = self.runs()[before:] or self.runs()[-1:]
            if found and sum(o.kind == "epoch" for o in store.read(found[-1]).observations) >= epochs:
                return found[-1]
            time.sleep(0.01)
        pytest.fail("it did not come so far")

    def _killed(self) -> Path:
        process = self.start(str(self.recipe))
        folder = self.until(process, epochs=3)
        process.send_signal(signal.SIGKILL)
        process.wait()
        return folder


@pytest.fixture(scope="module")
def adam(tmp_path_factory, module_command):
    return Trainings(tmp_path_factory.mktemp("adam"), ADAM, module_command)


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory, module_command):
    return Trainings(tmp_path_factory.mktemp("hybrid"), HYBRID, module_command)


def lines(run: dict, kind: str) -> list[dict]:
    found = [o["values"] for o in run["observations"] if o["kind"] == kind]
    return [{key: value for key, value in values.items() if key not in ("epoch_s", "fold_s")} for values in found]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted((folder / "raw").glob("model-fold-*.pt"))
    return {f"{file.name}:{name}": value for file in files for name, value in torch.load(file).items()}


@pytest.mark.parametrize("optimizer", ["adam", "hybrid"])
def test_a_training_that_was_killed_goes_on_to_the_very_same_end(request, optimizer):
    trainings = request.getfixturevalue(optimizer)
    killed, resumed, whole = trainings.runs()[:3]
    assert store.read(killed).outcome is Outcome.RUNNING
    assert trainings.resumed.returncode == trainings.whole.returncode == 0, trainings.resumed.stderr
    one, other = json.loads(trainings.resumed.stdout), json.loads(trainings.whole.stdout)
    (where,) = lines(one, "resumed")
    done = (where["fold"] - 1) * len(lines(other, "epoch")) // 2 + where["epoch"]
    assert 2 <= done < len(lines(other, "epoch")), "it was killed in its middle"
    assert len(lines(other, "epoch")) == len({(e["fold"], e["epoch"]) for e in lines(other, "epoch")})
    for kind in ("epoch", "fold_end"):
        assert lines(one, kind) == lines(other, kind)
    assert one["summary"]["val_loss"] == other["summary"]["val_loss"]
    mine, others = weights(resumed), weights(whole)
    assert len(mine) == 8
    assert mine.keys() == others.keys()
    assert all(torch.equal(value, others[name]) for name, value in mine.items())


def test_what_went_on_is_gone_on_from_as_well(adam):
    run = adam.runs()[1]
    again = adam.run(str(adam.recipe), "--resume", str(run), "--json")
    assert again.returncode == 0, again.stderr
    document = json.loads(again.stdout)
    assert lines(document, "epoch") == lines(json.loads(adam.whole.stdout), "epoch")
    assert len(weights(adam.runs()[-1])) == 8


def test_another_recipe_is_refused_by_what_differs(adam, tmp_path):
    other = tmp_path / "other.toml"
    other.write_text(adam.recipe.read_text().replace("batch_size = 16", "batch_size = 8"))
    done = adam.run(str(other), "--resume", adam.killed.name, "--seed", "4")
    assert done.returncode == 2
    assert "data.batch_size: 16 there, 8 here" in done.stderr
    assert "seed: 3 there, 4 here" in done.stderr
    done = adam.run(str(adam.recipe), "--resume", "no-such-run")
    assert done.returncode == 2
    assert "there is no such run" in done.stderr


@pytest.fixture(scope="module")
def with_a_factory(tmp_path_factory, module_command):
    """Return a workspace with one run, of a recipe that names a factory."""
    root = tmp_path_factory.mktemp("factory")
    project = root / "home" / "adam" / "project"
    project.mkdir(parents=True)
    (project / "nets_of_mine.py").write_text(NETS)
    (project / "unused_of_mine.py").write_text("raise SystemExit('nobody imports this')")
    (project / "mine.toml").write_text(MINE)
    user = {"HOME": str(project.parent), **dict.fromkeys(("USER", "LOGNAME", "LNAME", "USERNAME"), "adam")}
    environment = {**ONE_THREAD, **user, "BFO_DIAG_WORKSPACE": str(root / "workspace")}

    def call(*arguments: str):
        return module_command(*arguments, environment=environment)

    done = call("run", str(project / "mine.toml"), "--telemetry", "every=5")
    assert done.returncode == 0, done.stdout + done.stderr
    return root, call


def test_a_package_holds_the_recipe_and_what_it_names_and_is_replayed(with_a_factory):
    root, call = with_a_factory
    done = call("package", "--out", str(root), "--name", "training")
    assert done.returncode == 0, done.stderr
    assert "raw/checkpoint.pt was left out: .pt is no text" in done.stdout + done.stderr
    assert "not measured" not in done.stdout
    unpacked = root / "unpacked"
    unpacked.mkdir()
    assert archive.unpack(root / "training.tar.gz", unpacked).ok
    sources = {path.relative_to(unpacked / "src").as_posix() for path in (unpacked / "src").rglob("*")}
    assert sources == {"mine.toml", "nets_of_mine.py"}
    recipe = (unpacked / "src" / "mine.toml").read_text()
    assert 'optimizer.name = "Adam"' in recipe, "a user who is called adam hides no optimizer"
    done = call("replay", str(root / "training.tar.gz"), "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bfo-diag run mine.toml" in done.stdout
    assert "--telemetry=every=5" in done.stdout


def test_the_page_and_the_verdict_of_a_training(with_a_factory):
    root, call = with_a_factory
    done = call("report", "--out", str(root / "page.html"))
    assert done.returncode == 0, done.stderr
    page = (root / "page.html").read_text("utf-8")
    assert "Validation loss" in page
    assert page.count("<svg") == 2
    assert "bfo-diag run" in page


def test_ctrl_c_leaves_a_log_a_verdict_and_a_checkpoint(tmp_path, module_command):
    (tmp_path / "long.toml").write_text(ADAM.replace("epochs = 30", "epochs = 100000"))
    words = [*COMMAND, "run", str(tmp_path / "long.toml"), "--workspace", str(tmp_path), "--json"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, env={**os.environ, **ONE_THREAD}, text=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        runs = store.runs(Workspace(tmp_path))
        if runs and any(o.kind == "epoch" for o in store.read(runs[0]).observations):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    document = json.loads(out)
    assert document["outcome"] == "interrupted"
    assert document["verdict"].startswith("Not at its end: fold 1 of 2 after epoch ")
    assert sorted(path.name for path in (runs[0] / "raw").glob("*.pt")) == ["checkpoint.pt"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "bfo-diag run wants a RECIPE"),
        (["train.py:step"], "is no recipe: its name does not end in .toml"),
        (["nowhere.toml"], "there is no file nowhere.toml"),
        (["{recipe}", "--compile", "maybe"], "--compile maybe is not known"),
        (["{recipe}", "--telemetry", "10"], "--telemetry 10 is not known"),
        (["{recipe}", "--input", "float32[3]"], "No such option: --input"),
        (["{recipe}", "--fail-on", "never"], "--fail-on never is not known"),
    ],
)
def test_what_is_wrong_ends_with_two_and_in_words(bfo_diag_here, tmp_path, arguments, said):
    (tmp_path / "r.toml").write_text(ADAM)
    done = bfo_diag_here("run", *(word.format(recipe=tmp_path / "r.toml") for word in arguments))
    assert done.code == 2
    assert said in " ".join(done.err.split())


def test_without_a_recipe_nothing_is_written_and_the_examples_are_named(bfo_diag_here):
    done = bfo_diag_here("run")
    assert "examples/digits_mlp.toml" in done.err
    assert not done.runs


@pytest.mark.parametrize("name", ["digits_mlp", "char_lm", "digits_shift"])
def test_the_examples_are_recipes(name):
    examples = Path(__file__).parents[3] / "examples"
    assert reading.read(str(examples / f"{name}.toml")).telemetry.every > 0


def test_a_model_that_raises_ends_with_three_and_a_loss_that_diverges_with_one(bfo_diag_here, tmp_path):
    (tmp_path / "nets_that_raise.py").write_text(RAISES)
    recipe = ADAM.replace('name = "mlp"\nwidth = 16\ndropout = 0.2', 'factory = "nets_that_raise.py:Net"')
    (tmp_path / "raises.toml").write_text(recipe)
    done = bfo_diag_here("run", str(tmp_path / "raises.toml"))
    assert done.code == 3
    assert "ZeroDivisionError: of the user" in done.out + done.err
    (tmp_path / "diverges.toml").write_text(
        ADAM.replace('"Adam"', '"SGD"\nlr = 1e30').replace("every = 7", "every = 1")
    )
    done = bfo_diag_here("run", str(tmp_path / "diverges.toml"), "--json")
    assert done.code == 1
    codes = [finding["code"] for finding in done.document["findings"]]
    assert codes == ["RUN-DIVERGED", "RUN-DIVERGED", "RUN-GRADIENT-NON-FINITE"]


TURNOVER = (
    ADAM.replace("epochs = 30\nfolds = 2", "").replace("[telemetry]\nevery = 7", "")
    + """
[turnover]
preset = "hybrid"
every = 4
[shift]
kind = "labels"
epochs = [1, 1, 1]
"""
)


def test_a_turnover_and_a_shift_are_told_and_their_lineage_is_on_the_page(bfo_diag_here, tmp_path):
    (tmp_path / "turns.toml").write_text(TURNOVER)
    done = bfo_diag_here("run", str(tmp_path / "turns.toml"))
    assert done.code == 0, done.err
    assert "Turnover: hybrid" in done.out
    assert "forgetting" in done.out
    assert "Turnover (hybrid): " in done.out
    events = [line.values for line in done.run.observations if line.kind == "turnover"]
    assert {event["kind"] for event in events} == {"death", "birth"}
    assert bfo_diag_here("report", "--out", str(tmp_path / "page.html")).code == 0
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "Lineage" in page
    assert "Turnover: events" in page
    assert "Shift: loss on both" in page


def test_a_turnover_that_is_refused_ends_with_two_and_one_that_never_fires_with_one(bfo_diag_here, tmp_path):
    (tmp_path / "refused.toml").write_text(TURNOVER.replace("every = 4", 'layers = "fc9"'))
    done = bfo_diag_here("run", str(tmp_path / "refused.toml"))
    assert done.code == 2
    assert "[turnover] of the recipe: layers='fc9' matches no module" in " ".join(done.err.split())
    (tmp_path / "never.toml").write_text(TURNOVER.replace("every = 4", "every = 4000"))
    done = bfo_diag_here("run", str(tmp_path / "never.toml"), "--json")
    assert done.code == 1
    assert [finding["code"] for finding in done.document["findings"]] == ["RUN-TURNOVER-NEVER-FIRED"]
