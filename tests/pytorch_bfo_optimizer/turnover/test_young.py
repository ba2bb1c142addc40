from __future__ import annotations

import copy
import io
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from pytorch_bfo_optimizer.errors import TurnoverError
from pytorch_bfo_optimizer.turnover.layers import Layer, find_layers
from pytorch_bfo_optimizer.turnover.surgery import Births, Surgeon
from pytorch_bfo_optimizer.turnover.young import MOST

Make = Callable[[Any], Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "Adam, decayed": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1, maximize=True),
    "Adam, a tensor as lr": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01)),
    "AdamW, amsgrad": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "AdamW, foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "AdamW, fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.01, decoupled_weight_decay=True, weight_decay=0.1),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=0.01, betas=(0.9, 0.99)),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=0.01, weight_decay=0.1),
}
SLOTS = torch.tensor([1, 4, 5])


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 9), nn.BatchNorm1d(9), nn.Tanh(), nn.Linear(9, 3))


def gradients(parameters: Sequence[Tensor], step: int) -> list[Tensor]:
    """Return gradients that depend on the step alone, of sizes that change from step to step."""
    source = torch.Generator().manual_seed(step)
    return [torch.randn(p.shape, generator=source, dtype=p.dtype) * (1 + step % 5) for p in parameters]


def step(optimizer: Optimizer, parameters: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = grad.clone()
    optimizer.step()


def births(layer: Layer, count: int) -> Births:
    source = torch.Generator().manual_seed(7)
    return Births(
        torch.randn(count, layer.producer.in_features, generator=source),
        torch.randn(count, generator=source),
        tuple(torch.randn(c.out_features, count, generator=source) for _, c in layer.consumers),
    )


def parts(layer: Layer) -> list[tuple[nn.Parameter, int]]:
    return [(part.tensor, part.dim) for part in layer.parts if isinstance(part.tensor, nn.Parameter)]


def prepared(make: Make, old: int = 6) -> tuple[nn.Sequential, Layer, Optimizer, Surgeon]:
    model = mlp()
    (layer,) = find_layers(model, "0")
    optimizer = make(model.parameters())
    surgeon = Surgeon(model, optimizer)
    for number in range(old):
        step(optimizer, list(model.parameters()), gradients(list(model.parameters()), number))
    return model, layer, optimizer, surgeon


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_newborn_step_as_under_a_fresh_optimizer_and_the_others_as_if_nothing_was(name: str) -> None:
    make = OPTIMIZERS[name]
    model, layer, optimizer, surgeon = prepared(make)
    untouched = copy.deepcopy(model)
    untouched_optimizer = make(untouched.parameters())
    untouched_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    surgeon.replace(layer, SLOTS, births(layer, 3))
    fresh = [nn.Parameter(tensor.detach().index_select(dim, SLOTS)) for tensor, dim in parts(layer)]
    fresh_optimizer = make(fresh)
    others = torch.tensor([row for row in range(9) if row not in SLOTS.tolist()])
    own = [id(tensor) for tensor, _ in parts(layer)]
    for number in range(100, 112):
        for either in (optimizer, untouched_optimizer, fresh_optimizer):
            for group in either.param_groups:
                group["lr"] = group["lr"] * 0.9  # as a scheduler does
        grads = gradients(list(model.parameters()), number)
        step(optimizer, list(model.parameters()), grads)
        step(untouched_optimizer, list(untouched.parameters()), grads)
        by_id = dict(zip(map(id, model.parameters()), grads, strict=True))
        cut = [by_id[key].index_select(dim, SLOTS) for key, (_, dim) in zip(own, parts(layer), strict=True)]
        step(fresh_optimizer, fresh, cut)
        for (tensor, dim), twin in zip(parts(layer), fresh, strict=True):
            assert torch.equal(tensor.index_select(dim, SLOTS), twin)
        (twin_layer,) = find_layers(untouched, "0")
        for (tensor, dim), (twin, _) in zip(parts(layer), parts(twin_layer), strict=True):
            assert torch.equal(tensor.index_select(dim, others), twin.index_select(dim, others))
        assert torch.equal(model[3].bias, untouched[3].bias)
    (cohort,) = surgeon.young.cohorts
    assert {role: float(count["step"]) for role, count in cohort.counts.items()} == dict.fromkeys(
        ("producer.weight", "producer.bias", "norm.weight", "norm.bias", "consumers.0.weight"), 12.0
    )


@pytest.mark.parametrize(("own_step", "low", "high"), [(True, 0.99, 1.001), (False, 6.5, 6.6)])
def test_no_step_of_a_newborn_is_larger_than_the_learning_rate(own_step: bool, low: float, high: float) -> None:
    """With a constant gradient Adam's steps are lr; with zero moments and the old count they grow to 6.55 lr."""
    _, layer, optimizer, surgeon = prepared(lambda p: torch.optim.Adam(p, lr=1e-3))
    surgeon.replace(layer, SLOTS, births(layer, 3))
    for state in optimizer.state.values():
        state["step"].fill_(20_000)
    if not own_step:
        surgeon.young.close()
    largest = 0.0
    weight = layer.producer.weight
    for _ in range(25):
        before = weight.detach().double()[SLOTS]
        weight.grad = torch.full_like(weight, 0.3)
        optimizer.step()
        largest = max(largest, float((weight.detach().double()[SLOTS] - before).abs().max()) / 1e-3)
    assert low < largest < high


@pytest.mark.parametrize("name", ["Adam", "NAdam", "AdamW, fused"])
def test_a_run_that_is_saved_goes_on_bit_for_bit(name: str) -> None:
    make = OPTIMIZERS[name]
    model, layer, optimizer, surgeon = prepared(make)
    for number in range(100, 104):
        surgeon.replace(layer, torch.tensor([number % 9]), births(layer, 1))  # the last one has not stepped yet
        if number < 103:
            step(optimizer, list(model.parameters()), gradients(list(model.parameters()), number))
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict(), surgeon.young.state_dict()], file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other = mlp()
    other_optimizer = make(other.parameters())
    other.load_state_dict(saved[0])
    other_optimizer.load_state_dict(saved[1])
    again = Surgeon(other, other_optimizer)
    again.young.load_state_dict(saved[2], find_layers(other, "0"))
    assert len(again.young.cohorts) == 4
    for number in range(104, 110):
        for net, either in ((model, optimizer), (other, other_optimizer)):
            step(either, list(net.parameters()), gradients(list(net.parameters()), number))
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def cohort_rows(surgeon: Surgeon) -> list[list[int]]:
    return [cohort.rows.tolist() for cohort in surgeon.young.cohorts]


