"""One step: what it computes, against a loop written by hand, and what an optimizer with a closure is given."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from bfo_diag.errors import DiagError
from bfo_diag.training import data
from bfo_diag.training.recipe import Data, Training
from bfo_diag.training.step import Step
from bfo_diag.training.watching import Watcher
from pytorch_bfo_optimizer import BFO, AdaptiveBFO, HybridBFO

FAMILY = [BFO, AdaptiveBFO, HybridBFO]
FEW_CALLS = {BFO: {"swim_length": 1}, AdaptiveBFO: {}, HybridBFO: {"swim_length": 1}}


@pytest.fixture(scope="module")
def samples():
    return data.load(Data("digits", samples=48), "cpu")


def mlp(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(64, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 10)
    )


def twins(make, **training):
    """Return a step, and its model's twin with an optimizer of its own."""
    model, twin = mlp(), mlp()
    return Step(model, make(model.parameters()), Training(**training), "cpu"), twin, make(twin.parameters())


@pytest.mark.parametrize("clip_norm", [None, 0.01])
def test_a_step_does_what_the_usual_lines_do(samples, clip_norm):
    step, twin, optimizer = twins(lambda params: torch.optim.SGD(params, lr=0.5, momentum=0.9), clip_norm=clip_norm)
    for index in range(3):
        inputs, targets = samples.at(torch.arange(16) + 16 * index)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(twin(inputs), targets)
        loss.backward()
        if clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(twin.parameters(), clip_norm)
            assert norm > clip_norm
        optimizer.step()
        assert torch.equal(step(inputs, targets), loss.detach())
    for mine, other in zip(step.model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_autocast_computes_the_forward_in_bfloat16(samples):
    step, _, _ = twins(torch.optim.Adam, autocast="bfloat16")
    seen = []
    step.model[0].register_forward_hook(lambda module, given, out: seen.append(out.dtype))
    loss = step(*samples.at(torch.arange(16)))
    assert seen == [torch.bfloat16]
    assert loss.dtype == torch.float32
    assert all(parameter.grad.dtype == torch.float32 for parameter in step.model.parameters())


def test_validation_counts_every_target_once_and_leaves_the_model_as_it_was(samples):
    step, twin, _ = twins(torch.optim.Adam)
    before = {name: value.clone() for name, value in step.model.state_dict().items()}
    loss, accuracy = step.evaluate(samples.batches(torch.arange(48), 20))
    twin.eval()
    logits = twin(samples.inputs).detach()
    assert loss == pytest.approx(float(nn.functional.cross_entropy(logits, samples.targets)), abs=1e-6)
    assert accuracy == pytest.approx(float((logits.argmax(-1) == samples.targets).float().mean()))
    assert step.model.training
    assert all(torch.equal(value, before[name]) for name, value in step.model.state_dict().items())


class Draws(nn.Module):
    """Draws as dropout does, and notes what it drew."""

    def __init__(self):
        super().__init__()
        self.drawn = []

    def forward(self, x):
        self.drawn.append(torch.rand(3))
        return x


@pytest.mark.parametrize("make", FAMILY)
def test_every_call_of_a_closure_in_a_step_has_the_same_random_numbers_and_buffers(samples, make):
    draws = Draws()
    model = nn.Sequential(mlp(), draws)
    means = []
    model[0][1].register_forward_pre_hook(lambda module, given: means.append(module.running_mean.clone()))
    step = Step(model, make(model.parameters(), population_size=6, **FEW_CALLS[make]), Training(), "cpu")
    inputs, targets = samples.at(torch.arange(16))
    for _ in range(2):
        draws.drawn.clear()
        means.clear()
        before = model[0][1].running_mean.clone()
        first = torch.rand(3, generator=_copy_of_torchs_own())
        step(inputs, targets)
        assert len(draws.drawn) >= (1 if make is HybridBFO else 6)  # a run feels the slope, and no more
        assert all(torch.equal(drawn, first) for drawn in draws.drawn)
        assert all(torch.equal(mean, before) for mean in means)
        assert not torch.equal(torch.rand(3, generator=_copy_of_torchs_own()), first), "the next step draws others"
        assert not torch.equal(model[0][1].running_mean, before), "a step moves the statistics, once"


def _copy_of_torchs_own() -> torch.Generator:
    copy = torch.Generator()
    copy.set_state(torch.get_rng_state())
    return copy


@pytest.mark.parametrize("make", [BFO, AdaptiveBFO])
def test_an_optimizer_without_gradients_is_spared_the_graph(samples, make):
    model = mlp()
    graphs = []
    model.register_forward_hook(lambda module, given, out: graphs.append(out.requires_grad))
    step = Step(model, make(model.parameters(), population_size=4, **FEW_CALLS[make]), Training(), "cpu")
    step(*samples.at(torch.arange(16)))
    assert graphs
    assert not any(graphs)
    assert (step.calls_closure, step.has_gradients) == (True, False)


@pytest.mark.parametrize("make", [torch.optim.SGD, HybridBFO])
def test_a_watched_step_is_measured_once_with_the_gradient_that_is_used(samples, make):
    model = mlp()
    step = Step(model, make(model.parameters()), Training(clip_norm=None), "cpu")
    inputs, targets = samples.at(torch.arange(16))
    loss = nn.functional.cross_entropy(model(inputs), targets)
    norm = torch.linalg.vector_norm(torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*model.parameters()])]))
    watcher = Watcher(step, 4, every=2)
    assert watcher.at(1) is None
    step(inputs, targets, watcher.at(2))
    (seen,) = watcher.observations()
    assert list(watcher.observations()) == []
    assert (seen.kind, seen.values["fold"], seen.values["step"]) == ("gradients", 4, 2)
    assert seen.values["total_norm"] == pytest.approx(float(norm), rel=1e-5)
    assert (seen.values["status"], seen.values["nonfinite"]) == ("healthy", [])


