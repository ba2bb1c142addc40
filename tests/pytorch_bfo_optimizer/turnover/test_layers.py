from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bfo_diag.cases.char_transformer import CharTransformer
from pytorch_bfo_optimizer.errors import TurnoverError, TurnoverRefusedError
from pytorch_bfo_optimizer.turnover.layers import find_layers
from pytorch_bfo_optimizer.turnover.surgery import Surgeon


class Blocks(nn.Module):
    """Residual blocks, as in a transformer without attention, of any leading shape."""

    def __init__(self, depth: int = 2) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 4)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"norm": nn.LayerNorm(4), "mlp": nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4))})
            for _ in range(depth)
        )
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block["mlp"](block["norm"](x))
        return self.head(x)


def mlp(*between: nn.Module, width: int = 6) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, width), *between, nn.Linear(width, 3))


def test_every_linear_that_qualifies_is_found_with_its_consumer() -> None:
    model = Blocks()
    found = find_layers(model)
    assert [layer.name for layer in found] == ["blocks.0.mlp.0", "blocks.1.mlp.0"]
    layer = found[1]
    assert layer.producer is model.blocks[1]["mlp"][0]
    assert layer.consumers == (("blocks.1.mlp.2", model.blocks[1]["mlp"][2]),)
    assert layer.tap is model.blocks[1]["mlp"][2]
    assert (layer.width, layer.norm, layer.scope) == (6, None, model)
    assert [part.name for part in layer.parts] == [
        "blocks.1.mlp.0.weight",
        "blocks.1.mlp.0.bias",
        "blocks.1.mlp.2.weight",
    ]


def test_where_the_root_decides_by_shapes_the_first_module_below_it_that_can_be_traced_counts() -> None:
    model = CharTransformer(50)
    (layer,) = find_layers(model)
    assert (layer.name, layer.scope_name) == ("mlp.0", "mlp")
    assert layer.scope is model.mlp


@pytest.mark.parametrize("kind", [nn.TransformerEncoderLayer, nn.TransformerDecoderLayer])
def test_torchs_own_transformer_layers_are_looked_into(kind: type[nn.Module]) -> None:
    model = nn.Sequential(kind(8, 2, dim_feedforward=16))
    (layer,) = find_layers(model)
    assert layer.name == "0.linear1"
    assert [name for name, _ in layer.consumers] == ["0.linear2"]
    assert layer.tap is model[0].dropout


