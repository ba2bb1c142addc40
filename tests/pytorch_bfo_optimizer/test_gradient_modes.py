"""Each mode against each scenario, on our optimizers and on one of someone else that has the original fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytorch_bfo_optimizer import (
    BFO,
    MODES,
    AdaptiveBFO,
    ConfigMode,
    FunctionObjective,
    GradientConfig,
    GradientModeUnsupportedError,
    HybridBFO,
    NoGradientError,
    minimal_patch,
)

ELEMENT_0 = "element 0 of tensors does not require grad and does not have a grad_fn"


class TheirOptimizer(torch.optim.Optimizer):
    """Someone else's population search: calls the closure as it stands for each member."""

    def __init__(self, params: Any, members: int = 6) -> None:
        super().__init__(params, {})
        self.members, self.source = members, torch.Generator().manual_seed(0)
        self.grads_seen: list[Tensor | None] = []

    def step(self, closure: Any = None) -> Any:
        params = self.param_groups[0]["params"]
        self.grads_seen = [param.grad for param in params]
        with torch.no_grad():
            best = [param.clone() for param in params]
            best_loss = float("inf")
            for member in range(self.members):
                for param, held in zip(params, best, strict=True):
                    noise = torch.randn(param.shape, generator=self.source) * 0.1 * (member > 0)
                    param.copy_(held + noise)
                with torch.enable_grad():
                    loss = torch.as_tensor(closure()).item()
                if loss < best_loss:
                    best, best_loss = [param.clone() for param in params], loss
            for param, held in zip(params, best, strict=True):
                param.copy_(held)
        return best_loss


class TheirDual(TheirOptimizer):
    def step(self, closure: Any = None, grad_closure: Any = None) -> Any:
        grad_closure()
        return super().step(closure)


@dataclass
class Scene:
    """A small network on fixed data, a training closure, and how to find its state changed."""

    params: list[Tensor]
    closure: Callable[[], Any]
    forward: Callable[[], Any]
    before_step: Callable[[int], None] = lambda step: None

    def state(self) -> list[Any]:
        return [
            torch.is_grad_enabled(),
            *[
                (
                    param.requires_grad,
                    id(param.grad),
                    None if param.grad is None else param.grad.tolist(),
                    len(param._backward_hooks or {}),
                )
                for param in self.params
            ],
        ]


def scene(name: str) -> Scene:
    source = torch.Generator().manual_seed(1)
    x = torch.randn(32, 3, generator=source)
    y = (x @ torch.tensor([[1.0], [-2.0], [0.5]])).tanh()
    with torch.random.fork_rng():
        torch.manual_seed(2)
        trunk, head = nn.Linear(3, 4), nn.Linear(4, 1)
    params = [*trunk.parameters(), *head.parameters()]

    def loss() -> Tensor:
        hidden = trunk(x).tanh()
        if name == "detached":
            hidden = hidden.detach()
        value = nn.functional.mse_loss(head(hidden), y)
        if name == "nan-region" and float(trunk.weight.detach()[0, 0]) > 0.05:
            value = value * float("nan")
        return value

    def closure() -> Any:
        for param in params:
            param.grad = None
        if name == "under-no-grad":
            with torch.no_grad():
                value = loss()
                value.backward()
            return value
        if name == "item-loss":
            return loss().item()
        if name == "accumulation":
            parts = []
            for rows in torch.arange(32).split(8):
                part = nn.functional.mse_loss(head(trunk(x[rows]).tanh()), y[rows]) / 4
                part.backward()
                parts.append(part.item())
            return sum(parts)
        if name == "autocast":
            with torch.autocast("cpu", dtype=torch.bfloat16):
                value = loss()
            value.backward()
            return value.float().item()
        value = loss()
        value.backward()
        return value.item() if name in ("no-grad", "toggled") else value

    given = list(params)
    if name == "no-grad":
        for param in params:
            param.requires_grad_(False)
    if name == "mixed":
        trunk.requires_grad_(False)
    if name == "frozen-backbone":
        trunk.requires_grad_(False)
        given = list(head.parameters())
    if name == "nan-region":
        with torch.no_grad():
            trunk.weight[0, 0] = 0.0

    def toggle(step: int) -> None:
        if name == "toggled":
            for param in params:
                param.requires_grad_(step % 2 == 0)

    def forward() -> Any:
        return loss().item() if name == "item-loss" else loss()

    if name == "under-no-grad":
        return Scene(given, closure, torch.no_grad()(loss), toggle)
    return Scene(given, closure, forward, toggle)


