from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytorch_bfo_optimizer import TurnoverError, TurnoverRefusedError
from pytorch_bfo_optimizer.turnover import Continuous, Every, Never, Once, Selector, TurnoverEvent, TurnoverManager
from pytorch_bfo_optimizer.turnover.initialisers.fade import Fade
from pytorch_bfo_optimizer.turnover.selectors.utility import Utility
from pytorch_bfo_optimizer.turnover.selectors.weight import Weight
from pytorch_bfo_optimizer.turnover.view import View

Make = Callable[..., Any]


def happened(manager: TurnoverManager) -> list[tuple[Any, ...]]:
    return [(event.step, event.layer, event.kind, event.neurons, event.slots) for event in manager.events]


# What an event says


def test_a_replacement_is_a_death_and_a_birth(digits: Make) -> None:
    training, told = digits(), []
    manager = TurnoverManager(
        training.model,
        training.optimizer,
        layers="0",
        select="weight",
        replace="mutation",
        schedule=Every(3),
        fraction=0.125,
        on_event=[told.append],
    )
    before = training.model[0].weight.detach().clone()
    training.run(2)
    assert manager.events == []
    training.run(4)
    assert [(event.step, event.kind) for event in manager.events] == [
        (3, "death"),
        (3, "birth"),
        (6, "death"),
        (6, "birth"),
    ]
    death, birth = manager.events[:2]
    assert death.slots == birth.slots == death.neurons
    assert len(death.neurons) == 3
    assert birth.neurons == (24, 25, 26)
    assert all(len(parents) == 1 and parents[0] not in death.neurons for parents in birth.parents)
    assert death.parents == ((), (), ())
    assert death.why.startswith("lowest weight norm, ")
    assert birth.why == "mutation, noise of 0.3 standard deviations"
    assert (death.width, birth.width) == (24, 24)
    assert manager.events == told
    assert [TurnoverEvent.of(json.loads(json.dumps(event.plain()))) for event in told] == told
    assert manager.lineage.edges()[:3] == tuple(("0", parents[0], 24 + n) for n, parents in enumerate(birth.parents))
    assert before.shape == training.model[0].weight.shape


def test_the_lowest_scores_die(digits: Make) -> None:
    training = digits()
    scores: list[Tensor] = []

    def note(*args: object) -> None:
        incoming, outgoing = training.model[0].weight.detach(), training.model[4].weight.detach()
        scores.append(incoming.norm(dim=1) * outgoing.norm(dim=0))

    training.optimizer.register_step_post_hook(note)  # it is called before the manager's
    manager = TurnoverManager(
        training.model, training.optimizer, select="weight", replace="zero_outgoing", schedule=Once(2), fraction=0.1
    )
    training.run(3)
    death, birth, *_ = manager.events
    assert death.slots == birth.slots == tuple(scores[1].argsort()[:2].tolist())
    low, high = scores[1][list(death.slots)].tolist()
    assert death.why == f"lowest weight norm, {low:.3g} to {high:.3g}"
    assert {event.step for event in manager.events} == {2}


def test_what_was_measured_stands_in_the_events(digits: Make) -> None:
    training = digits()
    measured: list[float] = []

    def measure() -> Tensor:
        assert not torch.is_grad_enabled()
        assert not any(module.training for module in training.model.modules())
        torch.rand(3)
        training.model[0].train()
        measured.append(training.loss_of(training.held).item())
        return torch.tensor(measured[-1])

    states = []
    training.optimizer.register_step_post_hook(lambda *args: states.append(torch.get_rng_state()))
    manager = TurnoverManager.preset("standard", training.model, training.optimizer, every=4, measure=measure)
    training.optimizer.register_step_post_hook(lambda *args: states.append(torch.get_rng_state()))
    training.run(3)
    assert measured == []
    training.model[2].eval()  # somebody's own choice
    training.optimizer.zero_grad()
    training.loss_of(training.drawn(32)).backward()
    training.optimizer.step()
    assert torch.equal(*states[-2:])
    assert [module.training for module in training.model] == [True, True, False, True, True, True, True]
    assert len(measured) == 2
    assert {(event.loss_before, event.loss_after) for event in manager.events} == {tuple(measured)}
    assert measured[0] != measured[1]
    summary = manager.summary()
    assert summary["jumps"] == 1
    assert summary["jump_mean"] == summary["jump_max"] == measured[1] - measured[0]


