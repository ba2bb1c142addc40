from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pytorch_bfo_optimizer.turnover.layers import Layer, find_layers
from pytorch_bfo_optimizer.turnover.observing import Observer


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2))


@pytest.fixture
def layer(model: nn.Module) -> Layer:
    return find_layers(model)[0]


def activations(model: nn.Module, inputs: Tensor) -> Tensor:
    """What the consumers would read without dropout, (rows, 4)."""
    with torch.no_grad():
        return model[1](model[0](inputs)).flatten(0, -2)


@pytest.mark.parametrize("shape", [(5, 3), (2, 6, 3), (0, 3)])
def test_activity_is_summed_over_all_rows_before_dropout(
    model: nn.Module, layer: Layer, shape: tuple[int, ...]
) -> None:
    observer = Observer(layer, activity=True, kept_rows=0)
    batches = [torch.randn(shape), torch.randn(2, 3)]
    for batch in batches:
        model(batch)
    seen = observer.taken()
    assert seen is not None
    h_NH = torch.cat([activations(model, batch) for batch in batches])
    torch.testing.assert_close(seen.total, h_NH.abs().sum(dim=0))
    assert seen.rows == len(h_NH)
    again = observer.taken()
    assert again is not None
    assert again.rows == 0
    assert not again.total.any()
    assert observer.inputs() is None


def test_no_evaluation_leaves_a_trace(model: nn.Module, layer: Layer) -> None:
    observer = Observer(layer, activity=True, kept_rows=16)
    model.eval()
    model(torch.randn(5, 3))
    model.train()
    with torch.no_grad():
        model(torch.randn(5, 3))
    with observer.off():
        model(torch.randn(5, 3))
    assert len(observer.inputs()) == 0
    assert observer.taken().rows == 0
    observer.close()
    model(torch.randn(5, 3))
    assert observer.taken().rows == 0


def test_the_latest_inputs_are_kept_of_eight_forward_passes_at_least(model: nn.Module, layer: Layer) -> None:
    observer = Observer(layer, activity=False, kept_rows=16)
    for number in range(11):
        model(torch.full((2, 50, 3), float(number)))
    kept = observer.inputs()
    assert sorted(kept[:, 0].tolist()) == sorted([float(number) for number in range(3, 11)] * 2)
    assert observer.taken() is None


def test_rows_come_from_all_over_a_batch(model: nn.Module, layer: Layer) -> None:
    observer = Observer(layer, activity=False, kept_rows=32)
    model(torch.arange(10.0)[:, None].expand(10, 3))
    assert observer.inputs()[:, 0].tolist() == [0.0, 3.0, 6.0, 9.0]


def test_inputs_that_are_not_finite_are_left_out(model: nn.Module, layer: Layer) -> None:
    observer = Observer(layer, activity=False, kept_rows=16)
    model(torch.tensor([[1.0, 2.0, 3.0], [1.0, float("nan"), 3.0]]))
    assert observer.inputs().tolist() == [[1.0, 2.0, 3.0]]


def test_half_precision_is_added_up_in_float32(model: nn.Module, layer: Layer) -> None:
    observer = Observer(layer, activity=True, kept_rows=8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(torch.ones(3000, 3))
    assert observer.taken().total.dtype == torch.float32
    assert observer.inputs().dtype == torch.float32
    torch.testing.assert_close(
        Observer(find_layers(model.to(torch.bfloat16))[0], activity=True, kept_rows=0).taken().total, torch.zeros(4)
    )


def test_inputs_of_another_width_are_forgotten(model: nn.Module, layer: Layer) -> None:
    observer = Observer(layer, activity=True, kept_rows=16)
    model(torch.randn(5, 3))
    observer.fit(layer)
    assert len(observer.inputs()) == 2
    layer.producer.in_features, layer.producer.out_features = 5, 6
    observer.fit(layer)
    assert observer.inputs().shape == (0, 5)
    assert len(observer.taken().total) == 6


def test_its_state_goes_round(model: nn.Module, layer: Layer) -> None:
    observer = Observer(layer, activity=True, kept_rows=16)
    model(torch.randn(5, 3))
    other = Observer(layer, activity=True, kept_rows=16)
    other.load_state_dict(observer.state_dict())
    assert torch.equal(other.inputs(), observer.inputs())
    assert torch.equal(other.taken().total, observer.taken().total)
