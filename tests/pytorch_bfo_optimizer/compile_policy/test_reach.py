from __future__ import annotations

import functools
import sys
import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytorch_bfo_optimizer.compile_policy import CompilePolicy
from pytorch_bfo_optimizer.compile_policy import reach as reach_module
from pytorch_bfo_optimizer.compile_policy.reach import LARGE, reach, slots_of

named = torch.zeros(1)
attribute = torch.zeros(2)


def helper() -> Tensor:
    return named


def tensors(*roots: Any) -> list[Tensor]:
    return reach(roots).tensors


def holds(found: list[Tensor], tensor: Tensor) -> bool:
    return any(one is tensor for one in found)


class Holder:
    def __init__(self, held: Any) -> None:
        self.held = held

    def step(self) -> Any:
        return self.held

    def through_a_global(self) -> Tensor:
        return helper()


class Slots:
    __slots__ = ("held", "never_set")

    def __init__(self, held: Any) -> None:
        self.held = held


def ways() -> dict[str, Any]:
    """From a function to a tensor."""
    tensor = torch.ones(3)

    def inner() -> Tensor:
        return tensor

    @functools.wraps(inner)
    def decorated() -> Tensor:
        return inner()

    @torch.no_grad()
    def under_a_decorator_of_torch() -> Tensor:
        return tensor

    module = types.ModuleType("module_of_the_users")
    module.__file__ = __file__
    module.model = tensor  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    model = nn.Module()
    model.register_buffer("b", tensor)
    slots, sequential = Slots(tensor), nn.Sequential(model)
    namespace = {"user": module, "__name__": __name__}
    exec("def through_a_module(): return user.model", namespace)
    return {
        "tensor": tensor,
        "closure": inner,
        "nested closure": lambda: inner(),
        "function in a function": lambda: lambda: tensor,
        "default": eval("lambda x=t: x", {"t": tensor, "__name__": __name__}),
        "keyword default": eval("lambda *, x=t: x", {"t": tensor, "__name__": __name__}),
        "decorated": decorated,
        "decorator of torch": under_a_decorator_of_torch,
        "partial": functools.partial(print, tensor),
        "method": Holder(tensor).step,
        "attribute of an attribute": Holder(Holder(tensor)).step,
        "containers": lambda found=({"a": [({tensor},)]},): found,
        "keys": lambda found={tensor: 1}: found,
        "slots": lambda: slots,
        "module": lambda: sequential,
        "another module's name": namespace["through_a_module"],
        "step of a policy": CompilePolicy(enabled=False).apply(inner),
    }


@pytest.mark.parametrize("way", [way for way in ways() if way != "tensor"])
def test_every_way_to_a_tensor_is_followed(way: str) -> None:
    found = ways()
    assert holds(tensors(found[way]), found["tensor"])


def test_globals_are_found_where_the_code_names_them_and_nowhere_else() -> None:
    assert holds(tensors(helper), named)
    assert holds(tensors(lambda: helper()), named)
    assert holds(tensors(Holder(1).step), named)  # another method of the object: a step may call it
    assert not holds(tensors(helper), attribute)
    assert not holds(tensors(lambda found=named: found.attribute), attribute)  # type: ignore[attr-defined]


def test_libraries_are_not_entered() -> None:
    tensor = torch.ones(3)
    loader = torch.utils.data.DataLoader([tensor])
    assert not holds(tensors(lambda: loader), tensor)


def test_a_large_container_is_data() -> None:
    tensor = torch.ones(3)
    data = [tensor] * (LARGE + 1)
    assert not holds(tensors(lambda: data), tensor)
    data.pop()
    assert holds(tensors(lambda: data), tensor)


def test_each_thing_is_found_once_and_cycles_end() -> None:
    tensor = torch.ones(3)
    ring: list[Any] = [tensor, tensor]
    ring.append(ring)
    found = reach([lambda: ring, ring])
    assert sum(one is tensor for one in found.tensors) == 1
    assert sum(one is ring for one in found.containers) == 1


def test_what_belongs_to_models_and_optimizers_is_known() -> None:
    model = nn.BatchNorm1d(2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(3, 2)).sum().backward()
    optimizer.step()
    data = torch.ones(5)
    found = reach([lambda: (model, data)])
    owned = [*model.parameters(), *model.buffers(), *(t for s in optimizer.state.values() for t in s.values())]
    assert {id(tensor) for tensor in owned} <= found.owned
    assert id(data) not in found.owned
    assert found.modules == [model]
    assert [stepper for stepper in found.steppers if not isinstance(stepper, torch.amp.GradScaler)] == [optimizer]


def test_other_peoples_optimizers_are_left_alone() -> None:
    model, other = nn.Linear(2, 2), nn.Linear(2, 2)
    theirs = torch.optim.SGD(other.parameters(), lr=1.0)
    assert theirs not in reach([model]).steppers


def test_the_policies_own_accounts_are_not_state() -> None:
    model = nn.Linear(2, 2)
    policy = CompilePolicy(enabled=True, backend="eager")
    policy.apply(model)
    found = reach([lambda: (policy, model)])
    assert not any(audit is found for _, audit in policy._applied)
    assert not any(isinstance(held, dict) and "calls_compiled" in held for held in found.containers)
    assert not any(names is vars(reach_module) for names, _ in found.globals)


def test_slots_that_are_not_set_are_passed_by() -> None:
    assert dict(slots_of(Slots(1))) == {"held": 1}
