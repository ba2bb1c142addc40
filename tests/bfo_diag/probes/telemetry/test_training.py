"""What the probe sees of real training steps, and what it makes of it."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
import torch

from bfo_diag import api
from bfo_diag.errors import DiagError
from bfo_diag.probes.telemetry import history, judge
from bfo_diag.shown import Cell
from pytorch_bfo_optimizer import telemetry

TARGETS = Path(__file__).parents[3] / "targets" / "gradient_health.py"


def watch(name: str, **options) -> api.Examination:
    return api.examine("telemetry", f"{TARGETS}:{name}", **{"steps": 5, **options})


def only(seen: api.Examination) -> history.History:
    (found,) = history.histories(seen.run)
    return found


def codes(seen: api.Examination) -> list[str]:
    return [finding.code for finding in seen.findings]


def test_the_norms_are_those_of_a_training_by_hand() -> None:
    seen = watch("healthy", steps=4)
    spec = importlib.util.spec_from_file_location("by_hand", TARGETS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    case = module.healthy()
    by_hand: dict[str, list[float]] = {}
    for _ in range(4):
        case.step()
        for name, parameter in case.model.named_parameters():
            by_hand.setdefault(name, []).append(parameter.grad.double().norm().item())
    found = {name: tensor.norms for name, tensor in only(seen).tensors.items()}
    assert list(found) == list(by_hand)
    for name, norms in by_hand.items():
        # (The same steps from the same seed: what differs is rounding.)
        assert len(found[name]) == 4
        assert found[name] == pytest.approx(norms, rel=1e-4)
    assert seen.findings == ()
    assert seen.report.verdict == "Healthy: 4 tensors over 4 steps, health 1.00 throughout."


@pytest.mark.parametrize(
    "name", ["healthy", "accumulated", "two_optimizers", "lbfgs", "hybrid", "plain_step", "loss_alone"]
)
@pytest.mark.healthy
def test_healthy_steps_get_no_finding(name: str) -> None:
    seen = watch(name)
    assert seen.findings == ()
    assert seen.summary["cases"][0]["samples"] == 5
    assert all(len(tensor.norms) == 5 for tensor in only(seen).tensors.values())


def test_vanishing_is_told_from_the_layer_on_where_it_begins() -> None:
    seen = watch("vanishing")
    assert codes(seen) == ["TELEMETRY-VANISHING"]
    tensors = only(seen).tensors
    small = [name for name, tensor in tensors.items() if sorted(tensor.norms)[2] < 1e-7]
    assert small
    assert seen.findings[0].place.parameter == small[-1]
    layers = list(dict.fromkeys(tensor.layer for tensor in tensors.values()))
    layer = tensors[small[-1]].layer
    assert f"from {layer} on (layer {layers.index(layer) + 1} of {len(layers)}) towards the input" in (
        seen.findings[0].message
    )
    assert 0.5 < seen.summary["cases"][0]["least_health"] < 1


def test_exploding_names_the_first_and_the_greatest() -> None:
    seen = watch("exploding")
    assert codes(seen) == ["TELEMETRY-EXPLODING"]
    finding = seen.findings[0]
    assert finding.place.step == 1
    greatest = max(only(seen).tensors.values(), key=lambda tensor: max(tensor.norms))
    assert f"the greatest is {max(greatest.norms):.3g} in {greatest.name}" in finding.message
    assert seen.summary["cases"][0]["least_health"] == pytest.approx(0.2)
    assert seen.report.verdict.startswith("Exploding gradients: 4 tensors over 5 steps, health 0.20")


def test_dead_layers_are_told_with_the_one_nearest_to_the_loss() -> None:
    seen = watch("dead")
    assert codes(seen) == ["TELEMETRY-DEAD"]
    finding = seen.findings[0]
    assert finding.place.parameter == "4.weight"  # what comes into it is zero; its bias trains
    assert "0.weight, 0.bias, 2.weight, 2.bias, 4.weight was zero in 5 samples of 5" in finding.message
    assert only(seen).tensors["4.bias"].norms[0] > 0
    shares = {row[0]: row[6] for row in seen.report.tables[0].rows}
    assert shares["0.weight"] == "100%"
    assert shares["4.bias"] == "0%"


def test_a_nan_is_told_with_its_first_step_and_the_tensor_it_began_in() -> None:
    seen = watch("nan_at_step_4", steps=6)
    assert codes(seen) == ["TELEMETRY-NON-FINITE"]
    finding = seen.findings[0]
    # The loss is finite, and so are the gradients behind the square root; before it all are NaN.
    assert finding.place.step == 4
    assert finding.place.parameter == "2.bias"
    assert finding.message.startswith("16 NaN of 16 elements first seen at step 4 in 2.bias, with 3 other tensors; ")
    assert "began in the backward pass; in 3 samples of 6" in finding.message
    tensors = only(seen).tensors
    assert [point.finite for point in tensors["4.weight"].points] == [True] * 4 + [False] * 2
    assert math.isnan(tensors["0.weight"].points[3].norm)
    line = seen.run.observations[finding.evidence[0] - 1]
    assert line.place.step == 4
    assert set(line.values["nan_counts"]) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    cells = [row[-1] for row in seen.report.tables[0].rows]
    assert all(isinstance(cell, Cell) and cell.text == "not finite" and cell.tone == "bad" for cell in cells)


def test_what_a_scaler_leaves_out_is_a_note() -> None:
    seen = watch("scaled", steps=8)
    assert codes(seen) == ["TELEMETRY-SKIPPED"]
    stepped = [sample.step for sample in only(seen).samples if sample.stepped]
    assert 1 not in stepped
    assert 8 in stepped
    assert f"{8 - len(stepped)} steps that no optimizer took, the first at 1" in seen.findings[0].message
    used = [sample.values for sample in only(seen).samples if sample.stepped]
    assert all(values["status"] == "healthy" and values["total_norm"] < 100 for values in used)


def test_parameters_that_get_no_gradient_are_named() -> None:
    seen = watch("cut")
    assert codes(seen) == ["TELEMETRY-NO-GRADIENT"]
    assert seen.findings[0].message == "0.weight, 0.bias got no gradient in any of 5 samples."
    assert only(seen).tensors["0.weight"].norms == []
    assert {row[0]: row[-1].text for row in seen.report.tables[0].rows}["0.bias"] == "no gradient"


def test_every_so_many_steps_are_measured_and_all_are_run() -> None:
    seen = watch("healthy", steps=10, every=4)
    assert only(seen).steps == [1, 5, 9]
    every = only(watch("healthy", steps=9)).tensors["0.weight"].points
    assert [p.norm for p in only(seen).tensors["0.weight"].points] == pytest.approx(
        [every[index].norm for index in (0, 4, 8)], rel=1e-3
    )


def test_accumulated_gradients_are_measured_where_the_optimizer_steps() -> None:
    whole = only(watch("healthy", steps=1)).tensors
    halves = only(watch("accumulated", steps=1)).tensors
    for name, tensor in whole.items():
        assert halves[name].norms == pytest.approx(tensor.norms, rel=1e-4)


def test_gradients_that_a_fused_optimizer_has_yet_to_divide_are_divided_here() -> None:
    plain = only(watch("healthy", steps=3)).tensors
    scaled = only(watch("scaled_and_fused", steps=3)).tensors
    for name, tensor in plain.items():
        assert scaled[name].norms == pytest.approx(tensor.norms, rel=1e-4)


def test_each_optimizer_is_measured_before_it_clears_its_gradients() -> None:
    seen = watch("two_optimizers", steps=2)
    sources = [observation.values for _, observation in seen.run.of_kind("tensors")]
    assert [source["of"] for source in sources] == ["SGD", "SGD"]
    assert sources[0]["names"] == ["first.0.weight", "first.0.bias", "first.2.weight", "first.2.bias"]
    assert [sample.source for sample in only(seen).samples] == [0, 1, 0, 1]


def test_the_names_of_a_script_are_those_of_its_globals() -> None:
    seen = watch("plain_step", steps=2)
    assert list(only(seen).tensors) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert only(seen).losses[0][2] == pytest.approx(2.3, abs=0.3)


def test_a_step_that_returns_its_loss_alone_is_gone_back_from() -> None:
    seen = watch("loss_alone", steps=3)
    told = [observation.values["backward_by"] for _, observation in seen.run.of_kind("step")]
    assert told == ["bfo-diag"] * 3
    first, _, last = only(seen).tensors["0.weight"].norms
    assert first == last  # nothing steps, and nothing adds up


def test_a_module_and_an_optimizer_class_can_be_watched() -> None:
    module = api.examine("telemetry", torch.nn.Linear(8, 4), inputs=("float32[16,8]",), steps=2)
    assert list(only(module).tensors) == ["weight", "bias"]
    optimizer = api.examine("telemetry", torch.optim.Adam, steps=2)
    assert list(only(optimizer).tensors) == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_without_a_target_the_built_in_cases_are_watched() -> None:
    seen = api.examine("telemetry", None, steps=2)
    assert [found.case for found in history.histories(seen.run)] == ["digits-mlp", "char-transformer"]
    assert seen.findings == ()
    assert "digits-mlp, 4 tensors over 2 steps" in seen.report.verdict


def test_an_error_of_the_target_ends_the_run_with_what_was_seen() -> None:
    seen = watch("raises_at_step_3")
    assert codes(seen) == ["TARGET-RAISED"]
    assert "no more data" in seen.findings[0].message
    assert len(only(seen).tensors["0.weight"].norms) == 2


def test_a_part_of_a_sharded_gradient_is_refused_by_name() -> None:
    with pytest.raises(DiagError, match=r"weight: its gradient is one process's part of a Sharded") as refused:
        watch("sharded")
    assert "one process" in refused.value.mend


def test_charts_show_every_tensor_at_every_step() -> None:
    heat, curves, health, loss = watch("nan_at_step_4", steps=6).report.charts
    assert heat.kind == "heatmap"
    assert heat.log_y
    assert [series.name for series in heat.series] == [f"{n}.{kind}" for n in (0, 2, 4) for kind in ("weight", "bias")]
    assert [x for x, _ in heat.series[0].points] == [1, 2, 3, 4, 5, 6]
    assert math.isnan(heat.series[0].points[3][1])
    assert [series.name for series in curves.series] == ["total", "greatest", "mean", "least"]
    assert [y for _, y in health.series[0].points] == [1, 1, 1, 0, 0, 0]
    assert len(loss.series[0].points) == 6


def test_thresholds_are_those_of_the_library() -> None:
    assert judge.EXPLODING_NORM == telemetry.EXPLODING_NORM
    assert judge.VANISHING_NORM == telemetry.VANISHING_NORM


def test_hooks_of_the_probe_are_gone_afterwards() -> None:
    from torch.optim import optimizer

    before = dict(optimizer._global_optimizer_pre_hooks)
    watch("healthy", steps=1)
    watch("raises_at_step_3")
    assert dict(optimizer._global_optimizer_pre_hooks) == before