def test_cohorts_follow_their_rows_and_vanish_with_them() -> None:
    model, layer, optimizer, surgeon = prepared(OPTIMIZERS["Adam"])
    surgeon.replace(layer, SLOTS, births(layer, 3))
    step(optimizer, list(model.parameters()), gradients(list(model.parameters()), 50))
    surgeon.resize(layer, torch.tensor([8, 5, 0, 1]), births(layer, 2))
    assert cohort_rows(surgeon) == [[1, 3], [4, 5]]
    surgeon.split(layer, torch.tensor([3, 0, 5]))
    assert cohort_rows(surgeon) == [[1, 3, 6], [4, 5, 8]]
    surgeon.replace(layer, torch.tensor([4, 5, 8]), births(layer, 3))
    assert cohort_rows(surgeon) == [[1, 3, 6], [4, 5, 8]]  # the last born in place of those before them
    surgeon.resize(layer, torch.tensor([0, 2, 4]))
    assert cohort_rows(surgeon) == [[2]]
    surgeon.resize(layer, torch.tensor([0, 1]))
    assert cohort_rows(surgeon) == []


def test_twins_of_young_neurons_step_as_they_do() -> None:
    model, layer, optimizer, surgeon = prepared(lambda p: torch.optim.Adam(p, lr=0.01, eps=1e-30))
    surgeon.replace(layer, SLOTS, births(layer, 3))
    step(optimizer, list(model.parameters()), gradients(list(model.parameters()), 50))
    surgeon.split(layer, torch.tensor([4]))
    grads = gradients(list(model.parameters()), 51)
    grads[0][9] = grads[0][4]
    step(optimizer, list(model.parameters()), grads)
    assert torch.equal(model[0].weight[9], model[0].weight[4])


