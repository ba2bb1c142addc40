"""The reference in float64, the state that is compared, and the timer, on real steps."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch

from bfo_diag.cases import char_transformer, digits_mlp
from bfo_diag.cases.optimizer_step import optimizer_case
from bfo_diag.child import ChildRequest
from bfo_diag.probes.bench import compare, work
from bfo_diag.probes.bench.arms import CONTROL, EAGER, REFERENCE
from bfo_diag.probes.bench.reference import InFloat64, arrays, kept, state_of, widen
from bfo_diag.records import Case
from bfo_diag.subject import Subject
from bfo_diag.torch_state import as_it_was


@pytest.mark.parametrize("make", [digits_mlp.train_step, char_transformer.train_step])
def test_the_reference_does_the_same_steps_in_float64(make):
    narrow, wide = make(), make()
    state = state_of(wide)
    step, holding = work._step_of(Subject(wide, wide.step), REFERENCE)
    with holding:
        widen(state)
        for number in range(3):
            step(number)
    assert torch.get_default_dtype() == torch.float32
    for _ in range(3):
        narrow.step()
    assert {tensor.dtype for tensor in state.values()} == {torch.float64}
    apart = compare.differences(arrays(state_of(narrow), []), arrays(state, []))
    weights = [value for name, value in apart.items() if name.startswith("state:")]
    assert 0 < max(weights) < 1e-2
    assert any(name.startswith("gradient:") for name in apart)


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


def test_each_tensor_is_judged_by_what_eager_differs_there():
    one, two = np.array([1.0, 2.0]), np.array([3.0])
    reference = {"a": one, "b": two}
    eager = {"a": one * (1 + 1e-4), "b": two * (1 + 1e-7)}
    assert compare.judge(eager, eager, reference).ok
    judged = compare.judge({**eager, "b": two * (1 + 1e-4)}, eager, reference)
    assert (judged.ok, judged.where) == (False, "b")
    assert compare.judge({**eager, "a": one * (1 + 5e-4)}, eager, reference).ok
    assert compare.judge({"a": eager["a"]}, eager, reference).ok is False
    assert compare.judge({**eager, "b": np.array([np.nan])}, eager, reference).ok is False


def test_what_eager_itself_cannot_reproduce_is_not_judged():
    reference = {"zero": np.array([1e-9]), "w": np.array([1.0])}
    eager = {"zero": np.array([5e-9]), "w": np.array([1.0])}
    judged = compare.judge({"zero": np.array([-7e-9]), "w": np.array([1.0])}, eager, reference)
    assert (judged.ok, judged.ill_conditioned) == (True, 1)


def test_nothing_to_compare_is_not_the_same():
    judged = compare.judge({}, {}, {})
    assert judged.ok is None
    assert "nothing" not in judged.where
    assert "returns and trains nothing" in judged.why


def test_all_that_a_step_returns_and_its_gradients_are_compared():
    weight = torch.ones(2, requires_grad=True)
    (weight * 3).sum().backward()
    found = arrays({"w": weight}, [kept({"loss": torch.tensor(1.5), "parts": (2.0, torch.ones(2))})])
    assert set(found) == {"state:w", "gradient:w", "returned:step 1:0", "returned:step 1:1", "returned:step 1:2"}


def test_a_bare_optimizer_step_takes_its_gradients_along_into_float64():
    case = optimizer_case(torch.optim.SGD)
    state = state_of(case)
    before = {name: tensor.detach().clone() for name, tensor in state.items()}
    step, holding = work._step_of(Subject(case, case.step), REFERENCE)
    with holding:
        widen(state)
        step(0)
    assert all(not torch.equal(state[name].float(), before[name]) for name in state)


def test_pairs_have_done_the_same_calls():
    seen: dict[str, list[int]] = {EAGER: [], "mode": [], CONTROL: []}
    timer = work._Timer({arm: calls.append for arm, calls in seen.items()}, shapes=3)
    for arm in seen:
        timer.warm_up(arm)
        timer.steps_per_block[arm] = {EAGER: 3, "mode": 9, CONTROL: 6}[arm]
    timer.equalise()
    for calls in seen.values():
        calls.clear()
    timer.run(0.01, seed=0)
    assert seen[EAGER] == seen["mode"] == seen[CONTROL]
    assert seen[EAGER][:9] == list(range(9))


def test_every_arm_gets_as_many_blocks_each_long_enough_and_no_fixed_neighbour():
    seen: list[str] = []
    steps = {name: (lambda number, name=name: seen.append(name)) for name in (EAGER, "mode", CONTROL)}
    timer = work._Timer(steps)
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
    x = torch.ones(500)

    def compiles_anew(number):
        torch.compiler.reset()
        torch.compile(lambda y: y * 2, backend="eager")(x)

    steps = {EAGER: lambda number: x.sum(), "mode": compiles_anew, CONTROL: lambda number: x.sum()}
    timer = work._Timer(steps)
    timer.run(0.01, seed=0)
    assert timer.thrown_away["mode"] >= 6
    assert timer.times["mode"][:6] == [None] * 6
    assert timer.thrown_away[EAGER] == 0
    torch.compiler.reset()


@pytest.mark.compile
def test_arms_of_one_process_do_not_share_the_recompile_limit(targets_folder, fresh_imports):
    request = ChildRequest(f"{targets_folder}/compile_steps.py:four_strings", (), "cpu", 0)
    arms = [EAGER, "backend:eager", "backend:aot_eager", "backend:aot_eager_decomp_partition"]
    with as_it_was(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = work._graphs()
        how = {"arms": arms, "process": 0, "seconds": 0.1, "factory": True, "compiles_itself": False}
        list(work.measure(request, **how))
        # four calls compiled by each of three backends; torch's own limit is 8 in all
        assert work._graphs() - before == 12