def test_an_error_of_the_users_is_passed_on_and_the_record_is_whole(digits: Make) -> None:
    training = digits()
    losses = iter([1.5])
    manager = TurnoverManager.preset(
        "standard", training.model, training.optimizer, every=2, measure=lambda: next(losses)
    )
    training.run(1)
    with pytest.raises(StopIteration):
        training.run(1)
    assert [event.kind for event in manager.events] == ["death", "birth"] * 2
    assert {(event.loss_before, event.loss_after) for event in manager.events} == {(1.5, None)}
    assert manager.lineage.founders_alive() < manager.summary()["founders"]
    assert manager.summary()["jump_mean"] is None
    assert training.model.training


# Growth


@pytest.mark.parametrize(("grow_to", "widths"), [(1.3, [26, 28, 30, 31, 31]), (29, [26, 28, 29, 29, 29])])
def test_the_cap_is_exact(grow_to: float | int, widths: list[int], digits: Make) -> None:
    training = digits()
    manager = TurnoverManager(
        training.model,
        training.optimizer,
        layers="0",
        select=None,
        replace="zero_outgoing",
        schedule=Every(2),
        fraction=0.08,
        grow_to=grow_to,
    )
    seen = []
    for _ in range(5):
        training.run(2)
        seen.append(manager.widths["0"])
    assert seen == widths
    assert training.model[0].weight.shape == (widths[-1], 64)
    assert training.model[1].num_features == training.model[4].in_features == widths[-1]
    assert {event.kind for event in manager.events} == {"birth"}
    assert sum(len(event.neurons) for event in manager.events) == widths[-1] - 24
    assert manager.events[-1].step == (8 if widths[-1] == 31 else 6)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("grow", ["newborn", "split"])
@pytest.mark.parametrize("data", ["digits", "text"])
def test_growth_changes_nothing(
    data: str, grow: str, dtype: torch.dtype, most: float, request: pytest.FixtureRequest
) -> None:
    training = request.getfixturevalue(data)(dtype=dtype)
    outputs: list[Tensor] = []

    def measure() -> float:
        outputs.append(training.outputs())
        return 0.0

    manager = TurnoverManager.preset(
        "growth", training.model, training.optimizer, every=3, fraction=0.4, grow_to=1.3, grow=grow, measure=measure
    )
    training.run(4)
    assert outputs[0].dtype == dtype
    assert (outputs[0] - outputs[1]).abs().max() <= most
    assert manager.summary()["births"] > 0
    training.run(3)


def test_twins_stay_twins_and_newborn_neurons_do_not(text: Make) -> None:
    """An elementwise optimizer gives twins the same updates: Net2Wider without dropout or noise trains nothing new."""
    weights = {}
    for grow in ("split", "newborn"):
        training = text()
        manager = TurnoverManager.preset(
            "growth", training.model, training.optimizer, every=2, fraction=0.1, grow_to=70, grow=grow
        )
        training.run(12)
        (event,) = manager.events
        linear = training.model.get_submodule(event.layer)
        weights[grow] = linear.weight.detach(), event
    weight, event = weights["split"]
    for slot, (parent,) in zip(event.slots, event.parents, strict=True):
        torch.testing.assert_close(weight[slot], weight[parent], rtol=0, atol=1e-6)
    weight, event = weights["newborn"]
    assert event.parents == ((),) * 6
    distances = torch.cdist(weight[list(event.slots)], weight) + torch.eye(70)[list(event.slots)]
    assert distances.min() > 0.1


