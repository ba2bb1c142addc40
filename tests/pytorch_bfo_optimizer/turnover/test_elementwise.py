from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from pytorch_bfo_optimizer.turnover import elementwise

X = torch.linspace(-3, 3, 24).reshape(4, 6)


def evaluated(forward: nn.Module) -> tuple[Tensor, Tensor]:
    """Return what the graph of a module with one operation gives, and what the module gives."""
    graph = fx.Tracer().trace(forward)
    (node,) = [node for node in graph.nodes if node.op.startswith("call")]
    module = forward.get_submodule(str(node.target)) if node.op == "call_module" else None
    operation = elementwise.evaluation(node, module)
    assert operation is not None
    before = X.clone()
    out = operation(X, *node.args[1:], **node.kwargs)
    assert torch.equal(X, before)
    return out, forward(X.clone())


@pytest.mark.parametrize("kind", sorted(elementwise._MODULES, key=lambda kind: kind.__name__))
def test_each_activation_module_acts_on_each_neuron_alone(kind: type[nn.Module]) -> None:
    module = kind(0.1, 20.0) if kind is nn.Threshold else kind()
    ours, theirs = evaluated(nn.Sequential(module))
    assert torch.equal(ours, theirs)
    assert torch.equal(module(X)[:, 2:4], module(X[:, 2:4].clone()))


def test_what_writes_to_its_input_is_computed_on_a_copy() -> None:
    ours, theirs = evaluated(nn.Sequential(nn.ReLU(inplace=True)))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("module", [nn.Dropout(0.5), nn.AlphaDropout(0.5), nn.Identity()])
def test_dropout_passes_all_through(module: nn.Module) -> None:
    node = next(node for node in fx.Tracer().trace(nn.Sequential(module)).nodes if node.op == "call_module")
    operation = elementwise.evaluation(node, module)
    assert operation is not None
    assert operation(X) is X
    assert elementwise.is_dropout(module) is not isinstance(module, nn.Identity)


@pytest.mark.parametrize(
    "module", [nn.Softmax(-1), nn.GLU(), nn.RReLU(), nn.PReLU(6), nn.Dropout1d(), nn.LayerNorm(6), nn.Linear(6, 6)]
)
def test_others_are_not_known(module: nn.Module) -> None:
    node = next(node for node in fx.Tracer().trace(nn.Sequential(module)).nodes if node.op == "call_module")
    assert elementwise.evaluation(node, module) is None