@contextmanager
def unchanged(scene: Scene) -> Iterator[None]:
    before = scene.state()
    yield
    assert scene.state() == before


TRAINS, REFUSED, RAISES = "trains", "refused", "raises"
CERTAIN = ["all-grad", "mixed", "detached", "frozen-backbone", "nan-region", "autocast", "accumulation"]
EXPECTED = {
    **{(mode, name): TRAINS for mode in MODES for name in CERTAIN},
    **{(mode, "no-grad"): TRAINS for mode in MODES},
    **{(mode, "toggled"): TRAINS for mode in MODES},
    **{(mode, "under-no-grad"): TRAINS for mode in MODES},
    **{(mode, "item-loss"): TRAINS for mode in MODES},
    ("as-is", "no-grad"): RAISES,
    ("as-is", "toggled"): RAISES,
    ("as-is", "under-no-grad"): RAISES,
    ("smart", "under-no-grad"): REFUSED,
    ("dual", "under-no-grad"): REFUSED,
    ("smart", "item-loss"): REFUSED,
    ("dual", "item-loss"): REFUSED,
}


@pytest.mark.parametrize(("mode", "name"), EXPECTED)
def test_hybrid_in_each_mode_and_scenario(mode: str, name: str) -> None:
    stage = scene(name)
    optimizer = HybridBFO(stage.params, population_size=6, generator=torch.Generator().manual_seed(0))
    kept = [torch.full_like(param, 3.0) for param in stage.params]
    for param, grad in zip(stage.params[1:], kept, strict=False):
        param.grad = grad.reshape(param.shape) if grad.numel() == param.numel() else torch.full_like(param, 3.0)

    def step(index: int) -> float:
        stage.before_step(index)
        if mode == "as-is":
            return float(MODES[mode].step(optimizer, stage.closure, stage.closure))
        with unchanged(stage):
            forward = stage.forward if mode == "dual" else stage.closure
            return float(MODES[mode].step(optimizer, forward, stage.closure))

    expected = EXPECTED[mode, name]
    if expected == REFUSED:
        with pytest.raises(NoGradientError):
            step(0)
    elif expected == RAISES:
        with pytest.raises(RuntimeError, match=ELEMENT_0):
            [step(index) for index in range(2)]
    else:
        losses = [step(index) for index in range(25)]
        assert losses[-1] < 0.8 * losses[0]
        assert optimizer.evaluations <= 25 * 6 * 5
        if name == "nan-region":
            assert optimizer.nonfinite_evaluations > 0
        uses = optimizer.gradient_decision is not None and optimizer.gradient_decision.use_gradient
        assert uses == (name not in ("item-loss", "under-no-grad") and not (mode == "minimal" and name == "no-grad"))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cls", [HybridBFO, BFO, TheirOptimizer])
@pytest.mark.parametrize("at_call", [1, 2])
def test_in_every_mode_the_closures_exception_comes_out_and_all_is_put_back(mode: str, cls: Any, at_call: int) -> None:
    stage, error, calls = scene("mixed"), KeyError("mine"), 0
    stage.params[0].grad = torch.ones_like(stage.params[0])

    def closure() -> Any:
        nonlocal calls
        calls += 1
        if calls == at_call:
            raise error
        return stage.closure()

    optimizer = cls(stage.params)
    with (
        unchanged(stage) if mode != "as-is" else pytest.MonkeyPatch.context(),
        pytest.raises((KeyError, GradientModeUnsupportedError)) as caught,
    ):
        MODES[mode].step(optimizer, closure, closure)
    assert caught.value is error or isinstance(caught.value, GradientModeUnsupportedError)
    assert "step" not in vars(optimizer)


# --- the original failure ---


