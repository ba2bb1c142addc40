from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pytorch_bfo_optimizer.errors import TurnoverRefusedError
from pytorch_bfo_optimizer.turnover.layers import Layer, find_layers
from pytorch_bfo_optimizer.turnover.surgery import Surgeon


class Model(nn.Module):
    """Its root can't be traced, its `mlp` can."""

    def __init__(self, *between: nn.Module) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(4, 6), *between, nn.ReLU(), nn.Linear(6, 4))
        self.peek: Callable[[Model, Tensor], object] = lambda model, x: None

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] > 100:
            return x
        self.peek(self, x)
        return self.mlp(x)


def prepared(model: nn.Module) -> tuple[Layer, Surgeon]:
    (layer,) = find_layers(model, "mlp.0")
    surgeon = Surgeon(model, torch.optim.SGD(model.parameters()))
    surgeon.watch([layer])
    return layer, surgeon


X = torch.ones(3, 4)


@pytest.mark.parametrize(
    ("peek", "who"),
    [
        (lambda model, x: model.mlp[0](x), "'mlp.0' was called outside of the forward of 'mlp', which was traced"),
        (lambda model, x: model.mlp[2](model.mlp[0](x)), "was called outside of the forward of 'mlp'"),
        (
            lambda model, x: model.mlp[2](torch.ones(1, model.mlp[2].in_features)),
            "'mlp.2' was called outside of the forward of 'mlp'",
        ),
    ],
)
def test_a_call_from_elsewhere_is_refused_at_the_next_operation(
    peek: Callable[[Model, Tensor], object], who: str
) -> None:
    model = Model()
    layer, surgeon = prepared(model)
    model(X)
    surgeon.resize(layer, torch.arange(5))
    model.peek = peek
    model(X)
    weight = model.mlp[0].weight.clone()
    with pytest.raises(TurnoverRefusedError, match=f"'mlp.0' can't be resized: .*{who}"):
        surgeon.resize(layer, torch.arange(4))
    assert torch.equal(model.mlp[0].weight, weight)


def test_several_calls_within_one_forward_are_refused() -> None:
    class Repeats(nn.Sequential):
        times = 1

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(self.times):
                x = super().forward(x)
            return x

    model = Model()
    model.mlp = Repeats(*model.mlp)
    layer, surgeon = prepared(model)
    Repeats.times = 2
    model(X)
    with pytest.raises(TurnoverRefusedError, match=r"'mlp\.0' was called several times in one forward of 'mlp'"):
        surgeon.resize(layer, torch.arange(4))


def test_paths_that_leave_the_layer_out_and_forwards_that_raise_are_none_of_its_concern() -> None:
    model = Model()
    layer, surgeon = prepared(model)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        model(torch.ones(3, 5))
    model(torch.ones(101, 4))
    model(X)
    assert surgeon.resize(layer, torch.arange(4)).width == 4


def test_a_norm_over_another_dimension_is_refused() -> None:
    model = Model(nn.BatchNorm1d(6))
    layer, surgeon = prepared(model)
    model(X)
    surgeon.resize(layer, torch.arange(6))
    model(torch.ones(2, 6, 4))
    with pytest.raises(TurnoverRefusedError, match="its BatchNorm1d gets a tensor of 3 dimensions"):
        surgeon.resize(layer, torch.arange(4))


@pytest.mark.compile
def test_compiled_calls_are_not_counted_and_break_no_graph() -> None:
    torch.compiler.reset()
    model = Model()
    layer, surgeon = prepared(model)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for width in (6, 5, 4):
        surgeon.resize(layer, torch.arange(width))
        for _ in range(2):
            assert torch.equal(compiled(X), model(X))
    model.peek = lambda model, x: model.mlp[0](x)
    compiled(X)
    assert surgeon.resize(layer, torch.arange(3)).width == 3
    torch.compiler.reset()


def test_closing_takes_every_hook_off() -> None:
    model = Model(nn.BatchNorm1d(6))
    _, surgeon = prepared(model)
    assert any(module._forward_pre_hooks for module in model.modules())
    surgeon.close()
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