def test_neurons_can_die_and_be_added_at_once(digits: Make) -> None:
    training = digits()
    manager = TurnoverManager(
        training.model, training.optimizer, layers="4", schedule=Every(2), fraction=0.125, grow_to=20, replace="fold"
    )
    training.run(6)
    assert manager.widths == {"4": 20}
    assert [(event.kind, len(event.neurons), event.width) for event in manager.events[:3]] == [
        ("death", 2, 16),
        ("birth", 2, 16),
        ("birth", 2, 18),
    ]


# Fading, and all along


def test_what_fades_shrinks_in_a_straight_line_and_is_then_reborn(digits: Make) -> None:
    training = digits()
    training.optimizer = torch.optim.SGD(training.model.parameters(), lr=0.0)  # so that nothing else moves
    manager = TurnoverManager(
        training.model,
        training.optimizer,
        layers="0",
        select=Weight(),
        replace=Fade(over=4),
        schedule=Once(2),
        fraction=0.05,
    )
    first = training.model[4].weight.detach().clone()
    shares = []
    for _ in range(6):
        training.step()
        fading = manager.events[0].slots[0] if manager.events else None
        shares.append(None if fading is None else (training.model[4].weight[:, fading] / first[:, fading]).tolist())
    assert shares[0] is None
    for share, expected in zip(shares[1:], [0.75, 0.5, 0.25, 0.0, 0.0], strict=True):
        assert share == pytest.approx([expected] * 16)
    assert [(event.step, event.kind, event.neurons) for event in manager.events] == [
        (2, "fade", manager.events[0].neurons),
        (5, "death", manager.events[0].neurons),
        (5, "birth", (24,)),
    ]
    assert manager.events[1].why == "faded over 4 steps"
    others = [slot for slot in range(24) if slot != manager.events[0].slots[0]]
    assert torch.equal(training.model[4].weight[:, others], first[:, others])


def test_what_fades_is_not_chosen_again(digits: Make) -> None:
    training = digits()
    manager = TurnoverManager(
        training.model, training.optimizer, select="weight", replace=Fade(over=50), schedule=Every(1), fraction=0.1
    )
    training.run(20)
    for layer in ("0", "4"):
        faded = [neuron for event in manager.events if event.layer == layer for neuron in event.neurons]
        assert len(faded) == len(set(faded)) == manager.widths[layer] - 1  # one always survives
    assert {event.kind for event in manager.events} == {"fade"}


def test_a_continuous_rate_adds_up_to_whole_neurons(digits: Make) -> None:
    training = digits()
    manager = TurnoverManager(
        training.model,
        training.optimizer,
        layers="0",
        select=Utility(maturity=100),
        replace="zero_outgoing",
        schedule=Continuous(1 / 64),
    )
    training.run(8)
    # 24 eligible: 0.375 a step; 23 after the first death
    owed, eligible, steps = 0.0, 24, []
    for step in range(1, 9):
        owed += eligible / 64
        if owed >= 1:
            owed, eligible = owed - 1, eligible - 1
            steps.append(step)
    assert [event.step for event in manager.events if event.kind == "death"] == steps == [3, 6]
    assert all(len(event.neurons) == 1 for event in manager.events)


def test_what_is_gathered_turns_over_at_once(digits: Make) -> None:
    training = digits()
    manager = TurnoverManager(
        training.model,
        training.optimizer,
        layers="0",
        select=Utility(maturity=100),
        replace="zero_outgoing",
        schedule=Continuous(1 / 64, gather=4),
    )
    training.run(9)
    deaths = [(event.step, len(event.neurons)) for event in manager.events if event.kind == "death"]
    assert deaths == [(4, 1), (8, 1)]  # 24 * 4 / 64 = 1.5, and then 0.5 + 23 * 4 / 64 = 1.94


