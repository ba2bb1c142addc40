from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from pytorch_bfo_optimizer.compile_policy import CompiledStep, CompilePolicy
from pytorch_bfo_optimizer.compile_policy.applied import _frame

from .conftest import IMAGES, Net


def test_torchs_own_modules_get_a_frame_that_dynamo_looks_at_one_code_for_each_class() -> None:
    one, other = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(3, 3))
    frames = [_frame(module._call_impl) for module in (one, other, nn.Linear(2, 2), Net())]
    assert frames[0].__code__ is frames[1].__code__
    assert frames[0].__code__ is not frames[2].__code__
    assert frames[3].__code__ is nn.Module._call_impl.__code__  # the user's own classes have code of their own
    assert torch.equal(frames[1](torch.ones(1, 3)), other(torch.ones(1, 3)))


class Scaler:
    def __init__(self, by: float) -> None:
        self.by = by

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.by

    def scale(self, x: Tensor) -> Tensor:
        return x * self.by


def test_any_callable_can_be_a_step() -> None:
    x = torch.ones(2)
    scaler = Scaler(3.0)
    for target in (scaler, scaler.scale, functools.partial(torch.mul, other=torch.tensor(3.0)), lambda x: x * 3):
        policy = CompilePolicy(enabled=True, backend="eager")
        step = policy.apply(target, probe=lambda compiled: compiled(x))
        assert isinstance(step, CompiledStep)
        assert step(x).tolist() == [3, 3]
        assert (policy.report(step).status, policy.report(step).calls) == ("APPLIED", 1)
        assert "CompiledStep of" in repr(step)
    assert policy.report(target) == policy.report(step)  # what apply was given stands for what it returned


def test_a_method_can_be_a_step_of_its_class() -> None:
    policy = CompilePolicy(enabled=True, backend="eager")

    class Owner:
        by = 3

        @policy.apply
        def scale(self, x: Tensor) -> Tensor:
            return x * self.by

    assert Owner().scale(torch.ones(2)).tolist() == [3, 3]
    assert isinstance(Owner.scale, CompiledStep)
    assert policy.report().calls_compiled == 1


def test_hooks_of_a_module_run_once_a_call() -> None:
    model, seen = Net(), []
    model.register_forward_hook(lambda *args: seen.append(1))
    CompilePolicy(enabled=True, backend="eager").apply(model, probe=lambda: model(IMAGES[:4]))
    assert seen == []
    model(IMAGES[:4])
    assert seen == [1]


def test_a_step_within_a_step_counts_for_itself() -> None:
    inner_policy, outer_policy = (CompilePolicy(enabled=True, backend="eager") for _ in range(2))
    model = Net()
    inner_policy.apply(model)

    def outer(x: Tensor) -> Any:
        x = x + 1
        print(end="")  # a break, after which dynamo traces what is called
        return torch._dynamo.disable(model)(x)

    step = outer_policy.apply(outer)
    step(IMAGES[:4])
    assert (inner_policy.report().calls_compiled, inner_policy.report().graphs) == (1, 1)
    assert (outer_policy.report().calls_compiled, outer_policy.report().graphs) == (1, 1)
