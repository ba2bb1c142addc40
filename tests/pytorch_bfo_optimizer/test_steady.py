"""`SteadyClosure`: candidates of one step are compared under the same conditions, and the step moves them on once."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bfo_diag.cases.digits_mlp import digits
from pytorch_bfo_optimizer import BFO, HybridBFO, ModelObjective
from pytorch_bfo_optimizer.errors import ObjectiveError
from pytorch_bfo_optimizer.steady import SteadyClosure, steady_step


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3), nn.Linear(12, 10))


def loss_of(model: nn.Module, *, backward: bool = False) -> Callable[[], Tensor]:
    x, y = digits()
    x, y = x[:64], y[:64]

    def closure() -> Tensor:
        model.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        if backward:
            loss.backward()
        return loss

    return closure


def test_the_same_parameters_give_the_same_loss_within_a_step_and_another_in_the_next() -> None:
    model = network()
    closure = loss_of(model)
    assert closure().item() != closure().item()  # another mask at each call
    first = SteadyClosure(closure, model)
    losses = [first().item() for _ in range(4)]
    assert len(set(losses)) == 1
    assert SteadyClosure(closure, model)().item() != losses[0]
    assert first.evaluations == 4


def test_random_state_and_statistics_end_where_one_training_step_leaves_them() -> None:
    model, plain = network(), network()
    optimizer = BFO(model.parameters(), population_size=4, swim_length=1, generator=torch.Generator().manual_seed(2))
    torch.manual_seed(5)
    closure, losses = loss_of(model), []
    loss = steady_step(optimizer, lambda: losses.append(closure().item()) or losses[-1], model)
    assert losses.index(min(losses)) < optimizer.evaluations - 1  # the best was not the last to be evaluated
    assert loss == min(losses)
    after = torch.get_rng_state()

    plain.load_state_dict({**plain.state_dict(), **dict(model.named_parameters())})  # where the step ended
    torch.manual_seed(5)
    with torch.no_grad():
        loss_of(plain)()
    assert torch.equal(after, torch.get_rng_state())
    for name, buffer in plain.named_buffers():
        assert torch.equal(buffer, dict(model.named_buffers())[name]), name
    assert int(model[1].num_batches_tracked) == 1


def test_one_evaluation_is_not_repeated() -> None:
    model = network()
    calls: list[int] = []
    closure = loss_of(model)
    optimizer = torch.optim.Adam(model.parameters())

    def counted() -> Tensor:
        calls.append(1)
        loss = closure()
        loss.backward()
        return loss

    steady_step(optimizer, counted, model)
    assert len(calls) == 1
    assert int(model[1].num_batches_tracked) == 1


def test_a_step_settles_without_backward_and_keeps_the_gradients() -> None:
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4)
    found: list[Tensor] = []
    closure = loss_of(model, backward=True)

    def kept() -> Tensor:
        loss = closure()
        found.append(next(model.parameters()).grad.clone())  # type: ignore[union-attr]
        return loss

    steady_step(optimizer, kept, model)
    assert len(found) > 2
    gradient = next(model.parameters()).grad
    assert gradient is not None
    assert any(torch.equal(gradient, seen) for seen in found)
    assert int(model[1].num_batches_tracked) == 1


def test_hybrid_steps_are_those_of_a_model_without_randomness() -> None:
    losses = []
    for steady in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))
        optimizer = HybridBFO(model.parameters(), population_size=4, generator=torch.Generator().manual_seed(1))
        closure = loss_of(model, backward=True)
        losses.append([steady_step(optimizer, closure, model) if steady else optimizer.step(closure) for _ in range(6)])
    assert losses[0] == losses[1]


def test_what_the_closure_raises_leaves_random_state_and_buffers_as_they_were() -> None:
    model = network()
    optimizer = BFO(model.parameters(), population_size=4)
    closure = loss_of(model)
    calls: list[int] = []

    def failing() -> Tensor:
        calls.append(1)
        loss = closure()
        if len(calls) == 3:
            raise KeyError("mine")
        return loss

    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    with pytest.raises(KeyError, match="mine"):
        steady_step(optimizer, failing, model)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


class Replacing(nn.Module):
    """Counts its calls in a buffer that it replaces, and does not write into."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("unused", None)

    def forward(self) -> Tensor:
        self.calls = self.calls + 1
        return (self.weight * self.calls).sum()


def test_a_buffer_that_is_replaced_is_held_too() -> None:
    model = Replacing()
    steady = SteadyClosure(model, [model, model])
    assert [steady().item() for _ in range(3)] == [2.0, 2.0, 2.0]
    steady.settle()
    assert float(model.calls) == 1


def test_expanded_and_late_buffers_are_held() -> None:
    model = nn.Linear(2, 1)
    model.register_buffer("mask", torch.ones(1, 1).expand(4, 2))
    model.register_buffer("average", None)

    def closure() -> Tensor:
        first = model.average is None
        model.average = torch.ones(()) if first else model.average + 1
        return (model.mask @ model.weight.T).sum() + model.average

    steady = SteadyClosure(closure, model)
    assert len({steady().item() for _ in range(3)}) == 1
    steady.put_back()
    assert model.average is None
    steady()
    steady.settle()
    assert float(model.average) == 1


def test_buffers_that_never_move_cost_no_evaluation() -> None:
    model = network().eval()
    calls: list[int] = []
    closure = loss_of(model)
    steady = SteadyClosure(lambda: (calls.append(1), closure())[1], model)
    steady()
    steady()
    steady.settle()
    assert len(calls) == 2


def test_a_batched_objective_is_refused_with_its_own_way() -> None:
    x, y = digits()
    model = nn.Linear(64, 10)
    objective = ModelObjective(model, nn.functional.cross_entropy, (x, y))
    with pytest.raises(ObjectiveError, match=r'ModelObjective evaluates all .*randomness="same"'):
        SteadyClosure(objective, model)