def test_a_newborn_of_which_nothing_was_seen_yet_stays(digits: Make) -> None:
    training = digits()
    manager = TurnoverManager(
        training.model,
        training.optimizer,
        layers="0",
        select="gradient",
        replace="zero_outgoing",
        schedule=Every(1),
        fraction=0.04,
    )
    training.step()
    training.optimizer.zero_grad()
    training.optimizer.step()
    first, second = (event.neurons for event in manager.events if event.kind == "death")
    assert second[0] < 24  # another founder, and not the newborn with what was known of the dead
    assert first != second


def test_births_equal_deaths_in_hybrid_and_the_width_stays(text: Make) -> None:
    training = text()
    manager = TurnoverManager.preset("hybrid", training.model, training.optimizer, every=3, fraction=0.1)
    shapes = [parameter.shape for parameter in training.model.parameters()]
    training.run(9)
    assert [parameter.shape for parameter in training.model.parameters()] == shapes
    for step in (3, 6, 9):
        death, birth = (event for event in manager.events if event.step == step)
        assert (death.kind, birth.kind) == ("death", "birth")
        assert death.slots == birth.slots
        assert len(death.neurons) == len(birth.neurons) == 6
        assert {parent for parents in birth.parents for parent in parents}.isdisjoint(death.neurons)
        assert death.width == birth.width == 64


# Little disruption


@pytest.mark.parametrize("data", ["mlp", "text"])
def test_the_jump_of_a_fold_is_at_most_a_twentieth_of_the_naive_one(data: str, digits: Make, text: Make) -> None:
    def jump(replace: str) -> float:
        training = text() if data == "text" else digits(model="mlp")
        manager = TurnoverManager(
            training.model,
            training.optimizer,
            replace=replace,
            schedule=Every(70),
            fraction=0.1,
            measure=training.evaluate,
        )
        training.run(140)
        pairs = {event.step: (event.loss_before, event.loss_after) for event in manager.events}
        return sum(abs(after - before) for before, after in pairs.values()) / len(pairs)

    naive = jump("mutation")
    assert jump("fold") <= 0.05 * naive
    assert jump("offspring") <= 0.05 * naive


# What is observed


def twice(make: Make, between: Callable[[Any], None], preset: str) -> list[tuple[list[Any], list[Tensor]]]:
    """Train alike but for what is done between two steps, and return what happened, and the weights."""
    found = []
    for does in (False, True):
        training = make()
        manager = TurnoverManager.preset(preset, training.model, training.optimizer, every=4, fraction=0.1)
        for _ in range(8):
            training.step()
            if does:
                between(training)
        found.append((happened(manager), list(training.model.state_dict().values())))
    return found


def evaluate(training: Any) -> None:
    training.evaluate()  # in eval mode, without gradients
    training.model(training.held.inputs).sum().backward()
    training.optimizer.zero_grad()
    training.model.train()
    with torch.no_grad():
        training.model(training.held.inputs)


@pytest.mark.parametrize("preset", ["hybrid", "functional", "distillation"])
def test_no_evaluation_counts_for_fitness_or_folds(preset: str, text: Make) -> None:
    (plainly, weights), (evaluated, others) = twice(text, evaluate, preset)
    assert len(plainly) == 4
    assert plainly == evaluated
    assert all(torch.equal(one, other) for one, other in zip(weights, others, strict=True))


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("select", ["gradient", "gradient_activation"])
def test_gradients_are_read_before_they_are_cleared(select: str, set_to_none: bool, digits: Make) -> None:
    found = []
    for clears in (False, True):
        training = digits()
        manager = TurnoverManager(training.model, training.optimizer, select=select, schedule=Every(3), fraction=0.1)
        for _ in range(6):
            training.step()
            if clears:
                training.optimizer.zero_grad(set_to_none=set_to_none)
        found.append((happened(manager), [event.why for event in manager.events]))
    assert found[0] == found[1]
    assert len(found[0][0]) == 8