def test_of_too_many_cohorts_those_nearest_in_age_go_on_with_the_younger_count() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 20), nn.Tanh(), nn.Linear(20, 3))
    (layer,) = find_layers(model, "0")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    surgeon = Surgeon(model, optimizer)
    number = 0
    for row in range(MOST + 2):
        for _ in range(3):
            number += 1
            step(optimizer, list(model.parameters()), gradients(list(model.parameters()), number))
        surgeon.replace(layer, torch.tensor([row]), births(layer, 1))
        assert len(surgeon.young.cohorts) <= MOST
    # Ages when the ninth came: 24, 21, ..., 3, 0; when the tenth came: 27 (for 30 too), 24, ..., 3, 0.
    found = [(cohort.rows.tolist(), cohort.age) for cohort in surgeon.young.cohorts]
    assert found[0] == ([0, 1, 2], 21.0)
    assert found[1:] == [([row], 3.0 * (MOST + 1 - row)) for row in range(3, MOST + 2)]
    before = model[0].weight.detach().clone()
    step(optimizer, list(model.parameters()), gradients(list(model.parameters()), 99))
    moved = (model[0].weight.detach() - before).abs().amax(dim=1)
    assert 0 < moved[:3].max() <= 0.01 * 1.5


def test_where_cohorts_cross_the_later_born_counts() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2))
    first, second = find_layers(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    surgeon = Surgeon(model, optimizer)
    parameters = list(model.parameters())
    weight = model[2].weight
    step(optimizer, parameters, gradients(parameters, 0))
    surgeon.replace(second, torch.tensor([2]), births(second, 1))
    step(optimizer, parameters, gradients(parameters, 1))
    surgeon.replace(first, torch.tensor([3]), births(first, 1))
    twin = nn.Parameter(weight.detach()[:, 3].clone())  # the column, with its crossing
    row = nn.Parameter(weight.detach()[2, :3].clone())  # the row without it, one step old
    fresh = torch.optim.Adam([twin], lr=0.01)
    older = torch.optim.Adam([row], lr=0.01)
    step(older, [row], [gradients(parameters, 1)[2][2, :3]])
    with torch.no_grad():
        row.copy_(weight[2, :3])
    for number in range(2, 6):
        grads = gradients(parameters, number)
        step(optimizer, parameters, grads)
        step(fresh, [twin], [grads[2][:, 3]])
        step(older, [row], [grads[2][2, :3]])
        assert torch.equal(weight[:, 3], twin)
        assert torch.equal(weight[2, :3], row)


def test_a_parameter_without_a_gradient_does_not_step_and_does_not_age() -> None:
    model, layer, optimizer, surgeon = prepared(OPTIMIZERS["Adam"])
    surgeon.replace(layer, SLOTS, births(layer, 3))
    optimizer.zero_grad()
    before = model[0].weight.detach().clone()
    step(optimizer, [model[0].bias], gradients([model[0].bias], 0))
    assert torch.equal(model[0].weight, before)
    (cohort,) = surgeon.young.cohorts
    assert cohort.counts["producer.weight"] == {}
    assert float(cohort.counts["producer.bias"]["step"]) == 1


@pytest.mark.parametrize("how", ["positional", "by name"])
def test_the_gradients_of_a_closure_are_those_that_count(how: str) -> None:
    results = []
    for with_closure in (True, False):
        model, layer, optimizer, surgeon = prepared(OPTIMIZERS["Adam"])
        surgeon.replace(layer, SLOTS, births(layer, 3))
        parameters = list(model.parameters())
        for number in range(3):

            def closure(number: int = number, parameters: list[Tensor] = parameters) -> str:
                for parameter, grad in zip(parameters, gradients(parameters, number), strict=True):
                    parameter.grad = grad
                return "loss"

            if with_closure:
                optimizer.zero_grad()
                assert (optimizer.step(closure) if how == "positional" else optimizer.step(closure=closure)) == "loss"
            else:
                step(optimizer, parameters, gradients(parameters, number))
        results.append([p.detach().clone() for p in parameters])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_surgery_in_a_hook_that_was_there_first_sees_the_whole_step() -> None:
    def trained(*, early: bool) -> list[Tensor]:
        model = mlp()
        (layer,) = find_layers(model, "0")
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        surgeons: list[Surgeon] = []
        steps: list[int] = []

        def operate(*_: object) -> None:
            steps.append(1)
            if len(steps) in (2, 4):  # one of those who were born first dies at the second
                surgeons[0].resize(layer, torch.arange(1, 8), births(layer, 2))
                surgeons[0].resize(layer, torch.arange(8), births(layer, 1))

        if early:
            optimizer.register_step_post_hook(operate)
        surgeons.append(Surgeon(model, optimizer))
        if not early:
            optimizer.register_step_post_hook(operate)
        for number in range(6):
            step(optimizer, list(model.parameters()), gradients(list(model.parameters()), number))
        return [p.detach().clone() for p in model.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(trained(early=True), trained(early=False), strict=True))


def test_a_step_that_raised_is_no_step() -> None:
    model, layer, optimizer, surgeon = prepared(OPTIMIZERS["Adam"])
    surgeon.replace(layer, SLOTS, births(layer, 3))
    step(optimizer, list(model.parameters()), gradients(list(model.parameters()), 3))
    before = copy.deepcopy(model.state_dict())
    optimizer.param_groups[0]["betas"] = ()
    with pytest.raises(ValueError, match="not enough values to unpack"):
        optimizer.step()
    optimizer.param_groups[0]["betas"] = (0.9, 0.999)
    surgeon.resize(layer, torch.arange(9))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert float(surgeon.young.cohorts[0].counts["producer.weight"]["step"]) == 1


def test_while_it_is_paused_the_young_are_as_the_others() -> None:
    model, layer, optimizer, surgeon = prepared(OPTIMIZERS["Adam"])
    twin = copy.deepcopy(model)
    twin_optimizer = OPTIMIZERS["Adam"](twin.parameters())
    twin_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    surgeon.replace(layer, SLOTS, births(layer, 3))
    other = Surgeon(twin, twin_optimizer)
    other.replace(find_layers(twin, "0")[0], SLOTS, births(layer, 3))
    other.young.close()
    with surgeon.paused():
        step(optimizer, list(model.parameters()), gradients(list(model.parameters()), 3))
    step(twin_optimizer, list(twin.parameters()), gradients(list(twin.parameters()), 3))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert surgeon.young.cohorts[0].counts["producer.weight"] == {}


def test_a_cohort_is_given_up_when_its_corrections_are_as_good_as_one() -> None:
    model, layer, optimizer, surgeon = prepared(lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.3, 0.5)))
    surgeon.replace(layer, SLOTS, births(layer, 3))
    parameters = list(model.parameters())
    for number in range(9):
        step(optimizer, parameters, gradients(parameters, number))
        assert len(surgeon.young.cohorts) == 1
    step(optimizer, parameters, gradients(parameters, 9))  # 0.5 ** 10 < 1e-3
    assert surgeon.young.cohorts == []


