"""What can only be seen on a CUDA device. Skipped, by name, where there is none."""

from __future__ import annotations

import pytest
import torch

from bfo_diag import runner
from bfo_diag.probes import load_all
from bfo_diag.records import Severity
from bfo_diag.workspace import Workspace
from pytorch_bfo_optimizer import BFO, AdaptiveBFO, HybridBFO

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize(
    ("optimizer_class", "settings"), [(BFO, {"swim_length": 2}), (AdaptiveBFO, {}), (HybridBFO, {"swim_length": 2})]
)
def test_the_optimizers_train_on_the_device_and_stay_there(optimizer_class, settings):
    torch.manual_seed(0)
    point = torch.full((6,), 2.0, device="cuda", requires_grad=True)
    optimizer = optimizer_class([point], population_size=8, **settings)

    def closure():
        optimizer.zero_grad()
        loss = point.pow(2).sum()
        loss.backward()
        return loss

    first = float(point.pow(2).sum())
    last = float([optimizer.step(closure) for _ in range(5)][-1])
    assert last < first
    assert optimizer.population.device.type == "cuda"
    assert point.device.type == "cuda"


def test_the_matrix_is_as_it_should_be_on_the_device(capture):
    run, findings = capture("gradients", None, device="cuda", scenario="all-grad,no-grad,autocast")
    assert {f.severity for f in findings} <= {Severity.NOTE}
    assert load_all()["gradients"].summarise(run)["modes"]["smart"]["autocast"]["status"] == "trained"


def test_a_cut_is_found_on_the_device(capture, tmp_path):
    path = tmp_path / "cuda_target.py"
    path.write_text(
        "import torch\nw = torch.ones(3, device='cuda', requires_grad=True)\n"
        "def step():\n    loss = (w * w.sum().item()).detach()\n    return loss.sum()\n"
    )
    run, _ = capture("gradients", f"{path}:step", steps=1)
    (cut,) = load_all()["gradients"].summarise(run)["cuts"]
    assert (cut["op"], cut["line"]) == ("detach", 4)


def test_compile_covers_a_training_step_on_the_device(capture):
    run, _ = capture(
        "compile", "bfo_diag.cases.compiled:char_transformer_train_step", device="cuda", backend="inductor"
    )
    summary = load_all()["compile"].summarise(run)
    assert summary["coverage"] > 0.95
    assert summary["graphs"]["backward"] >= 1


def test_bench_times_with_events_and_tells_cuda_graphs(tmp_path):
    probe = load_all()["bench"]
    options = {"modes": "default,reduce-overhead", "processes": 2, "cold": True, "seconds": 1.0}
    options |= {"steps": 10_000, "folds": 1, "trials": 1}
    job = runner.Job(
        probe=probe, target="bfo_diag.cases.compiled:digits_mlp_train_step", device="cuda", options=options
    )
    _, run = runner.run(job, Workspace.find(tmp_path))
    summary = probe.summarise(run)
    assert summary["device"].startswith("cuda")
    for mode in summary["modes"].values():
        assert mode["cuda_step_s"] > 0
        assert mode["memory"]["cuda_allocated_mib"] > 0
        assert mode["correctness"]["result"] in ("same", "different random stream")
    said = summary["modes"]["reduce-overhead"]["cudagraphs"]
    assert said == "" or said.startswith("CUDA graphs not applied")