@pytest.mark.parametrize("select", ["gradient_activation", "utility"])
def test_accumulated_backward_passes_are_one_step(select: str, text: Make) -> None:
    why = []
    for parts in (1, 2):
        training = text()
        manager = TurnoverManager(training.model, training.optimizer, select=select, schedule=Every(2), fraction=0.1)
        for _ in range(2):
            training.optimizer.zero_grad()
            batch = training.drawn(32)
            for inputs, targets in zip(batch.inputs.chunk(parts), batch.targets.chunk(parts), strict=True):
                logits = training.model(inputs)
                (nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten()) / parts).backward()
            training.optimizer.step()
        assert manager.steps == 2
        why.append([(event.neurons, event.why) for event in manager.events if event.kind == "death"])
    assert why[0] == why[1]


def test_a_closure_makes_the_gradients_during_the_step(digits: Make) -> None:
    found = []
    for how in ("loop", "closure", "keyword"):
        training = digits()
        manager = TurnoverManager.preset("functional", training.model, training.optimizer, every=3, fraction=0.1)

        def closure(training: Any = training) -> Tensor:
            training.optimizer.zero_grad()
            loss = training.loss_of(training.drawn(32))
            loss.backward()
            return loss

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for _ in range(6):
                if how == "loop":
                    closure()
                    training.optimizer.step()
                elif how == "closure":
                    assert training.optimizer.step(closure).item() > 0
                else:
                    training.optimizer.step(closure=closure)
        found.append((happened(manager), [value.tolist() for value in training.model.parameters()]))
    assert found[0] == found[1] == found[2]
    assert found[0][0]