def test_a_step_of_hybrid_bfo_that_takes_no_gradient_is_not_measured(samples):
    from pytorch_bfo_optimizer import GradientConfig

    model = mlp()
    optimizer = HybridBFO(model.parameters(), population_size=3, gradient_config=GradientConfig(mode="never"))
    step = Step(model, optimizer, Training(), "cpu")
    watcher = Watcher(step, 1, every=1)
    step(*samples.at(torch.arange(16)), watcher.at(1))
    assert list(watcher.observations()) == []


def test_a_gradient_that_is_not_finite_is_named(samples):
    model = mlp()
    step = Step(model, torch.optim.SGD(model.parameters()), Training(), "cpu")
    watcher = Watcher(step, 1, every=1)
    inputs, targets = samples.at(torch.arange(16))
    loss = step(inputs * math.nan, targets, watcher.at(1))
    assert math.isnan(loss)
    (seen,) = watcher.observations()
    assert seen.values["status"] == "non-finite"
    assert seen.values["nonfinite"][0] == "0.weight"


@pytest.mark.parametrize("out", [lambda x: x[:, :1], lambda x: (x, x), lambda x: x[:3]])
def test_what_is_no_logits_is_refused_with_the_shape_that_is_wanted(samples, out):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(64, 10)

        def forward(self, x):
            return out(self.inner(x).unsqueeze(0))

    step = Step(Odd(), torch.optim.SGD([torch.zeros(1, requires_grad=True)]), Training(), "cpu")
    with pytest.raises(DiagError) as caught:
        step(*samples.at(torch.arange(16)))
    assert "it has to return logits, (16, classes)" in caught.value.mend


MODES = [
    (None, "auto", False),
    ("config", "auto", False),
    ("smart", "always", False),
    ("dual", "always", True),
    ("minimal", None, False),
    ("as-is", None, False),
]


@pytest.mark.parametrize(("mode", "config", "two_closures"), MODES)
def test_hybrid_is_driven_by_the_mode_that_the_recipe_names(samples, monkeypatch, mode, config, two_closures):
    seen = []
    own = HybridBFO.step

    def step(self, closure, grad_closure=None):
        config = self.gradient_config and self.gradient_config.mode
        closures = [closure, *([] if grad_closure is None else [grad_closure])]
        seen.append((config, [each().requires_grad for each in closures]))
        return own(self, closure, grad_closure)

    monkeypatch.setattr(HybridBFO, "step", step)
    model = mlp()
    made = Step(model, HybridBFO(model.parameters(), population_size=3), Training(gradient_mode=mode), "cpu")
    made(*samples.at(torch.arange(16)))
    assert seen == [(config, [False, True] if two_closures else [True])]


def test_every_gradient_mode_trains_as_hybrid_does_by_itself(samples):
    def trained(mode):
        torch.manual_seed(0)
        model = mlp(dropout=0.2)
        optimizer = HybridBFO(model.parameters(), population_size=3, swim_length=1)
        step = Step(model, optimizer, Training(gradient_mode=mode), "cpu")
        losses = [float(step(*samples.at(torch.arange(16) + 16 * index))) for index in (0, 1, 2, 0)]
        return losses, [parameter.clone() for parameter in model.parameters()]

    losses, weights = trained(None)
    for mode, _, _ in MODES[1:]:
        others, other_weights = trained(mode)
        assert others == losses, mode
        assert all(map(torch.equal, weights, other_weights)), mode


def test_new_parameters_of_a_layer_are_watched_in_place_of_the_old(samples):
    model = mlp()
    step = Step(model, torch.optim.SGD(model.parameters(), lr=0.1), Training(), "cpu")
    watcher = Watcher(step, 1, every=1)
    batch = samples.at(torch.arange(16))
    step(*batch, watcher.at(1))
    with torch.no_grad():
        model[4].weight = nn.Parameter(model[4].weight * 0)
        model[4].bias = nn.Parameter(torch.full((10,), math.nan))
    step.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step(*batch, watcher.at(2))
    first, second = watcher.observations()
    assert first.values["nonfinite"] == []
    assert "4.bias" in second.values["nonfinite"]