def test_torchs_own_encoder_works_in_another_width_training_and_on_its_fast_path() -> None:
    encoder = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    model = nn.TransformerEncoder(encoder, 2)
    (_, layer) = find_layers(model)
    x = torch.randn(2, 5, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.eval()
    with torch.no_grad():
        before = model(x)
        surgeon = Surgeon(model, optimizer)
        surgeon.watch([layer])
        surgeon.split(layer, torch.tensor([2, 3]))
        assert (model(x) - before).abs().max() <= 1e-6
    model.train()
    model(x).sum().backward()
    assert layer.producer.weight.grad is not None
    surgeon.split(layer, torch.tensor([2, 3]))  # and its calls were those of the trace


def test_several_consumers_and_names_within_the_scope() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(4, 6, bias=False)
            self.left, self.right = nn.Linear(6, 2), nn.Linear(6, 3, bias=False)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = torch.relu(self.body(x))
            return self.left(h), self.right(h)

    (layer,) = find_layers(nn.Sequential(Heads()))
    assert [name for name, _ in layer.consumers] == ["0.left", "0.right"]
    assert [part.name for part in layer.parts] == ["0.body.weight", "0.left.weight", "0.right.weight"]


def test_patterns_choose_and_the_order_is_that_of_the_model() -> None:
    model = Blocks(3)
    names = ["blocks.2.mlp.0", "blocks.?.mlp.0"]
    assert [layer.name for layer in find_layers(model, names)] == [f"blocks.{n}.mlp.0" for n in range(3)]
    assert [layer.name for layer in find_layers(model, "blocks.1.*")] == ["blocks.1.mlp.0"]


@pytest.mark.parametrize(
    ("patterns", "error", "message"),
    [
        ("layers.*", TurnoverError, "layers='layers.*' matches no module of Blocks: its Linear layers are 'stem', "),
        ("blocks.*.norm", TurnoverError, r"matches 'blocks.0.norm' \(LayerNorm\).* and no nn.Linear"),
        (
            "head",
            TurnoverRefusedError,
            "no layer of 'head' can be resized:\n  'head' can't be resized: its output leaves",
        ),
        (["blocks.*.mlp.0", "stem"], TurnoverRefusedError, "'stem' can't be resized: its output is"),
        ([], TurnoverError, "no patterns were given"),
    ],
)
def test_a_pattern_without_a_layer_is_an_error_that_says_why(
    patterns: str | list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        find_layers(Blocks(), patterns)


def test_a_model_of_which_nothing_qualifies_says_why_for_each() -> None:
    with pytest.raises(TurnoverRefusedError, match=r"no layer of the model can be resized:\n  '0'.*\n  '2'"):
        find_layers(nn.Sequential(nn.Linear(2, 3), nn.Softmax(-1), nn.Linear(3, 2)))


def test_a_model_without_a_linear_says_so() -> None:
    with pytest.raises(TurnoverError, match=r"and no nn\.Linear"):
        find_layers(nn.Sequential(nn.ReLU()))


@pytest.mark.compile
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo's, of inner inputs
@pytest.mark.parametrize("where", ["wrapper", "in place", "inner wrapper", "inner in place"])
def test_compiled_models_are_looked_through_and_work_in_another_width(where: str) -> None:
    torch.compiler.reset()
    plain = Blocks()
    model: nn.Module = plain
    if where == "wrapper":
        model = torch.compile(plain, backend="eager")
    elif where == "in place":
        plain.compile(backend="eager")
    elif where == "inner wrapper":
        plain.blocks[0]["mlp"] = torch.compile(plain.blocks[0]["mlp"], backend="eager")
    else:
        plain.blocks[0]["mlp"].compile(backend="eager")
    layers = find_layers(model, "blocks.*.mlp.0")
    assert [layer.name for layer in layers] == ["blocks.0.mlp.0", "blocks.1.mlp.0"]
    assert all(layer.scope is plain for layer in layers)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    surgeon = Surgeon(model, optimizer)
    surgeon.watch(layers)
    x = torch.randn(5, 3)
    before = model(x)
    before.sum().backward()
    optimizer.step()
    before = model(x).detach()
    for width in (8, 10):
        surgeon.split(layers[0], torch.tensor([0, 0]))
        after = model(x)
        assert (after - before).abs().max() <= 1e-6
        after.sum().backward()
        assert layers[0].producer.weight.grad.shape == (width, 4)
    torch.compiler.reset()


def test_the_path_is_what_the_consumers_read_in_evaluation() -> None:
    model = mlp(nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.5))
    (layer,) = find_layers(model, "0")
    assert isinstance(layer.tap, nn.Dropout)
    x = torch.randn(7, 4)
    model(x)  # running statistics
    read: list[Tensor] = []
    handle = layer.tap.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    model.eval()
    model(x)
    model.train()
    handle.remove()
    statistics = layer.norm.running_mean.clone()
    raw = layer.producer(x).detach().requires_grad_()
    out = layer.path(raw)
    assert torch.equal(out, read[0])
    assert torch.equal(layer.norm.running_mean, statistics)
    out.sum().backward()
    assert raw.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("between", "tap"),
    [
        ([nn.ReLU()], "Linear"),
        ([nn.ReLU(), nn.Dropout(0.1)], "Dropout"),
        ([nn.Dropout(0.1), nn.ReLU()], "Linear"),
        ([nn.Dropout(0.1), nn.Identity()], "Dropout"),
    ],
)
def test_the_tap_is_the_dropout_before_the_consumers(between: list[nn.Module], tap: str) -> None:
    (layer,) = find_layers(mlp(*between), "0")
    assert type(layer.tap).__name__ == tap


class Shared(nn.Module):
    """A dropout between producer and consumer that the forward around them uses too."""

    def __init__(self, *, decides: bool) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.1)
        self.mlp, self.decides = mlp(self.dropout), decides

    def forward(self, x: Tensor) -> Tensor:
        return x if self.decides and x.sum() > 0 else self.dropout(self.mlp(x))


@pytest.mark.parametrize(("decides", "scope_name"), [(False, ""), (True, "mlp")])
def test_a_dropout_that_serves_elsewhere_too_is_no_tap(decides: bool, scope_name: str) -> None:
    (layer,) = find_layers(Shared(decides=decides), "mlp.0")
    assert layer.scope_name == scope_name
    assert layer.tap is layer.consumers[0][1]


def test_a_dropout_that_is_called_twice_is_no_tap() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.dropout = nn.Linear(4, 6), nn.Linear(6, 4), nn.Dropout(0.1)

        def forward(self, x: Tensor) -> Tensor:
            return self.dropout(self.second(self.dropout(self.first(x).relu())))

    (layer,) = find_layers(Twice(), "first")
    assert layer.tap is layer.consumers[0][1]


def test_finding_layers_changes_nothing() -> None:
    torch.manual_seed(3)
    model = Blocks()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    find_layers(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
