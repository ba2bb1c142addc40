"""The reference in float64, the state that is compared, and the timer, on real steps."""

from __future__ import annotations

import copy

import pytest
import torch

from bfo_diag.cases import char_transformer, digits_mlp
from bfo_diag.probes.bench import compare, work
from bfo_diag.probes.bench.arms import CONTROL, EAGER, REFERENCE
from bfo_diag.probes.bench.reference import InFloat64, arrays, state_of, widen
from bfo_diag.records import Case
from bfo_diag.subject import Subject


@pytest.mark.parametrize("make", [digits_mlp.train_step, char_transformer.train_step])
def test_the_reference_does_the_same_steps_in_float64(make):
    narrow, wide = make(), make()
    state = state_of(wide)
    step, holding = work._step_of(Subject(wide, wide.step), REFERENCE, False)
    with holding:
        widen(state)
        for number in range(3):
            step(number)
    assert torch.get_default_dtype() == torch.float32
    for _ in range(3):
        narrow.step()
    assert {tensor.dtype for tensor in state.values()} == {torch.float64}
    found = compare.difference(arrays(state_of(narrow), []), arrays(state, []))
    assert 0 < found.value < 1e-3


def test_float64_is_what_an_independent_float64_model_computes():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    twin = copy.deepcopy(model).double()
    x = torch.randn(32, 8)
    loss_twin = twin(x.double()).square().mean()
    loss_twin.backward()
    widen(dict(model.named_parameters()))
    with InFloat64():
        loss = model(x).square().mean()
        loss.backward()
    assert loss.dtype == torch.float64
    assert loss.item() == loss_twin.item()
    for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)


WEIGHT = torch.ones(3, requires_grad=True)


def test_the_state_of_a_plain_step_is_found_by_what_it_names():
    model = torch.nn.Linear(2, 2)

    def step():
        return model(torch.ones(2)).sum() + WEIGHT.sum()

    assert set(state_of(Case(step=step))) == {"model.weight", "model.bias", "WEIGHT"}


def test_a_difference_is_relative_and_names_its_tensor():
    import numpy as np

    first = {"a": np.array([1.0, 2.0]), "b": np.array([3.0])}
    assert compare.difference(first, first).value == 0
    found = compare.difference(first, {**first, "b": np.array([3.3])})
    assert (round(found.value, 3), found.where) == (0.091, "b")
    assert compare.difference(first, {"a": first["a"]}).value == float("inf")
    assert compare.difference(first, {**first, "b": np.array([np.nan])}).value == float("inf")
    nans = {"a": np.array([np.nan, 1.0])}
    assert compare.difference(nans, nans).value == 0


def test_every_arm_gets_as_many_blocks_each_long_enough_and_no_fixed_neighbour():
    seen: list[str] = []
    steps = {name: (lambda number, name=name: seen.append(name)) for name in (EAGER, "mode", CONTROL)}
    timer = work._Timer(steps, "cpu")
    for arm in steps:
        timer.warm_up(arm)
        timer.steps_per_block[arm] = 1
    seen.clear()
    timer.run(0.05, seed=0)
    rounds = [seen[index : index + 3] for index in range(0, len(seen), 3)]
    assert all(sorted(row) == sorted(steps) for row in rounds)
    assert all(rounds[index + 1] == rounds[index][::-1] for index in range(0, len(rounds) - 1, 2))
    assert len({tuple(row) for row in rounds}) > 2
    assert {len(times) for times in timer.times.values()} == {len(rounds)}


@pytest.mark.compile
def test_a_block_with_a_compile_in_it_is_thrown_away():
    torch.compiler.reset()
    compiled = torch.compile(lambda x, size: x[:size] + size, backend="eager", dynamic=False)
    x = torch.ones(500)
    steps = {EAGER: lambda number: x.sum(), "mode": lambda number: compiled(x, number), CONTROL: lambda n: x.sum()}
    timer = work._Timer(steps, "cpu")
    timer.run(0.01, seed=0)
    assert timer.thrown_away["mode"] >= 6
    assert timer.times["mode"][:6] == [None] * 6
    assert timer.thrown_away[EAGER] == 0
    torch.compiler.reset()