@pytest.mark.parametrize("cls", [HybridBFO, BFO, AdaptiveBFO, TheirOptimizer])
@pytest.mark.parametrize("mode", MODES)
def test_the_original_failing_case(mode: str, cls: Any, make_bowl: Callable[..., Any]) -> None:
    """Three parameters without grad; the closure zeroes grads, calls backward() and returns loss.item()."""
    bowl = make_bowl(requires_grad=False)
    options = {"generator": torch.Generator().manual_seed(1), "population_size": 6} if cls is not TheirOptimizer else {}
    optimizer = cls(bowl.params, **options)
    refused = (mode == "dual" and cls is not HybridBFO) or (mode == "config" and cls is TheirOptimizer)
    if refused:
        with pytest.raises(GradientModeUnsupportedError, match=cls.__name__):
            MODES[mode].step(optimizer, bowl.training_closure, bowl.training_closure)
        return
    if mode == "as-is":
        with pytest.raises(RuntimeError, match=ELEMENT_0):
            MODES[mode].step(optimizer, bowl.training_closure)
        return
    losses = [float(MODES[mode].step(optimizer, bowl.training_closure, bowl.training_closure)) for _ in range(30)]
    assert losses[-1] < 0.9 * losses[0]
    assert all(param.grad is None and not param.requires_grad for param in bowl.params)


# --- what is particular to each ---


def test_the_registry_has_five_modes_that_know_their_names() -> None:
    assert list(MODES) == ["dual", "smart", "config", "minimal", "as-is"]
    assert all(mode.name == name for name, mode in MODES.items())


def test_dual_evaluates_without_gradients_and_asks_the_second_closure_once_a_move(
    make_bowl: Callable[..., Any],
) -> None:
    bowl, modes, asked = make_bowl(), set(), []

    def forward() -> Tensor:
        modes.add(torch.is_grad_enabled())
        return bowl.loss()

    def grad_closure() -> Tensor:
        asked.append(torch.is_grad_enabled())
        return sum((param**2).sum() for param in bowl.params) * 1000  # another loss: only its direction counts

    optimizer = HybridBFO(bowl.params, population_size=4)
    loss = optimizer.step(forward, grad_closure)
    MODES["dual"].step(optimizer, forward, grad_closure)
    assert modes == {False}
    assert asked == [True] * 3  # and once more where the run begins
    assert optimizer.gradient_evaluations == 3
    assert optimizer.evaluations == bowl.calls <= 40
    assert loss < 100
    with pytest.raises(GradientModeUnsupportedError, match="two closures"):
        MODES["dual"].step(optimizer, forward)


def test_dual_is_passed_on_to_an_optimizer_of_others_that_takes_it(make_bowl: Callable[..., Any]) -> None:
    bowl, asked = make_bowl(), []
    optimizer = TheirDual(bowl.params)
    MODES["dual"].step(optimizer, bowl, lambda: asked.append(1))
    assert asked == [1]
    with pytest.raises(GradientModeUnsupportedError, match="takes no second closure"):
        MODES["dual"].step(TheirOptimizer(bowl.params), bowl, bowl)


@pytest.mark.parametrize("cls", [torch.optim.SGD, torch.optim.Adam])
def test_smart_hands_a_real_gradient_to_an_optimizer_that_reads_it(cls: Any, make_bowl: Callable[..., Any]) -> None:
    bowl = make_bowl(requires_grad=False)
    optimizer = cls(bowl.params, lr=0.1)
    losses = [float(MODES["smart"].step(optimizer, bowl.training_closure)) for _ in range(20)]
    assert losses[-1] < 0.3 * losses[0]
    assert all(param.grad is None for param in bowl.params)


def test_smart_lets_others_without_a_gradient_go_on_without(make_bowl: Callable[..., Any]) -> None:
    bowl = make_bowl()
    optimizer = TheirOptimizer(bowl.params)
    MODES["smart"].step(optimizer, bowl.training_closure)
    assert all(grad is not None for grad in optimizer.grads_seen)
    MODES["smart"].step(optimizer, lambda: bowl.loss().item())
    assert optimizer.grads_seen == [None] * 3


