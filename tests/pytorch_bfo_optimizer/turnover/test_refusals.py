from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from pytorch_bfo_optimizer.errors import TurnoverRefusedError
from pytorch_bfo_optimizer.turnover.layers import find_layers
from pytorch_bfo_optimizer.turnover.surgery import Surgeon


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4))


class Own(nn.Linear):
    pass


def put(index: int, make: Callable[[nn.Linear], object]) -> Callable[[nn.Sequential], None]:
    def change(model: nn.Sequential) -> None:
        made = make(model[index])
        if isinstance(made, nn.Module):
            model[index] = made

    return change


def forwarded(linear: nn.Linear) -> None:
    linear.forward = lambda x: nn.functional.linear(x, linear.weight, linear.bias)


def tied(model: nn.Sequential) -> None:
    model[2].weight = nn.Parameter(model[0].weight.detach().T.clone())
    model.append(nn.Linear(4, 6))
    model[3].weight = model[0].weight


def viewed(model: nn.Sequential) -> None:
    model.append(nn.Module())
    model[3].register_buffer("copy", model[0].weight.detach()[1:])
    model[3].forward = lambda x: x


def listed(model: nn.Sequential) -> None:
    model[1].remembered = model[2].weight.data


CASES: dict[str, tuple[Callable[[nn.Sequential], None], str]] = {
    "subclass": (put(0, lambda old: Own(4, 6)), "'0' can't be resized: it is a Own, and only nn.Linear itself"),
    "consumer's subclass": (put(2, lambda old: Own(6, 4)), "'2' can't be resized: it is a Own"),
    "parametrized": (put(0, parametrizations.weight_norm), "'0' can't be resized: it is parametrized"),
    "consumer parametrized": (put(2, parametrizations.orthogonal), "'2' can't be resized: it is parametrized"),
    "pruned": (
        put(0, lambda old: prune.random_unstructured(old, "weight", 0.5) and None),
        r"computes its weight from other parameters \(weight, weight_orig\)",
    ),
    "forward": (put(2, forwarded), "'2' can't be resized: it has a forward that was put in place"),
    "tied": (tied, r"'0.weight' can't be resized: its memory is tied to that of others \('0.weight', '3.weight'\)"),
    "view": (viewed, r"'0.weight' can't be resized: .*\('0.weight', '3.copy'\)"),
    "remembered": (listed, r"'2.weight' can't be resized: .*'1.remembered'"),
    "shape": (
        put(0, lambda old: setattr(old, "weight", nn.Parameter(torch.ones(7, 4)))),
        r"weight of shape \(7, 4\) for 6",
    ),
    "lazy": (put(0, lambda old: nn.LazyLinear(6)), "'0' can't be resized: it is a LazyLinear"),
    "jit": (put(0, torch.jit.script), "the part '0' of the model is compiled by torch.jit"),
    "data parallel": (put(0, nn.DataParallel), "the part '0' of the model is wrapped in DataParallel"),
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated", "ignore:Lazy modules are a new feature")
@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_when_it_is_looked_for(case: str) -> None:
    model = mlp()
    change, why = CASES[case]
    change(model)
    with pytest.raises(TurnoverRefusedError, match=why):
        find_layers(model, ["0", "0.*"] if "parallel" in case else "0")


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("case", [case for case in CASES if case not in ("lazy", "jit", "data parallel")])
def test_it_is_refused_when_it_came_later_and_nothing_has_changed(case: str) -> None:
    model = mlp()
    (layer,) = find_layers(model, "0")
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    surgeon = Surgeon(model, optimizer)
    change, why = CASES[case]
    if "subclass" in case:
        (layer.producer if case == "subclass" else layer.consumers[0][1]).__class__ = Own
    else:
        change(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    moments = [value.clone() for state in optimizer.state.values() for value in state.values()]
    with pytest.raises(TurnoverRefusedError, match=why):
        surgeon.resize(layer, torch.arange(3))
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    remaining = [value for state in optimizer.state.values() for value in state.values()]
    assert all(torch.equal(old, new) for old, new in zip(moments, remaining, strict=True))


def test_a_wrapper_of_several_processes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class FullyShardedDataParallel(nn.Module):  # torch's own needs a process group to be made
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: Tensor) -> Tensor:
            return self.module(x)

    wrapped = FullyShardedDataParallel(mlp())
    assert len(find_layers(wrapped, "module.0")) == 1  # somebody's own class of that name
    monkeypatch.setattr(FullyShardedDataParallel, "__module__", "torch.distributed.fsdp")
    with pytest.raises(TurnoverRefusedError, match="the model is wrapped in FullyShardedDataParallel, which holds"):
        find_layers(wrapped)


def test_ddp_is_refused_outside_and_from_within() -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = mlp()
        wrapped = nn.parallel.DistributedDataParallel(model)
        with pytest.raises(TurnoverRefusedError, match="the model is wrapped in DistributedDataParallel"):
            find_layers(wrapped)
        (layer,) = find_layers(model, "0")
        surgeon = Surgeon(model, torch.optim.SGD(model.parameters()))
        surgeon.watch([layer])
        wrapped(torch.ones(2, 4)).sum().backward()
        with pytest.raises(TurnoverRefusedError, match="the model runs within DistributedDataParallel"):
            surgeon.resize(layer, torch.arange(3))
    finally:
        dist.destroy_process_group()


def test_a_module_held_under_two_names_is_not_tied() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()
            self.again = self.net[0]

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    assert [layer.name for layer in find_layers(Twice())] == ["net.0"]


def test_a_forward_that_was_put_on_the_module_is_refused_and_one_that_is_only_wrapped_is_not() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    own = model.forward

    @functools.wraps(own)
    def wrapped(x: torch.Tensor) -> torch.Tensor:
        return own(x)

    for forward in (wrapped, torch.compile(own, backend="eager")):
        model.forward = forward
        assert [layer.name for layer in find_layers(model)] == ["0"]
    model.forward = lambda x: own(x) + model[2](model[0](x))
    with pytest.raises(TurnoverRefusedError, match="its forward was replaced by another"):
        find_layers(model)
