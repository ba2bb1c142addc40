from __future__ import annotations

import math
import random
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pytorch_bfo_optimizer import (
    BFO,
    GradientCollector,
    GradientConfig,
    GradientStats,
    HybridBFO,
    TelemetryConfig,
    TelemetryError,
)


@pytest.fixture
def model() -> nn.Module:
    made = nn.Linear(3, 1)
    nn.init.ones_(made.weight)
    nn.init.zeros_(made.bias)
    return made


def backward(model: nn.Module, size: float = 1.0) -> None:
    """Leave a gradient of `size` on each weight and on the bias."""
    model(torch.full((1, 3), size)).sum().backward()
    model.bias.grad.fill_(size)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        backward(model, step + 1.0)
        optimizer.step()


@pytest.mark.parametrize(("every", "steps"), [(1, [1, 2, 3, 4, 5, 6, 7]), (3, [1, 4, 7]), (10, [1])])
def test_the_first_of_so_many_steps_is_measured(model: nn.Module, every: int, steps: list[int]) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen: list[GradientStats] = []
    watch = GradientCollector(model.named_parameters()).watch(optimizer, [seen.append], every=every)
    train(model, optimizer, 7)
    assert [stats.step for stats in seen] == steps
    assert [stats.norms[1] for stats in seen] == steps  # the gradient of the bias is the number of the step
    assert watch.steps == 7


def test_it_watches_until_it_is_closed(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen: list[GradientStats] = []
    with GradientCollector(model.named_parameters()).watch(optimizer, [seen.append]):
        train(model, optimizer, 2)
    train(model, optimizer, 2)
    assert len(seen) == 2


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "10"])
def test_every_has_to_be_a_count(model: nn.Module, every: object) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TelemetryError, match="every is"):
        GradientCollector(model.named_parameters()).watch(optimizer, [], every=every)
    train(model, optimizer, 1)


