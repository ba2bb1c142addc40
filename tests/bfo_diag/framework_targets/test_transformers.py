"""A Trainer of Transformers as TARGET: its own update runs, and a cut in its loss is found there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from bfo_diag import targets
from bfo_diag.errors import TargetLoadError
from bfo_diag.probes.compile.events import Listener
from bfo_diag.probes.compile.sites import group
from bfo_diag.records import Case
from bfo_diag.subject import fresh
from bfo_diag.torch_state import as_it_was

os.environ["HF_HUB_OFFLINE"] = "1"  # read at import
transformers = pytest.importorskip("transformers", reason="pip install 'bfo-diag[transformers]'")
pytest.importorskip("accelerate", reason="pip install 'bfo-diag[transformers]'")

pytestmark = [
    pytest.mark.usefixtures("fresh_imports", "own_random_state"),
    pytest.mark.filterwarnings("ignore:.*warmup_ratio is deprecated"),
]


@pytest.fixture
def own_random_state():
    with torch.random.fork_rng(devices=[]):  # a Trainer seeds torch
        yield


@pytest.fixture
def file(targets_folder) -> Path:
    return targets_folder / "transformers_steps.py"


def line_of(file: Path, marked: str) -> int:
    (line,) = [number for number, text in enumerate(file.read_text().splitlines(), 1) if text.endswith(f"# {marked}")]
    return line


def made(target: targets.Target) -> Case:
    """Return the case that a target stands for, that of a factory too."""
    case = target.make()
    return target.remade(case, case.step()) or case if target.kind == "step" else case


@pytest.mark.planted
def test_a_cut_is_found_at_its_line_in_the_loss(capture, file):
    run, findings = capture("gradients", f"{file}:cut", steps=1)
    assert [(f.code, f.place.file, f.place.line) for f in findings] == [
        ("GRAD-CUT-DETACH", str(file), line_of(file, "cut: compute_loss"))
    ]
    statuses = {o.place.parameter: o.values["status"] for _, o in run.of_kind("parameter")}
    assert {name for name, status in statuses.items() if status == "gradient"} == {"lm_head.weight"}
    assert statuses["model.embed_tokens.weight"] == "cut"
    (step,) = [o.values for _, o in run.of_kind("step")]
    assert (step["backwards"], step["optimizer_steps"]) == (2, 1)  # two micro-batches


@pytest.mark.healthy
def test_a_healthy_trainer_gets_no_finding(capture, file):
    run, findings = capture("gradients", f"{file}:healthy", steps=2)
    assert findings == ()
    statuses = {o.place.parameter: o.values["status"] for _, o in run.of_kind("parameter")}
    model = targets.imported(f"{file}:healthy")[0].model
    assert statuses == {name: "gradient" for name, _ in model.named_parameters()}
    assert all(o.values["in_optimizer"] for _, o in run.of_kind("parameter"))
    assert run.header.case.file == str(file)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_step_is_an_update_of_its_train(file, accumulated):
    """Rows for one update: whatever their order, `train()` for one step and the target's step change the same."""
    module = targets.imported(f"{file}:llama")[1]
    settings = {"gradient_accumulation_steps": accumulated, "max_grad_norm": 0.5, "learning_rate": 0.01}

    class Watched(transformers.Trainer):
        def training_step(self, *batch):
            synchronised.append(self.accelerator.sync_gradients)
            return super().training_step(*batch)

    def trainer():
        rows = module.rows(8 * accumulated)
        return Watched(module.llama(), module.arguments(**settings, max_steps=4), train_dataset=rows)

    synchronised: list[bool] = []
    real, ours = trainer(), trainer()
    real.add_callback(stopping_at_once())
    real.train()
    before = ours.model.lm_head.weight.detach().clone()
    loss = made(targets.of_value(ours)).step()
    assert 0 < loss < 10
    assert not torch.equal(ours.model.lm_head.weight, before)
    for a, b in zip(real.model.parameters(), ours.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert real.lr_scheduler.get_last_lr() == ours.lr_scheduler.get_last_lr()
    assert ours.state.global_step == 1
    assert synchronised == 2 * [*[False] * (accumulated - 1), True]
    assert all(parameter.grad is None for parameter in ours.model.parameters())


def stopping_at_once():
    class Stop(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_training_stop = True

    return Stop()


def test_what_reports_is_left_out_and_what_else_hooks_in_is_told(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = targets.imported(f"{file}:llama")[1]
    told = []

    class Watch(transformers.TrainerCallback):
        def on_train_begin(self, *_, model, optimizer, **__):
            told.append((model, optimizer.param_groups[0]["params"][0].requires_grad))

        def on_step_begin(self, *_, **__):
            told.append("begin")

        def on_step_end(self, *_, **__):
            told.append("end")

    class Reports(transformers.TrainerCallback):
        def on_train_begin(self, *_, **__):
            raise AssertionError("a report began")

    Reports.__module__ = "transformers.integrations.integration_utils"
    callbacks = [Watch(), Reports()]
    trainer = module.Trainer(module.llama(), module.arguments(), train_dataset=module.rows(), callbacks=callbacks)
    step = made(targets.of_value(trainer)).step
    step()
    step()
    assert told == [(trainer.model, True), "begin", "end", "begin", "end"]
    assert list(tmp_path.iterdir()) == []
    left = {type(one).__name__ for one in trainer.callback_handler.callbacks}
    assert "Watch" in left
    assert not left & {"Reports", "Stop"}


@pytest.mark.parametrize(
    ("name", "message", "mend"),
    [
        ("without_data", "has no train_dataset", "train_dataset="),
        ("empty_data", "gives no batch", "empty"),
    ],
)
def test_what_can_not_be_trained_says_what_to_give(file, name, message, mend):
    with pytest.raises(TargetLoadError, match=message) as raised:
        made(targets.load(f"{file}:{name}"))
    assert mend in raised.value.mend


def test_a_trainer_on_several_devices_is_refused(file):
    trainer = targets.imported(f"{file}:healthy")[0]
    trainer.args._n_gpu = 2
    with pytest.raises(TargetLoadError, match="trains on 2 devices") as raised:
        made(targets.of_value(trainer))
    assert "CUDA_VISIBLE_DEVICES=0" in raised.value.mend


def test_what_a_dataset_raises_is_the_targets_own_with_its_line(capture, file):
    _, findings = capture("gradients", f"{file}:lost")
    assert [(f.code, f.place.line) for f in findings] == [("TARGET-RAISED", line_of(file, "raises: dataset"))]
    assert "OSError: the disk is gone" in findings[0].message


@pytest.mark.compile
def test_what_is_compiled_is_the_models_forward(file):
    subject = fresh(targets.load(f"{file}:classifier"), factory=True)
    assert subject.part == "Classifier.forward"
    assert [tuple(tensor.shape) for tensor in subject.arguments(0)] == [(8, 64), (8,)]  # in the order of forward
    with as_it_was(), Listener() as listener:
        subject.call(torch.compile(subject.function, backend="eager"), 0)
        heard = list(listener.observations())
    (site,) = group((number, o) for number, o in enumerate(heard) if o.kind == "break")
    assert (site.owner, site.place.file, site.place.line) == ("yours", str(file), line_of(file, "break: print"))
    weight = subject.case.model.head.weight.detach().clone()
    subject.call_part(subject.function, 0)
    assert torch.equal(subject.case.model.head.weight, weight)