def test_before_the_first_step_all_are_new() -> None:
    model, layer, optimizer, surgeon = prepared(OPTIMIZERS["Adam"], old=0)
    surgeon.replace(layer, SLOTS, births(layer, 3))
    assert surgeon.young.cohorts == []
    step(optimizer, list(model.parameters()), gradients(list(model.parameters()), 0))


@pytest.mark.parametrize("make", [lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), lambda p: torch.optim.Adagrad(p)])
def test_optimizers_that_correct_nothing_have_no_young_and_no_hooks(make: Make) -> None:
    _, layer, optimizer, surgeon = prepared(make)
    surgeon.replace(layer, SLOTS, births(layer, 3))
    assert surgeon.young.cohorts == []
    assert not optimizer._optimizer_step_pre_hooks


def test_a_state_that_was_cleared_begins_anew_with_all() -> None:
    model, layer, optimizer, surgeon = prepared(OPTIMIZERS["Adam"])
    surgeon.replace(layer, SLOTS, births(layer, 3))
    step(optimizer, list(model.parameters()), gradients(list(model.parameters()), 3))
    optimizer.state.clear()
    step(optimizer, list(model.parameters()), gradients(list(model.parameters()), 4))
    assert surgeon.young.cohorts == []


class Calling(torch.optim.Adam):
    """A step that calls the one of its base: torch runs the hooks for both."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


def test_a_subclass_whose_step_calls_the_one_of_its_base_steps_once_and_no_hook_sees_another_optimizer() -> None:
    found = []
    for kind in (torch.optim.Adam, Calling):
        model, layer, optimizer, surgeon = prepared(lambda p, kind=kind: kind(p, lr=0.01))
        surgeon.replace(layer, SLOTS, births(layer, 3))
        stepped: list[Optimizer] = []
        own = optimizer.register_step_post_hook(lambda by, *_, stepped=stepped: stepped.append(by))
        every = register_optimizer_step_post_hook(lambda by, *_, stepped=stepped: stepped.append(by))
        by_class = kind is torch.optim.Adam  # the step of a base is one that torch shows to the hooks of all
        for number in range(3):
            step(optimizer, list(model.parameters()), gradients(list(model.parameters()), number))
        own.remove()
        every.remove()
        assert sum(by is optimizer for by in stepped) == (6 if by_class else 12)
        assert len(stepped) == (6 if by_class else 15)
        found.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_grad_scaler_that_leaves_the_division_to_the_optimizer_is_heeded() -> None:
    """A fused optimizer divides the gradients, and skips the step where one is infinite."""
    model, layer, optimizer, surgeon = prepared(OPTIMIZERS["AdamW, fused"])
    twin, twin_layer, twin_optimizer, twin_surgeon = prepared(OPTIMIZERS["AdamW, fused"])
    for by, of in ((surgeon, layer), (twin_surgeon, twin_layer)):
        by.replace(of, SLOTS, births(of, 3))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1000)
    scaler.scale(torch.ones(()))
    for number in (0, 1, 2):
        grads = gradients(list(model.parameters()), number)
        bad = number == 1
        for parameter, grad in zip(model.parameters(), grads, strict=True):
            parameter.grad = grad * 4.0
        if bad:
            model[0].weight.grad[0, 0] = torch.inf
        before = copy.deepcopy(model.state_dict())
        scaler.step(optimizer)
        scaler.update(4.0)
        if bad:
            assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        else:
            step(twin_optimizer, list(twin.parameters()), grads)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize(
    ("rows", "name", "make", "why"),
    [
        ([9], "0", OPTIMIZERS["Adam"], "a young neuron in row 9 of '0', which has 9: first resize"),
        ([1], "blocks.0", OPTIMIZERS["Adam"], "young neurons of 'blocks.0', which is not among 0"),
        ([1], "0", lambda p: torch.optim.SGD(p, lr=0.1), "which SGD does not give them"),
    ],
)
def test_a_state_of_another_run_is_an_error(rows: list[int], name: str, make: Make, why: str) -> None:
    _, layer, _, surgeon = prepared(make)
    saved = {"cohorts": [{"layer": name, "rows": torch.tensor(rows), "counts": {"producer.weight": {}}}]}
    with pytest.raises(TurnoverError, match=why):
        surgeon.young.load_state_dict(saved, [layer])
    assert surgeon.young.cohorts == []


def test_closing_takes_the_hooks_off() -> None:
    _, layer, optimizer, surgeon = prepared(OPTIMIZERS["Adam"])
    surgeon.replace(layer, SLOTS, births(layer, 3))
    surgeon.close()
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert surgeon.young.cohorts == []
