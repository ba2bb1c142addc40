"""A Learner of fastai as TARGET: its own `one_batch` runs, and a cut in its model is found there."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from bfo_diag import targets
from bfo_diag.errors import TargetLoadError
from bfo_diag.probes import load_all
from bfo_diag.records import Case
from bfo_diag.subject import fresh

pytest.importorskip("fastai", reason="fastai wants an environment of its own: pip install 'bfo-diag[fastai]'")

pytestmark = pytest.mark.usefixtures("fresh_imports")
ENCODER = {"encoder.weight", "encoder.bias"}
BOTH = ENCODER | {"head.weight", "head.bias"}


@pytest.fixture
def file(targets_folder) -> Path:
    return targets_folder / "fastai_steps.py"


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
def test_a_cut_is_found_at_its_line_in_the_model(capture, file):
    run, findings = capture("gradients", f"{file}:cut", steps=2)
    assert [(f.code, f.place.file, f.place.line) for f in findings] == [
        ("GRAD-CUT-DETACH", str(file), line_of(file, "cut: forward"))
    ]
    assert {name for name, status in statuses(run).items() if status == "cut"} == ENCODER
    assert all(o.values["in_optimizer"] for _, o in run.of_kind("parameter"))


@pytest.mark.healthy
def test_a_healthy_learner_gets_no_finding(capture, file):
    run, findings = capture("gradients", f"{file}:healthy", steps=3)
    assert findings == ()
    assert statuses(run) == dict.fromkeys(BOTH, "gradient")
    assert run.header.case.kind == "training step"


def test_the_steps_are_those_of_a_plain_loop_with_what_callbacks_do(file):
    case = made(file, "with_torchs_optimizer")
    model = copy.deepcopy(case.model)
    learner = targets.imported(f"{file}:healthy")[0]
    images, labels = learner.dls.train.one_batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(2 * images), labels)  # the callback doubles each batch
        loss.backward()
        optimizer.step()
        assert torch.equal(case.step(), loss)
    assert all(torch.equal(a, b) for a, b in zip(case.model.parameters(), model.parameters(), strict=True))


def test_gradients_can_be_watched_though_the_optimizer_is_none_of_torchs(capture, file):
    run, findings = capture("telemetry", f"{file}:healthy", steps=3)
    assert findings == ()
    tables = load_all()["telemetry"].tables(run)
    assert {row[0] for table in tables for row in table.rows} >= BOTH
    samples = [o.values for _, o in run.of_kind("gradients")]
    assert len(samples) == 3
    assert all(norm > 0 for sample in samples for norm in sample["norms"])


def test_the_compiled_model_takes_the_models_place_for_the_step(file):
    target = targets.load(f"{file}:healthy")
    subject = fresh(target, factory=False)
    assert subject.part == "Net.forward"
    calls = []

    class Compiled(nn.Module):
        def __init__(self):
            super().__init__()
            self.original = subject.function

        def forward(self, images):
            calls.append(tuple(images.shape))
            return self.original(images)

    compiled = Compiled()
    before = subject.case.model.head.weight.detach().clone()
    subject.call_part(compiled, 0)
    assert torch.equal(subject.case.model.head.weight, before)
    assert subject.case.model.head.weight.grad.abs().sum() > 0
    subject.call(compiled, 0)
    assert not torch.equal(subject.case.model.head.weight, before)
    assert calls == [(32, 64)] * 2
    assert target.value.model is subject.function
    assert subject.arguments(0)[0].shape == (32, 64)


def test_a_loader_without_a_batch_says_so(file):
    with pytest.raises(TargetLoadError, match="gives no batch") as raised:
        made(file, "too_few_rows")
    assert "smaller than bs" in raised.value.mend


def test_what_a_dataset_raises_is_the_targets_own_with_its_line(capture, file):
    _, findings = capture("gradients", f"{file}:lost")
    assert [(f.code, f.place.line) for f in findings] == [("TARGET-RAISED", line_of(file, "raises: dataset"))]
    assert "the disk is gone" in findings[0].message
