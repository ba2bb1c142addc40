from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bfo_diag.cases.char_transformer import CharTransformer, characters
from bfo_diag.cases.digits_mlp import digits
from pytorch_bfo_optimizer.errors import TurnoverError, TurnoverRefusedError
from pytorch_bfo_optimizer.turnover.layers import Layer, find_layers
from pytorch_bfo_optimizer.turnover.surgery import Births, Surgeon

WIDTH = 12


class Two(nn.Module):
    """One producer that feeds two Linears."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.left, self.right = nn.Linear(64, WIDTH), nn.Linear(WIDTH, 10), nn.Linear(WIDTH, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.body(x))
        return torch.cat([self.left(h), self.right(h)], -1)


def block() -> nn.Module:
    return CharTransformer(characters()[1])


def with_norm(**settings: Any) -> nn.Module:
    return nn.Sequential(nn.Linear(64, WIDTH), nn.BatchNorm1d(WIDTH, **settings), nn.ReLU(), nn.Linear(WIDTH, 10))


MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "transformer block (B, T, D)": (block, "mlp.0"),
    "mlp": (lambda: nn.Sequential(nn.Linear(64, WIDTH), nn.GELU(), nn.Dropout(0.5), nn.Linear(WIDTH, 10)), "0"),
    "no biases": (
        lambda: nn.Sequential(nn.Linear(64, WIDTH, bias=False), nn.ReLU(), nn.Linear(WIDTH, 10, bias=False)),
        "0",
    ),
    "norm": (with_norm, "0"),
    "norm without affine": (lambda: with_norm(affine=False), "0"),
    "norm without statistics": (lambda: with_norm(track_running_stats=False), "0"),
    "two consumers": (Two, "body"),
}


def inputs(name: str) -> Tensor:
    if "transformer" in name:
        codes, _ = characters()
        return codes[: 4 * 32].reshape(4, 32)
    return digits()[0][:16].reshape(16, 64)


def prepared(name: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Layer, torch.optim.Optimizer, Tensor]:
    """Return a model that was trained a little on real data, its layer, its optimizer, and inputs."""
    torch.manual_seed(1)
    make, pattern = MODELS[name]
    model = make().to(dtype)
    x = inputs(name)
    x = x.to(dtype) if x.is_floating_point() else x
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    (layer,) = find_layers(model, pattern)
    train(model, optimizer, x, 3)
    return model, layer, optimizer, x


def train(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, steps: int) -> None:
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def is_same(ours: Any, theirs: Any) -> bool:
    """Whether two nested values are the same, bit for bit."""
    if isinstance(ours, Tensor):
        return torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(is_same(value, theirs[key]) for key, value in ours.items())
    if isinstance(ours, (list, tuple)):
        return len(ours) == len(theirs) and all(map(is_same, ours, theirs))
    return ours == theirs


def births(layer: Layer, count: int, *, outgoing: float = 0.0, norm: Tensor | nn.BatchNorm1d | None = None) -> Births:
    source = torch.Generator().manual_seed(4)
    return Births(
        incoming_weight=torch.randn(count, layer.producer.in_features, generator=source),
        incoming_bias=None if layer.producer.bias is None else torch.randn(count, generator=source),
        outgoing=tuple(
            torch.randn(consumer.out_features, count, generator=source) * outgoing for _, consumer in layer.consumers
        ),
        norm=norm,
    )


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("way", ["newborn", "split"])
@pytest.mark.parametrize("name", MODELS)
def test_growth_leaves_the_output_as_it_is(name: str, way: str, dtype: torch.dtype, bound: float) -> None:
    model, layer, optimizer, x = prepared(name, dtype)
    width = layer.width
    surgeon = Surgeon(model, optimizer)
    with torch.no_grad():
        before = model.eval()(x)
        if way == "split":
            surgeon.split(layer, torch.tensor([1, 5, 1, 0, 1]))  # k = 4, 2 and 2
        else:
            surgeon.resize(layer, torch.arange(width), births(layer, 5, norm=torch.tensor([0, 0, 3, 2, 1])))
        assert layer.width == width + 5
        assert (model(x) - before).abs().max() <= bound
    train(model, optimizer, x, 2)
    assert model(x).isfinite().all()


@pytest.mark.parametrize("name", MODELS)
def test_a_cut_is_what_zeroing_the_outgoing_weights_of_the_dead_gives(name: str) -> None:
    model, layer, optimizer, x = prepared(name)
    keep = torch.tensor([7, 0, 2, 3])
    masked = copy.deepcopy(model)
    (twin,) = find_layers(masked, layer.name)
    with torch.no_grad():
        for _, consumer in twin.consumers:
            consumer.weight.mul_(torch.zeros(twin.width).index_fill_(0, keep, 1.0))
    Surgeon(model, optimizer).resize(layer, keep)
    shapes = {part.role: tuple(part.tensor.shape) for part in layer.parts}
    assert all(shape[0 if role[:4] in ("prod", "norm") else 1] == 4 for role, shape in shapes.items())
    assert [(c.in_features, c.weight.shape[1]) for _, c in layer.consumers] == [(4, 4)] * len(layer.consumers)
    assert layer.norm is None or layer.norm.num_features == 4
    with torch.no_grad():
        assert torch.allclose(model.eval()(x), masked.eval()(x), rtol=0, atol=1e-6)


def test_a_replacement_puts_each_newborn_in_its_slot_and_leaves_all_else() -> None:
    model, layer, optimizer, _ = prepared("norm")
    parameters = list(model.parameters())
    before = copy.deepcopy(model.state_dict())
    born = births(layer, 3, outgoing=1.0, norm=torch.tensor([1, 1, 0]))
    slots = torch.tensor([9, 2, 4])
    Surgeon(model, optimizer).replace(layer, slots, born)
    after = model.state_dict()
    assert torch.equal(after["0.weight"][slots], born.incoming_weight)
    assert torch.equal(after["0.bias"][slots], born.incoming_bias)
    assert torch.equal(after["3.weight"][:, slots], born.outgoing[0])
    for name in ("1.weight", "1.bias", "1.running_mean", "1.running_var"):
        assert torch.equal(after[name][slots], before[name][[1, 1, 0]])
    others = torch.tensor([0, 1, 3, 5, 6, 7, 8, 10, 11])
    for name in ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"):
        assert torch.equal(after[name][others], before[name][others])
    assert torch.equal(after["3.weight"][:, others], before["3.weight"][:, others])
    assert torch.equal(after["3.bias"], before["3.bias"])
    assert all(old is new for old, new in zip(parameters, model.parameters(), strict=True))
    state = optimizer.state[layer.producer.weight]
    assert state["exp_avg"][slots].abs().sum() == 0
    assert (state["exp_avg_sq"][others] > 0).any()
    assert (layer.producer.weight.grad[slots] == 0).all()
    assert layer.consumers[0][1].weight.grad[:, others].abs().sum() > 0


def test_a_newborn_has_a_new_norm_where_no_parent_is_named() -> None:
    model, layer, optimizer, _ = prepared("norm")
    Surgeon(model, optimizer).resize(layer, torch.arange(3), births(layer, 2))
    norm = layer.norm
    found = [tensor[3:].tolist() for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var)]
    assert found == [[1, 1], [0, 0], [0, 0], [1, 1]]


def test_a_newborn_may_bring_its_norm() -> None:
    model, layer, optimizer, _ = prepared("norm")
    norm = nn.BatchNorm1d(2)
    norm(torch.randn(8, 2) * 3 + 1)
    nn.init.uniform_(norm.weight)
    Surgeon(model, optimizer).replace(layer, torch.tensor([6, 3]), births(layer, 2, norm=norm))
    for key in ("weight", "bias", "running_mean", "running_var"):
        assert torch.equal(getattr(layer.norm, key)[[6, 3]], getattr(norm, key))
    raw = torch.randn(5, 2)
    assert torch.equal(layer.path(raw, norm), norm.eval()(raw).relu())
    plain = nn.BatchNorm1d(2, affine=False)
    Surgeon(model, optimizer).resize(layer, torch.arange(2), births(layer, 2, norm=plain))
    assert layer.norm.weight[2:].tolist() == [1, 1]


def test_twins_have_the_norm_and_the_gradient_of_their_parent() -> None:
    model, layer, optimizer, _ = prepared("norm")
    grads = [layer.producer.weight.grad.clone(), layer.consumers[0][1].weight.grad.clone()]
    Surgeon(model, optimizer).split(layer, torch.tensor([3, 3]))
    for tensor in (layer.norm.weight, layer.norm.bias, layer.norm.running_mean, layer.norm.running_var):
        assert torch.equal(tensor[WIDTH:], tensor[[3, 3]])
    assert torch.allclose(layer.producer.weight.grad[[3, 12, 13]], (grads[0][3] / 3).expand(3, -1))
    assert torch.equal(layer.producer.weight.grad[4], grads[0][4])
    assert torch.equal(layer.consumers[0][1].weight.grad[:, 12:], grads[1][:, [3, 3]])


def test_after_one_step_of_adam_twins_are_what_their_parent_is() -> None:
    """Adam goes by the direction of a gradient: copies with m/k and v/k^2 take the step of the neuron that they are.

    The outgoing weights of k copies have the gradient of their parent's each, and would go k times as far in sum: here
    they stand still.
    """
    model, _, _, x = prepared("mlp", torch.float64)
    model[2].p = 0.0
    twin = copy.deepcopy(model)
    (twin_layer,) = find_layers(twin, "0")
    optimizers = [
        torch.optim.Adam(
            [{"params": net[0].parameters()}, {"params": net[3].parameters(), "lr": 0.0}], lr=0.01, eps=1e-30
        )
        for net in (model, twin)
    ]
    for net, optimizer in zip((model, twin), optimizers, strict=True):
        train(net, optimizer, x, 3)
    Surgeon(twin, optimizers[1]).split(twin_layer, torch.tensor([1, 5, 1, 0, 1]))
    before = model(x)
    for net, optimizer in zip((model, twin), optimizers, strict=True):
        train(net, optimizer, x, 1)
    assert (model(x) - before).abs().max() > 1e-3
    assert (model(x) - twin(x)).abs().max() <= 1e-12


def test_folds_are_added_and_moments_stay() -> None:
    model, layer, optimizer, _ = prepared("two consumers")
    before = copy.deepcopy(model.state_dict())
    moments = copy.deepcopy(optimizer.state_dict())
    deltas = (torch.ones(10, WIDTH), torch.full((3, WIDTH), 2.0))
    Surgeon(model, optimizer).add_to_outgoing(layer, deltas, (torch.ones(10), None))
    assert torch.equal(model.left.weight, before["left.weight"] + 1)
    assert torch.equal(model.left.bias, before["left.bias"] + 1)
    assert torch.equal(model.right.weight, before["right.weight"] + 2)
    assert torch.equal(model.body.weight, before["body.weight"])
    assert is_same(moments, optimizer.state_dict())


def test_groups_keep_their_members_their_order_and_their_settings() -> None:
    model, layer, _, x = prepared("norm")
    frozen = model[3].bias.requires_grad_(False)
    optimizer = torch.optim.AdamW(
        [
            {"params": [model[3].weight, model[0].bias], "lr": 0.1, "name": "head"},
            {"params": [model[1].weight, model[0].weight], "weight_decay": 0.3},
        ],
        lr=0.01,
    )
    model[0].weight.mark = "kept"
    train(model, optimizer, x, 1)
    outside = model[1].bias
    Surgeon(model, optimizer).resize(layer, torch.arange(WIDTH), births(layer, 1))
    first, second = optimizer.param_groups
    assert [id(p) for p in first["params"]] == [id(model[3].weight), id(model[0].bias)]
    assert [id(p) for p in second["params"]] == [id(model[1].weight), id(model[0].weight)]
    assert (first["lr"], first["name"], second["lr"], second["weight_decay"]) == (0.1, "head", 0.01, 0.3)
    assert model[1].bias is not outside
    assert model[1].bias.shape == (WIDTH + 1,)  # it is in no group
    assert model[0].weight.mark == "kept"
    assert model[3].bias is frozen
    assert len(optimizer.state) == 4
    train(model, optimizer, x, 1)


def test_what_is_frozen_stays_frozen() -> None:
    model, layer, _, _ = prepared("mlp")
    model[0].weight.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad])
    Surgeon(model, optimizer).split(layer, torch.tensor([0]))
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True]


def test_the_graph_of_the_last_loss_may_be_kept() -> None:
    model, layer, optimizer, x = prepared("mlp")
    kept = model(x).square().mean()
    surgeon = Surgeon(model, optimizer)
    surgeon.resize(layer, torch.arange(WIDTH), births(layer, 2))
    optimizer.zero_grad()
    model(x).square().mean().backward()
    assert model[0].weight.grad.shape == (WIDTH + 2, 64)
    surgeon.resize(layer, torch.arange(3))
    model(x).square().mean().backward()
    assert kept.grad_fn is not None
    kept.backward()  # into parameters that are gone
    assert model[0].weight.grad.shape == (3, 64)


def test_the_producer_of_one_layer_is_the_consumer_of_another() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 9), nn.ReLU(), nn.Linear(9, 10))
    first, second = find_layers(model)
    optimizer = torch.optim.Adam(model.parameters())
    x = inputs("mlp")
    train(model, optimizer, x, 1)
    before = model(x).detach()
    surgeon = Surgeon(model, optimizer)
    for layer in (first, second, first):
        surgeon.resize(layer, torch.arange(layer.width), births(layer, 1))
        surgeon.split(layer, torch.tensor([0]))
    assert [tuple(model[n].weight.shape) for n in (0, 2, 4)] == [(12, 64), (11, 12), (10, 11)]
    assert (model(x) - before).abs().max() <= 1e-6
    train(model, optimizer, x, 2)


def short(layer: Layer, **changes: Any) -> Births:
    whole = births(layer, 2)
    fields = {name: getattr(whole, name) for name in ("incoming_weight", "incoming_bias", "outgoing", "norm")}
    return Births(**{**fields, **changes})


ERRORS: dict[str, tuple[Callable[[Surgeon, Layer], object], str]] = {
    "no row": (lambda by, of: by.resize(of, torch.tensor([0, 12])), "keep names row 12 of '0', whose rows are 0 to 11"),
    "negative": (lambda by, of: by.split(of, torch.tensor([-1])), "parents names row -1"),
    "twice": (lambda by, of: by.resize(of, torch.tensor([1, 1])), "keep names a row of '0' twice"),
    "mask": (lambda by, of: by.resize(of, torch.ones(12, dtype=torch.bool)), "give the numbers of rows"),
    "nobody": (lambda by, of: by.resize(of, torch.arange(0)), "'0' would be left with no neuron"),
    "slots": (lambda by, of: by.replace(of, torch.tensor([1]), births(of, 2)), "2 births for 1 slots of '0'"),
    "incoming": (
        lambda by, of: by.resize(of, torch.arange(3), short(of, incoming_weight=torch.ones(2, 3))),
        r"incoming_weight of the births in '0' has shape \(2, 3\): it must be \(2, 64\)",
    ),
    "bias": (
        lambda by, of: by.resize(of, torch.arange(3), short(of, incoming_bias=torch.ones(3))),
        r"it must be \(2,\)",
    ),
    "outgoing": (
        lambda by, of: by.resize(of, torch.arange(3), short(of, outgoing=(torch.ones(2, 10),))),
        r"outgoing of the births in '0' for '3' has shape \(2, 10\): it must be \(10, 2\)",
    ),
    "consumers": (lambda by, of: by.resize(of, torch.arange(3), short(of, outgoing=())), "0 tensors for 1 consumers"),
    "norm": (lambda by, of: by.resize(of, torch.arange(3), short(of, norm=torch.tensor([12, 0]))), "names row 12"),
    "own norm": (
        lambda by, of: by.resize(of, torch.arange(3), short(of, norm=nn.BatchNorm1d(3))),
        r"weight of the norm of the births in '0' has shape \(3,\): it must be \(2,\)",
    ),
    "norms": (lambda by, of: by.resize(of, torch.arange(3), short(of, norm=torch.tensor([1]))), r"must be \(2,\)"),
    "delta": (lambda by, of: by.add_to_outgoing(of, (torch.ones(10, 3),)), r"delta of '3' has shape .* \(10, 12\)"),
    "deltas": (lambda by, of: by.add_to_outgoing(of, ()), "0 deltas for the 1 consumers of '0'"),
    "bias deltas": (
        lambda by, of: by.add_to_outgoing(of, (torch.ones(10, 12),), (torch.ones(3),)),
        r"bias_delta of '3' has shape \(3,\)",
    ),
    "several": (lambda by, of: by.add_to_outgoing(of, (torch.ones(10, 12),), ()), "0 bias_deltas for the 1"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_does_not_fit_is_an_error_and_nothing_has_changed(case: str) -> None:
    model, layer, optimizer, _ = prepared("norm")
    operate, why = ERRORS[case]
    before = copy.deepcopy([model.state_dict(), optimizer.state_dict()])
    parameters = list(model.parameters())
    with pytest.raises(TurnoverError, match=why):
        operate(Surgeon(model, optimizer), layer)
    assert is_same(before, [model.state_dict(), optimizer.state_dict()])
    assert all(old is new for old, new in zip(parameters, model.parameters(), strict=True))


def test_a_bias_for_a_layer_without_one_is_an_error() -> None:
    model, layer, optimizer, _ = prepared("no biases")
    surgeon = Surgeon(model, optimizer)
    with pytest.raises(TurnoverError, match="incoming_bias of the births in '0', which has no bias: give None"):
        surgeon.resize(layer, torch.arange(3), short(layer, incoming_bias=torch.ones(2)))
    with pytest.raises(TurnoverError, match="a bias_delta for '2', which has no bias: give None"):
        surgeon.add_to_outgoing(layer, (torch.ones(10, WIDTH),), (torch.ones(10),))


@pytest.mark.parametrize("kind", ["register_hook", "register_post_accumulate_grad_hook"])
def test_hooks_on_a_gradient_are_not_lost(kind: str) -> None:
    model, layer, optimizer, x = prepared("mlp")
    calls: list[int] = []
    getattr(model[3].weight, kind)(lambda _: calls.append(1))
    surgeon = Surgeon(model, optimizer)
    with pytest.raises(TurnoverRefusedError, match=r"'3\.weight' has hooks on its gradient"):
        surgeon.split(layer, torch.tensor([0]))
    assert model[0].weight.shape == (WIDTH, 64)
    surgeon.replace(layer, torch.tensor([0]), births(layer, 1))
    train(model, optimizer, x, 1)
    assert calls == [1]


def test_torchs_global_state_is_left_as_it_is() -> None:
    model, layer, optimizer, _ = prepared("mlp")
    numbers = torch.get_rng_state()
    surgeon = Surgeon(model, optimizer)
    surgeon.split(layer, torch.tensor([0]))
    surgeon.replace(layer, torch.tensor([0]), births(layer, 1))
    surgeon.add_to_outgoing(layer, (torch.ones(10, WIDTH + 1),))
    assert torch.equal(torch.get_rng_state(), numbers)
    assert torch.is_grad_enabled()
