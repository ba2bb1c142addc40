from __future__ import annotations

import torch
from torch import Tensor, nn

from pytorch_bfo_optimizer.compile_policy import CompilePolicy

from .conftest import IMAGES, Net


def test_what_the_probe_did_not_do_is_not_proved() -> None:
    model = Net()
    other = torch.ones(3, requires_grad=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def backward_elsewhere() -> None:
        model(IMAGES[:4])
        other.sum().backward()

    def trains() -> None:
        model(IMAGES[:4]).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    for probe, expected in (
        (lambda: model(IMAGES[:4]), ("forward",)),
        (backward_elsewhere, ("forward",)),
        (lambda: model(IMAGES[:4]).sum().backward(), ("forward", "backward")),
        (trains, ("forward", "backward", "optimizer step")),
    ):
        policy = CompilePolicy(enabled=True, backend="aot_eager")
        policy.apply(model, probe=probe)
        assert policy.report().proved == expected
        policy.remove(model)


def test_a_failure_that_eager_does_not_share_is_the_compilers() -> None:
    """A step that looks whether it is compiled, and fails if so: eager does not, so it is no mistake of the step."""

    class Sly(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2

    model = Sly()

    def probe() -> None:
        model(torch.ones(2))
        if model._compiled_call_impl is not None:
            raise RuntimeError("not like this")

    policy = CompilePolicy(enabled=True, backend="eager")
    policy.apply(model, probe=probe)
    assert policy.report().reason == "the compiled step failed: RuntimeError: not like this"
    assert model._compiled_call_impl is None
