"""A LightningModule as TARGET: its own training loop runs, a cut in its step is found there, and nothing is written."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

from bfo_diag import api, targets
from bfo_diag.errors import TargetLoadError
from bfo_diag.probes.compile.events import Listener
from bfo_diag.probes.compile.sites import group
from bfo_diag.records import Case
from bfo_diag.subject import fresh
from bfo_diag.torch_state import as_it_was

lightning = pytest.importorskip("lightning", reason="pip install 'bfo-diag[lightning]'")

pytestmark = [
    pytest.mark.usefixtures("fresh_imports"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:Total length of .* is zero"),
]
ENCODER = {"encoder.weight", "encoder.bias"}
BOTH = ENCODER | {"head.weight", "head.bias"}


@pytest.fixture
def file(targets_folder) -> Path:
    return targets_folder / "lightning_steps.py"


def line_of(file: Path, marked: str) -> int:
    (line,) = [number for number, text in enumerate(file.read_text().splitlines(), 1) if text.endswith(f"# {marked}")]
    return line


def made(file: Path, name: str) -> Case:
    """Return the case that a name in the file stands for, the name of a factory too."""
    target = targets.load(f"{file}:{name}")
    case = target.make()
    return target.remade(case, case.step()) or case if target.kind == "step" else case


def statuses(run) -> dict[str, str]:
    return {o.place.parameter: o.values["status"] for _, o in run.of_kind("parameter")}


@pytest.mark.planted
@pytest.mark.parametrize(
    ("name", "cut"),
    [
        ("Cut", "automatic"),
        ("instance", "automatic"),
        ("SetUpLate", "automatic"),
        ("with_loader", "automatic"),
        ("with_trainer", "automatic"),
        ("with_data_and_trainer", "automatic"),
        ("fitted_trainer", "automatic"),
        ("Manual", "manual"),
    ],
)
def test_a_cut_is_found_at_its_line_in_the_training_step(capture, file, name, cut):
    run, findings = capture("gradients", f"{file}:{name}", steps=2)
    assert [(f.code, f.place.file, f.place.line) for f in findings] == [
        ("GRAD-CUT-DETACH", str(file), line_of(file, f"cut: {cut}"))
    ]
    assert {name for name, status in statuses(run).items() if status == "cut"} == ENCODER
    assert statuses(run).keys() == BOTH
    assert all(o.values["in_optimizer"] for _, o in run.of_kind("parameter"))


@pytest.mark.healthy
def test_a_healthy_module_gets_no_finding(capture, file):
    run, findings = capture("gradients", f"{file}:Healthy", steps=2)
    assert findings == ()
    assert set(statuses(run).values()) == {"gradient"}
    assert statuses(run).keys() == BOTH
    assert run.header.case.kind == "training step"


def test_the_steps_are_those_of_a_plain_loop(file):
    case = made(file, "Healthy")
    model = copy.deepcopy(case.model)
    (images, labels), _ = case.inputs
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model.head(torch.tanh(model.encoder(images))), labels)
        loss.backward()
        optimizer.step()
        assert torch.equal(case.step(), loss)
    assert all(torch.equal(a, b) for a, b in zip(case.model.parameters(), model.parameters(), strict=True))
    assert case.model.trainer.global_step == 5


def test_a_trainer_trains_with_its_own_settings_and_writes_nothing(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []

    class Watch(lightning.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            seen.append([batch_idx, float(outputs["loss"])])

    module = targets.load(f"{file}:Healthy").value()
    callbacks = [Watch(), lightning.pytorch.callbacks.ModelCheckpoint(every_n_train_steps=1)]
    trainer = lightning.Trainer(accelerator="cpu", max_epochs=1, accumulate_grad_batches=2, callbacks=callbacks)
    step = targets.of_value(lambda: (trainer, module)).resolve((trainer, module)).step
    weights = [module.head.weight.detach().clone()]
    for _ in range(4):
        step()
        weights.append(module.head.weight.detach().clone())
    assert [torch.equal(a, b) for a, b in itertools.pairwise(weights)] == [True, False, True, False]
    assert [number for number, _ in seen] == [0, 1, 2, 3]
    assert trainer.callback_metrics["loss"] == pytest.approx(2 * seen[-1][1])  # (of two batches, each counts half)
    assert list(tmp_path.iterdir()) == []
    assert "training_step" not in vars(module)


@pytest.mark.parametrize(
    ("name", "message", "mend"),
    [
        ("WithoutData", r"WithoutData has no train_dataloader\(\)", "(module, loader)"),
        ("WantsWidth", r"its class wants arguments \(width\)", "def step"),
        ("trainer_alone", "the Trainer has no module", "(trainer, module)"),
        ("two_modules", "two are a module: Cut and Manual", "at most one"),
        ("in_two_processes", "trains in 2 processes", "devices=1"),
        ("empty_loader", "has no batch", "loader"),
    ],
)
def test_what_can_not_be_trained_says_what_to_give(file, name, message, mend):
    with pytest.raises(TargetLoadError, match=message) as raised:
        made(file, name)
    assert mend in raised.value.mend


@pytest.mark.parametrize("name", ["LosesItsDisk", "loses_its_disk"])
def test_what_a_loader_raises_is_the_targets_own_with_its_line(capture, file, name):
    target = f"{file}:{name}"
    if name.islower():  # (of a factory the exception leaves the probe: on the command line the child records it)
        with pytest.raises(OSError, match="the disk is gone"):
            capture("gradients", target)
        return
    _, findings = capture("gradients", target)
    assert [(f.code, f.place.line) for f in findings] == [("TARGET-RAISED", line_of(file, "raises: loader"))]
    assert "OSError: the disk is gone" in findings[0].message


@pytest.mark.compile
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_what_is_compiled_is_the_training_step_and_lightnings_own_breaks_are_not_yours(file):
    subject = fresh(targets.load(f"{file}:Prints"), factory=False)
    assert subject.part == "Prints.training_step"
    with as_it_was(), Listener() as listener:
        subject.call(torch.compile(subject.function, backend="eager"), 0)
        heard = list(listener.observations())
    sites = group((number, o) for number, o in enumerate(heard) if o.kind == "break")
    found = {(site.owner, site.place.file, site.place.line) for site in sites}
    assert found == {
        ("yours", str(file), line_of(file, "break: print")),
        ("library", str(file), line_of(file, "break: log")),
    }


def test_of_a_module_whose_adapter_makes_the_steps_the_loss_is_compiled(file):
    case = made(file, "Colony")
    before = case.model.head.weight.detach().clone()
    calls = []

    def compiled(*batch):
        calls.append(len(batch))
        return case.step.function(*batch)

    assert case.step.function.__func__ is type(case.model).__mro__[2].training_step  # as it was written
    loss = case.step.through(compiled)
    assert calls == [2]
    assert torch.equal(case.model.head.weight, before)
    assert case.model.head.weight.grad is not None
    assert case.step() <= loss  # the step itself is the colony's
    assert not torch.equal(case.model.head.weight, before)


def test_the_compiled_training_step_is_run_in_lightnings_own_loop(file):
    case = made(file, "Healthy")
    plain = copy.deepcopy(case.model)
    calls = []

    def compiled(*batch):
        calls.append(len(batch))
        return case.step.function(*batch)

    loss = case.step.through(compiled)
    (images, labels), _ = case.inputs
    assert torch.allclose(loss, nn.functional.cross_entropy(plain.head(torch.tanh(plain.encoder(images))), labels))
    assert not torch.equal(case.model.head.weight, plain.head.weight)
    before = case.model.head.weight.detach().clone()
    case.step.run_part(compiled)
    assert calls == [2, 2]
    assert torch.equal(case.model.head.weight, before)
    assert case.model.head.weight.grad is not None


def test_a_live_module_is_examined_as_the_command_does_it():
    class Net(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 1)

        def training_step(self, batch):
            return self.layer(batch).mean()

        def train_dataloader(self):
            return torch.utils.data.DataLoader(torch.ones(4, 3), batch_size=2)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    done = api.examine("gradients", Net(), steps=1)
    assert done.findings == ()
    assert done.summary["parameters"]["with_grad"] == ["layer.weight", "layer.bias"]
