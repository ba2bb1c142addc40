from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pytorch_bfo_optimizer.errors import TurnoverRefusedError
from pytorch_bfo_optimizer.turnover.layers import find_layers


class Model(nn.Module):
    """A producer `first`, a consumer `second`, and whatever `between` does with the two."""

    def __init__(self, between: Callable[[Model, Tensor], object], width: int = 6) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, width), nn.Linear(width, 4)
        self.other = nn.Linear(width, 2)
        self.outside = nn.Linear(4, width)
        self.norm = nn.LayerNorm(width)
        self.rms = nn.RMSNorm(width)
        self.group = nn.GroupNorm(2, width)
        self.batch = nn.BatchNorm1d(width)
        self.narrow = nn.BatchNorm1d(3)
        self.scale = nn.Parameter(torch.ones(width))
        self.prelu = nn.PReLU(width)
        self.attention = nn.MultiheadAttention(width, 1)
        self.relu = nn.ReLU(inplace=True)
        self.between = between

    def forward(self, x: Tensor) -> object:
        return self.between(self, x)


REFUSED: dict[str, tuple[Callable[[Model, Tensor], object], str]] = {
    "residual": (
        lambda m, x: m.second(m.first(x) + m.outside(x)),
        "added to another tensor .'outside'. in the function",
    ),
    "result": (lambda m, x: m.first(x), "leaves the module that was traced"),
    "gate": (lambda m, x: m.second(m.first(x) * m.outside(x)), "put together with another tensor .'outside'"),
    "scale": (lambda m, x: m.second(m.first(x) * m.scale), "put together with another tensor .'scale'"),
    "layer norm": (lambda m, x: m.second(m.norm(m.first(x))), "normalised by LayerNorm 'norm'"),
    "functional norm": (lambda m, x: m.second(functional.layer_norm(m.first(x), (6,))), "function 'layer_norm'"),
    "rms norm": (lambda m, x: m.second(m.rms(m.first(x))), "normalised by RMSNorm 'rms'"),
    "group norm": (lambda m, x: m.second(m.group(m.first(x))), "normalised by GroupNorm 'group'"),
    "two norms": (lambda m, x: m.second(m.batch(m.batch(m.first(x)))), "normalised a second time by BatchNorm1d"),
    "narrow norm": (lambda m, x: m.second(m.narrow(m.first(x))), "over 3 features, and not over its 6 neurons"),
    "softmax": (lambda m, x: m.second(m.first(x).softmax(-1)), "method 'softmax' .node 'softmax'., which is not known"),
    "cat": (lambda m, x: m.second(torch.cat([m.first(x), x], -1)), "the function 'cat'"),
    "attention": (lambda m, x: m.attention(m.first(x), m.first(x), x)[0], "'first' is called 2 times"),
    "unknown module": (lambda m, x: m.attention(m.first(x), x, x)[0], "MultiheadAttention 'attention'"),
    "prelu by channel": (lambda m, x: m.second(m.prelu(m.first(x))), "PReLU 'prelu'"),
    "shape": (lambda m, x: m.second(m.first(x)) * m.first(x).shape[-1], "'first' is called 2 times"),
    "size": (lambda m, x: (lambda h: m.second(h) / h.size(-1))(m.first(x)), "method 'size'"),
    "twice read": (lambda m, x: m.second(m.first(x)) + m.second(m.outside(x)), "'second' is called 2 times"),
    "weight read": (lambda m, x: m.second(m.first(x)) @ m.first.weight.T, "parameter 'first.weight' is read by"),
    "consumer's weight": (lambda m, x: m.second(m.first(x)) @ m.second.weight, "parameter 'second.weight' is read"),
    "functional": (
        lambda m, x: functional.linear(m.first(x), m.second.weight),
        "into the function 'linear'|put together",
    ),
    "unread": (lambda m, x: (m.first(x), m.second(m.outside(x)))[1], "nothing reads its output"),
    "different": (
        lambda m, x: (lambda h: m.second(h.relu()) + m.other(h.tanh()).sum())(m.first(x)),
        "'second' and 'other' read different activations",
    ),
    "overwritten": (
        lambda m, x: (lambda h: m.second(m.relu(h)) + m.other(h).sum())(m.first(x)),
        "written to in place by ReLU 'relu' while others read it",
    ),
    "overwritten by a method": (
        lambda m, x: (lambda h: m.second(h.relu_()) + m.other(h).sum())(m.first(x)),
        "written to in place by the method 'relu_'",
    ),
    "overwritten by a function": (
        lambda m, x: (lambda h: m.second(functional.relu(h, True)) + m.other(h).sum())(m.first(x)),
        "written to in place by the function 'relu'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_go_by_single_neurons_is_refused_by_name(case: str) -> None:
    between, why = REFUSED[case]
    with pytest.raises(
        TurnoverRefusedError, match=rf"'first' can't be resized: .*({why})(.|\n)* Leave it out of layers="
    ):
        find_layers(Model(between), "first")


PASSED: dict[str, Callable[[Model, Tensor], object]] = {
    "nothing": lambda m, x: m.second(m.first(x)),
    "function": lambda m, x: m.second(functional.gelu(m.first(x), approximate="tanh")),
    "method": lambda m, x: m.second(m.first(x).relu_()),
    "function in place": lambda m, x: m.second(functional.relu(m.first(x), inplace=True)),
    "numbers": lambda m, x: m.second(2 * m.first(x).clamp(min=-1, max=2) ** 2 / 3 - 1),
    "swish by hand": lambda m, x: (lambda h: m.second(h * torch.sigmoid(h)))(m.first(x)),
    "gelu by hand": lambda m, x: (
        lambda h: m.second(0.5 * h * (1.0 + torch.tanh(0.79788456 * (h + 0.044715 * torch.pow(h, 3.0)))))
    )(m.first(x)),
    "module in place": lambda m, x: m.second(m.relu(m.first(x))),
    "dropout function": lambda m, x: m.second(functional.dropout(m.first(x).tanh(), 0.5, True)),
    "two readers": lambda m, x: (lambda h: m.second(h) + m.other(functional.dropout(h, 0.5, True)).sum())(
        m.first(x).relu()
    ),
    "norm": lambda m, x: m.second(m.batch(m.first(x)).relu()),
    "named input": lambda m, x: m.second(input=m.first(x)),
}


@pytest.mark.parametrize("case", PASSED)
def test_what_goes_by_single_neurons_is_followed_and_computed_in_evaluation(case: str) -> None:
    model = Model(PASSED[case]).eval()
    (layer,) = find_layers(model, "first")
    assert layer.consumers[0][0] == "second"
    assert (layer.norm is model.batch) is (case == "norm")
    x = torch.randn(5, 4)
    raw = layer.producer(x).detach()
    kept = raw.clone()
    read = layer.path(raw)
    assert torch.equal(raw, kept)
    seen: list[Tensor] = []
    model.second.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(args[0] if args else kwargs["input"]), with_kwargs=True
    )
    model(x)
    is_dropped = seen[0] == 0 if case == "dropout function" else torch.zeros_like(read, dtype=torch.bool)
    doubled = seen[0] / 2 if case == "dropout function" else seen[0]
    assert torch.equal(read.masked_fill(is_dropped, 0), doubled)


class Moody(nn.Module):
    """Its hidden layer is read by `extra` only while it trains, or only where it is asked for."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.first, self.second, self.extra = nn.Linear(4, 6), nn.Linear(6, 4), nn.Linear(6, 1)
        self.mode = mode

    def forward(self, x: Tensor, target: Tensor | None = None) -> Tensor:
        h = torch.relu(self.first(x))
        out = self.second(h)
        if (self.training and self.mode == "training") or (target is None and self.mode == "without target"):
            out = out + self.extra(h)
        return out


@pytest.mark.parametrize("mode", ["training", "without target"])
def test_a_reader_on_some_calls_alone_is_refused(mode: str) -> None:
    for model in (Moody(mode), Moody(mode).eval()):
        with pytest.raises(TurnoverRefusedError, match="what reads it depends on the mode of the model or on optional"):
            find_layers(model, "first")
    assert len(find_layers(Moody("never"), "first")) == 1