def test_config_holds_for_the_step_alone_and_is_refused_where_it_means_nothing(make_bowl: Callable[..., Any]) -> None:
    bowl = make_bowl()
    optimizer = HybridBFO(bowl.params, population_size=3)
    config = optimizer.gradient_config
    ConfigMode(GradientConfig(mode="never")).step(optimizer, bowl)
    assert optimizer.gradient_config is config
    assert optimizer.gradient_evaluations == 0
    plain = BFO(bowl.params, population_size=3)
    ConfigMode(GradientConfig(mode="never")).step(plain, bowl)
    with pytest.raises(GradientModeUnsupportedError, match="BFO is gradient-free"):
        ConfigMode(GradientConfig(mode="always")).step(plain, bowl)


def test_config_is_put_back_after_an_exception(make_bowl: Callable[..., Any]) -> None:
    optimizer = HybridBFO(make_bowl().params, population_size=3)
    config = optimizer.gradient_config
    for mode in ("smart", "config", "as-is", "minimal"):
        with pytest.raises(ZeroDivisionError):
            MODES[mode].step(optimizer, lambda: 1 / 0)
        assert optimizer.gradient_config is config


def test_minimal_patch_touches_the_instance_and_only_for_a_while(make_bowl: Callable[..., Any]) -> None:
    bowl = make_bowl(requires_grad=False)
    optimizer, cls, theirs = TheirOptimizer(bowl.params), TheirOptimizer, TheirOptimizer.step
    attributes = dict(vars(optimizer))
    with minimal_patch(optimizer) as patched:
        assert patched is optimizer
        assert type(optimizer) is cls
        assert cls.step is theirs
        optimizer.step(bowl.training_closure)
    assert vars(optimizer).keys() == attributes.keys()
    with pytest.raises(RuntimeError, match=ELEMENT_0):
        optimizer.step(bowl.training_closure)


def _fail_inside_the_patch(optimizer: Any) -> None:
    with minimal_patch(optimizer):
        raise KeyError("mine")


def test_minimal_patch_puts_back_a_step_of_the_instance_also_after_an_exception(make_bowl: Callable[..., Any]) -> None:
    optimizer = TheirOptimizer(make_bowl().params)
    torch.optim.lr_scheduler.LambdaLR(HybridBFO(make_bowl().params), lambda epoch: 1.0)  # a scheduler sets .step too
    optimizer.step = own = lambda closure: "own"  # type: ignore[method-assign]
    with pytest.raises(KeyError):
        _fail_inside_the_patch(optimizer)
    assert optimizer.step is own


def test_minimal_patch_skips_only_what_cannot_run(make_bowl: Callable[..., Any]) -> None:
    bowl = make_bowl()
    seen = []

    class Looks(TheirOptimizer):
        def step(self, closure: Any = None) -> Any:
            value = closure()
            seen.extend(param.grad for param in bowl.params)
            return value

    bowl.params[2].requires_grad_(False)
    kept = bowl.params[0].grad = torch.ones(3)
    with minimal_patch(Looks(bowl.params)) as optimizer:
        optimizer.step(bowl.training_closure)
    assert [grad is not None for grad in seen] == [True, True, False]
    assert bowl.params[0].grad is kept
    assert kept.tolist() == [1, 1, 1]
    assert bowl.params[1].grad is None


def test_minimal_patch_refuses_what_it_cannot_patch() -> None:
    class Slotted:
        __slots__ = ("param_groups",)

        def step(self, closure: Any) -> Any: ...

    slotted = Slotted()
    slotted.param_groups = [{"params": []}]
    for hopeless, words in ((slotted, "__slots__"), (object(), "no step"), (nn.Identity().eval(), "no step")):
        with pytest.raises(GradientModeUnsupportedError, match=words), minimal_patch(hopeless):
            pass


@pytest.mark.parametrize("mode", ["smart", "config", "minimal", "as-is"])
def test_a_batched_objective_goes_through_every_mode_as_one(mode: str) -> None:
    rows = []

    def fn(x_PD: Tensor) -> Tensor:
        rows.append(len(x_PD))
        return (x_PD**2).sum(dim=1)

    for cls in (BFO, HybridBFO):
        param = torch.ones(3)
        optimizer = cls([param], population_size=4, swim_length=2)
        first = MODES[mode].step(optimizer, FunctionObjective(fn, [param]))
        for _ in range(10):
            last = MODES[mode].step(optimizer, FunctionObjective(fn, [param]))
        assert last < first
        assert max(rows) == 4