def test_a_step_that_the_scaler_skips_is_none(digits: Make) -> None:
    for fused in (False, True):
        training = digits()
        training.optimizer = torch.optim.AdamW(training.model.parameters(), lr=1e-3, fused=fused)
        manager = TurnoverManager(training.model, training.optimizer, schedule=Every(1), fraction=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        for factor in (1.0, float("inf"), 1.0):
            training.optimizer.zero_grad()
            scaler.scale(training.loss_of(training.drawn(32)) * factor).backward()
            scaler.step(training.optimizer)
            scaler.update()
        assert manager.steps == 2
        assert [event.step for event in manager.events] == [1] * 4 + [2] * 4


def test_scaled_gradients_of_a_fused_optimizer_are_read_as_they_are_used(digits: Make) -> None:
    why = []
    for scale in (1.0, 2.0**12):
        training = digits()
        training.optimizer = torch.optim.AdamW(training.model.parameters(), lr=1e-3, fused=True)
        manager = TurnoverManager(training.model, training.optimizer, schedule=Every(2), fraction=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for _ in range(4):
                training.optimizer.zero_grad()
                scaler.scale(training.loss_of(training.drawn(32))).backward()
                scaler.step(training.optimizer)
                scaler.update()
        why.append([event.why for event in manager.events if event.kind == "death"])
    assert why[0] == why[1]


def test_a_step_that_calls_that_of_its_base_is_one(digits: Make) -> None:
    class Twice(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)

    training = digits()
    training.optimizer = Twice(training.model.parameters(), lr=0.1)
    manager = TurnoverManager(training.model, training.optimizer, schedule=Every(2))
    training.run(4)
    assert manager.steps == 4
    assert {event.step for event in manager.events} == {2, 4}


def test_a_paused_step_counts_for_nothing(text: Make) -> None:
    whys = []
    for tries in (0, 2):
        training = text()
        training.optimizer = torch.optim.SGD(training.model.parameters(), lr=0.1)
        manager = TurnoverManager.preset("hybrid", training.model, training.optimizer, every=2, fraction=0.1)
        training.run(1)
        before, order = copy.deepcopy(training.model.state_dict()), training.order.get_state()
        with manager.paused():
            training.run(tries)
        assert (manager.steps, manager.events) == (1, [])
        training.model.load_state_dict(before)
        training.order.set_state(order)
        training.run(3)
        assert manager.steps == 4
        whys.append([(event.neurons, event.why) for event in manager.events])
    assert whys[0] == whys[1]
    assert len(whys[0]) == 4


def test_closing_takes_all_hooks_off(digits: Make) -> None:
    training = digits()

    def hooks() -> int:
        modules = [(one._forward_pre_hooks, one._forward_hooks) for one in training.model.modules()]
        optimizer = (training.optimizer._optimizer_step_pre_hooks, training.optimizer._optimizer_step_post_hooks)
        return sum(len(held) for pair in (*modules, optimizer) for held in pair)

    with TurnoverManager.preset("hybrid", training.model, training.optimizer, every=2) as manager:
        assert hooks() > 0
        training.run(2)
    assert hooks() == 0
    recorded = len(manager.events)
    training.run(4)
    assert len(manager.events) == recorded
    manager.close()
    assert manager.summary()["births"] > 0


# What is refused


def test_layers_and_optimizers_that_do_not_fit_are_refused(digits: Make) -> None:
    training = digits()
    with pytest.raises(TurnoverError, match="matches no module"):
        TurnoverManager(training.model, training.optimizer, layers="blocks.*")
    with pytest.raises(TurnoverError, match="matches no module"):
        TurnoverManager.preset("none", training.model, training.optimizer, layers="blocks.*")
    with pytest.raises(TurnoverRefusedError, match="LBFGS"):
        TurnoverManager(training.model, torch.optim.LBFGS(training.model.parameters()))
    lonely = nn.Linear(3, 2)
    control = TurnoverManager(lonely, torch.optim.LBFGS(lonely.parameters()), schedule=Never())
    assert control.widths == {}


def test_nothing_is_decided_in_ignorance(digits: Make) -> None:
    for keywords, said in (
        ({"select": "utility"}, "select='utility' has seen no forward pass in training mode of '0'"),
        ({"select": "weight", "replace": "fold"}, "replace='fold' has seen no forward pass in training mode of '0'"),
    ):
        training = digits()
        before = [value.clone() for value in training.model.state_dict().values()]
        manager = TurnoverManager(training.model, training.optimizer, schedule=Every(1), **keywords)
        with pytest.raises(TurnoverError, match=said):
            training.optimizer.step()
        assert all(
            torch.equal(one, other) for one, other in zip(training.model.state_dict().values(), before, strict=True)
        )
        assert manager.events == []


def test_gradients_that_never_come_are_an_error(digits: Make) -> None:
    training = digits()
    TurnoverManager(training.model, training.optimizer, layers="0", schedule=Every(2))
    training.model[4].weight.requires_grad_(False)
    training.step()
    with pytest.raises(TurnoverError, match="select='gradient_activation' has seen no gradient of '0'"):
        training.step()


def replace_a_parameter(model: nn.Module) -> None:
    model[4].weight = nn.Parameter(model[4].weight.detach().clone())


def replace_a_module(model: nn.Module) -> None:
    model[4] = nn.Linear(24, 16)


@pytest.mark.parametrize("interfere", [replace_a_parameter, replace_a_module])
def test_a_model_that_somebody_else_changed_is_an_error(interfere: Callable[[nn.Module], None], digits: Make) -> None:
    training = digits()
    manager = TurnoverManager(training.model, training.optimizer, layers="0", select="weight", schedule=Every(3))
    training.run(2)
    interfere(training.model)
    with pytest.raises(
        TurnoverError, match=r"'4(.weight)?' is another object than when the TurnoverManager last saw it"
    ):
        training.run(1)
    assert manager.events == []


def test_two_layers_of_one_chain_are_decided_before_either_changes(digits: Make) -> None:
    training = digits()
    scores: list[Tensor] = []

    def note(*args: object) -> None:
        incoming, outgoing = training.model[4].weight.detach(), training.model[6].weight.detach()
        scores.append(incoming.norm(dim=1) * outgoing.norm(dim=0))

    training.optimizer.register_step_post_hook(note)  # it is called before the manager's
    manager = TurnoverManager(
        training.model, training.optimizer, select="weight", replace="mutation", schedule=Once(2), fraction=0.25
    )
    training.run(2)
    deaths = {event.layer: event.slots for event in manager.events if event.kind == "death"}
    assert deaths["4"] == tuple(scores[-1].argsort()[:4].tolist())
    note()
    assert deaths["4"] != tuple(scores[-1].argsort()[:4].tolist())


class Branching(nn.Module):
    """Calls its layers by keyword, and reads the hidden layer once more where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out, self.extra = nn.Linear(4, 12), nn.Linear(12, 3), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor, also: bool = False) -> torch.Tensor:
        h = torch.relu(self.hidden(input=x))
        y: torch.Tensor = self.out(input=h)
        return y + self.extra(h) if also else y


def branching() -> tuple[Branching, torch.optim.Optimizer, TurnoverManager]:
    torch.manual_seed(0)
    model = Branching()
    optimizer = torch.optim.Adam(model.parameters())
    return model, optimizer, TurnoverManager.preset("functional", model, optimizer, layers="hidden", every=2)


def go(model: Branching, optimizer: torch.optim.Optimizer, **keywords: Any) -> None:
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(8, 4), **keywords).square().sum().backward()
        optimizer.step()


def test_a_way_of_the_forward_that_the_trace_does_not_show_is_refused_when_it_is_gone() -> None:
    model, optimizer, _ = branching()
    go(model, optimizer)
    before = model.hidden.weight.clone()
    with pytest.raises(TurnoverRefusedError, match="the Linear 'extra' reads its neurons, too"):
        go(model, optimizer, also=True)
    assert (model.hidden.weight - before).abs().max() < 0.01  # steps of Adam, and no neuron replaced


def test_one_batch_that_overflows_does_not_reach_the_fold() -> None:
    model, optimizer, manager = branching()
    model(torch.full((8, 4), 3e38))
    go(model, optimizer)
    assert [event.kind for event in manager.events] == ["death", "birth"]
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_where_all_recorded_inputs_overflow_nobody_dies_rather_than_be_folded_wrongly() -> None:
    model, optimizer, manager = branching()
    for _ in range(2):
        optimizer.zero_grad()
        assert not model(torch.full((8, 4), 3e38)).square().sum().isfinite()
        (model.hidden.weight.sum() + model.out.weight.sum()).backward()  # of a loss without that term
        optimizer.step()
    assert not manager.events
    go(model, optimizer)
    assert [event.kind for event in manager.events] == ["death", "birth"]


class TooFew(Selector):
    def scores(self, view: View) -> torch.Tensor:
        return torch.zeros(3)


def test_scores_of_another_number_than_there_are_neurons_are_refused() -> None:
    torch.manual_seed(0)
    model = Branching()
    optimizer = torch.optim.Adam(model.parameters())
    TurnoverManager(model, optimizer, layers="hidden", select=TooFew(), schedule=Every(2))
    with pytest.raises(TurnoverError, match=r"select='TooFew': its scores\(\) returned \(3,\) for the 12 neurons"):
        go(model, optimizer)


@pytest.mark.parametrize("preset", ["functional", "crossover", "growth"])
def test_where_weights_are_no_longer_finite_nothing_happens_and_the_log_says_so(
    preset: str, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    model = Branching()
    optimizer = torch.optim.SGD(model.parameters(), lr=float("inf"))
    manager = TurnoverManager.preset(preset, model, optimizer, layers="hidden", every=2)
    go(model, optimizer)
    assert not manager.events
    assert "step 2: weights of 'hidden' are not finite" in caplog.text


def test_what_it_does_can_be_read() -> None:
    _, _, manager = branching()
    said = (
        "TurnoverManager(select='gradient_activation', replace='fold', schedule=Every(steps=2), widths={'hidden': 12}"
    )
    assert repr(manager).startswith(said)