def test_each_sink_gets_the_sample_in_turn_after_the_step(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen: list[tuple[str, GradientStats, float]] = []
    sinks = [lambda stats, name=name: seen.append((name, stats, model.bias.item())) for name in ("one", "two")]
    GradientCollector(model.named_parameters()).watch(optimizer, (sink for sink in sinks))
    train(model, optimizer, 2)
    assert [name for name, _, _ in seen] == ["one", "two", "one", "two"]
    assert seen[0][1] is seen[1][1]
    assert [bias for _, _, bias in seen[::2]] == pytest.approx([-0.1, -0.3])


def test_the_error_of_a_sink_reaches_the_user_and_leaves_the_step_done(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def full(stats: GradientStats) -> None:
        raise OSError("disk full")

    GradientCollector(model.named_parameters()).watch(optimizer, [full])
    backward(model)
    with pytest.raises(OSError, match="disk full"):
        optimizer.step()
    assert model.bias.item() == pytest.approx(-0.1)


def test_a_step_that_raises_leaves_no_sample_behind(model: nn.Module) -> None:
    class Fails(torch.optim.SGD):
        fails = True

        def step(self, closure: object = None) -> None:
            super().step()
            if self.fails:
                raise RuntimeError("out of memory")

    optimizer = Fails(model.parameters(), lr=0.1)
    seen: list[GradientStats] = []
    GradientCollector(model.named_parameters()).watch(optimizer, [seen.append], every=2)
    backward(model)
    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer.step()
    optimizer.fails = False
    train(model, optimizer, 2)
    assert [(stats.step, stats.norms[1]) for stats in seen] == [(3, 2.0)]


def test_a_step_that_calls_the_step_it_overrides_is_one(model: nn.Module) -> None:
    class Middle(torch.optim.SGD):
        def step(self, closure: Callable[[], Tensor] | None = None) -> None:
            super().step(closure)

    class Outer(Middle):
        def step(self, closure: Callable[[], Tensor] | None = None) -> None:
            super().step(closure)
            super().step()

    optimizer = Outer(model.parameters(), lr=0.1)
    seen: list[GradientStats] = []
    watch = GradientCollector(model.named_parameters()).watch(optimizer, [seen.append], every=2)
    train(model, optimizer, 3)

    def closure() -> Tensor:
        optimizer.zero_grad()
        backward(model, 7.0)
        return torch.tensor(1.0)

    for _ in range(2):
        optimizer.step(closure)
    assert [(stats.step, stats.norms[1]) for stats in seen] == [(1, 1.0), (3, 3.0), (5, 7.0)]
    assert watch.steps == 5


def test_accumulated_gradients_are_measured_on_the_step_that_counts(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen: list[GradientStats] = []
    GradientCollector(model.named_parameters()).watch(optimizer, [seen.append])
    for step in range(2):
        optimizer.zero_grad()
        for _ in range(4):
            model(torch.full((1, 3), step + 1.0)).sum().backward()
        optimizer.step()
    assert [stats.norms[0] for stats in seen] == pytest.approx([4 * math.sqrt(3), 8 * math.sqrt(3)])


def test_what_the_optimizer_does_to_gradients_changes_nothing(model: nn.Module) -> None:
    class Consumes(torch.optim.SGD):
        def step(self, closure: object = None) -> None:
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.grad.zero_()

    optimizer = Consumes(model.parameters(), lr=0.1)
    seen: list[GradientStats] = []
    GradientCollector(model.named_parameters()).watch(optimizer, [seen.append])
    backward(model)
    model.weight.grad[0, 1] = math.nan
    optimizer.step()
    assert (seen[0].nan_counts, seen[0].not_counted, seen[0].norms[1]) == ({"weight": 1}, (), 1.0)


@pytest.mark.parametrize("by_name", [False, True])
def test_with_a_closure_the_gradients_where_the_step_began_are_measured(model: nn.Module, by_name: bool) -> None:
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    seen: list[GradientStats] = []
    GradientCollector(model.named_parameters()).watch(optimizer, [seen.append], every=2)
    biases: list[list[float]] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (model(torch.ones(1, 3)) - 5).pow(2).sum()
        loss.backward()
        biases[-1].append(abs(model.bias.grad.item()))
        return loss

    for _ in range(3):
        biases.append([])
        optimizer.step(closure=closure) if by_name else optimizer.step(closure)
    assert all(len(set(calls)) > 1 for calls in biases)
    assert [stats.step for stats in seen] == [1, 3]
    assert [stats.norms[1] for stats in seen] == pytest.approx([biases[0][0], biases[2][0]])
    assert not model.bias._post_accumulate_grad_hooks


def test_a_closure_that_runs_no_backward_leaves_what_was_there(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen: list[GradientStats] = []
    GradientCollector(model.named_parameters()).watch(optimizer, [seen.append])
    backward(model, 2.0)
    assert optimizer.step(lambda: torch.tensor(7.0)) == 7.0
    assert seen[0].norms[1] == 2.0


def test_a_callable_object_is_passed_on_as_it_is(model: nn.Module) -> None:
    class Objective:
        def __call__(self) -> Tensor:
            optimizer.zero_grad()
            backward(model, 3.0)
            return torch.tensor(1.0)

    given: list[object] = []

    class Looks(torch.optim.SGD):
        def step(self, closure: Callable[[], Tensor]) -> Tensor:
            given.append(closure)
            return super().step(closure)

    optimizer = Looks(model.parameters(), lr=0.1)
    seen: list[GradientStats] = []
    GradientCollector(model.named_parameters()).watch(optimizer, [seen.append])
    objective = Objective()
    optimizer.step(objective)
    assert given == [objective]
    assert seen[0].norms[1] == 3.0


def test_a_closure_that_raises_leaves_no_hook_behind(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen: list[GradientStats] = []
    watch = GradientCollector(model.named_parameters()).watch(optimizer, [seen.append], every=2)

    def closure() -> Tensor:
        backward(model)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        optimizer.step(closure)
    train(model, optimizer, 1)
    assert (seen, watch.steps) == ([], 2)
    assert not model.bias._post_accumulate_grad_hooks


@pytest.mark.parametrize("calls_backward", [True, False])
@pytest.mark.parametrize("two_closures", [True, False])
def test_hybrid_bfo_is_measured_when_it_takes_its_one_gradient(two_closures: bool, calls_backward: bool) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = HybridBFO(
        model.parameters(), population_size=4, gradient_config=GradientConfig("hybrid", check_every=2)
    )
    seen: list[GradientStats] = []
    taken: list[float] = []
    GradientCollector(model.named_parameters()).watch(optimizer, [seen.append])

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (model(torch.ones(8, 3)) - 5).pow(2).mean()
        if calls_backward:
            loss.backward()
            taken.append(model.bias.grad.item())
        return loss

    for _ in range(4):
        optimizer.step(closure, closure) if two_closures else optimizer.step(closure)
    # At every second step; in between each call of backward is a zero that nobody computed.
    statuses = ["healthy" if calls_backward else "no gradients", "no gradients"] * 2
    assert [stats.status for stats in seen] == statuses
    if calls_backward:
        real = [gradient for gradient in taken if gradient]
        assert len(taken) > len(real) == 2
        assert [stats.norms[1] for stats in seen[::2]] == pytest.approx([abs(gradient) for gradient in real])


def test_bfo_needs_no_gradient() -> None:
    model = nn.Linear(3, 1)
    optimizer = BFO(model.parameters(), population_size=4)
    seen: list[GradientStats] = []
    GradientCollector(model.named_parameters()).watch(optimizer, [seen.append])
    optimizer.step(lambda: (model(torch.ones(8, 3)) - 5).pow(2).mean())
    assert [(stats.step, stats.status) for stats in seen] == [(1, "no gradients")]


def test_the_gradients_are_not_kept_alive_between_steps(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    GradientCollector(model.named_parameters()).watch(optimizer, [lambda stats: None])
    train(model, optimizer, 1)
    gradient = weakref.ref(model.bias.grad)
    optimizer.zero_grad()
    assert gradient() is None


class FoundInf(nn.Module):
    """A model whose loss overflows in float16 at chosen steps."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, overflows: bool) -> Tensor:
        return (self.weight * (math.inf if overflows else 1.0)).sum()


@pytest.mark.parametrize("fused", [False, True])
def test_a_real_grad_scaler(fused: bool) -> None:
    model = FoundInf()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    seen: list[GradientStats] = []
    collector = GradientCollector(model.named_parameters())
    collector.watch(optimizer, [seen.append])
    for step in range(4):
        optimizer.zero_grad()
        scaler.scale(model(overflows=step == 1)).backward()
        scaler.step(optimizer)
        scaler.update()
    good = [stats for stats in seen if stats.status == "healthy"]
    assert [stats.norms[0] for stats in good] == pytest.approx([2.0, 2.0, 2.0])  # and not 2 * 65536
    # The scaler skips the step that found Inf; a fused optimizer is asked to do so itself.
    skipped = [stats for stats in seen if stats.status != "healthy"]
    assert [(stats.step, stats.inf_counts) for stats in skipped] == ([(2, {"weight": 4})] if fused else [])


def test_unscaled_gradients_before_the_scaler_skips_a_step() -> None:
    model = FoundInf()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    collector = GradientCollector(model.named_parameters(), config=TelemetryConfig(zero_every=1))
    found = []
    for overflows in (False, True):
        optimizer.zero_grad()
        scaler.scale(model(overflows)).backward()
        scaled = collector.collect(scale=scaler.get_scale()).materialize()
        scaler.unscale_(optimizer)
        found.append(collector.collect().materialize())
        assert scaled == found[-1]
        scaler.step(optimizer)
        scaler.update()
    assert [(stats.status, stats.total_norm) for stats in found] == [("healthy", 2.0), ("non-finite", math.inf)]
    assert found[1].inf_counts == {"weight": 4}


def test_ten_thousand_steps_of_several_watches_stay_apart(model: nn.Module) -> None:
    optimizers = [torch.optim.SGD([parameter], lr=1e-9) for parameter in model.parameters()]
    seen: list[list[int | None]] = [[], []]
    for optimizer, steps, every in zip(optimizers, seen, (7, 11), strict=True):
        GradientCollector(model.named_parameters()).watch(
            optimizer, [lambda s, to=steps: to.append(s.step)], every=every
        )
    backward(model)
    chance = random.Random(0)
    taken = [0, 0]
    for _ in range(300):
        which = chance.randrange(2)
        optimizers[which].step()
        taken[which] += 1
    assert seen == [list(range(1, taken[0] + 1, 7)), list(range(1, taken[1] + 1, 11))]
