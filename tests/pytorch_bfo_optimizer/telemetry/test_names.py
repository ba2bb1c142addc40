from __future__ import annotations

import pytest
import torch
from torch import nn

from pytorch_bfo_optimizer import GradientCollector, TelemetryError
from pytorch_bfo_optimizer.telemetry import names

NAMES = ("trunk.0.weight", "trunk.0.bias", "trunk.10.weight", "head.weight")


def test_a_generator_is_read_once_and_then_kept() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    collector = GradientCollector(pair for pair in model.named_parameters())
    model(torch.ones(1, 2)).sum().backward()
    samples = [collector.collect().materialize() for _ in range(3)]
    assert [len(sample.norms) for sample in samples] == [4, 4, 4]
    assert samples[0].names == tuple(name for name, _ in model.named_parameters())


def test_groups_may_be_generators_too() -> None:
    found = names.members(NAMES, {"seed": (name for name in ["head"]), "host": iter(["trunk"])})
    assert found == {"seed": NAMES[3:], "host": NAMES[:3]}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("_orig_mod.0.weight", "0.weight"),
        ("block._orig_mod.weight", "block.weight"),
        ("my_orig_mod.weight", "my_orig_mod.weight"),
        ("weight", "weight"),
    ],
)
def test_what_compile_puts_into_names_is_taken_out(given: str, kept: str) -> None:
    assert list(names.named([(given, torch.zeros(1))])) == [kept]
    assert names.members((kept,), {"all": [given]}) == {"all": (kept,)}


def test_a_tied_parameter_is_measured_once_under_its_first_name() -> None:
    tied = torch.zeros(2)
    assert list(names.named([("embed", tied), ("other", torch.zeros(2)), ("head", tied), ("embed", tied)])) == [
        "embed",
        "other",
    ]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([torch.zeros(2)], "is Tensor, and no pair"),
        (["weight"], "is str, and no pair"),
        ([(torch.zeros(1), "weight")], "is tuple, and no pair"),
        ([("weight", 3)], "'weight' is int, and no tensor"),
        ([("a", torch.zeros(1)), ("a", torch.zeros(1))], "'a' is there twice"),
        ([("_orig_mod.a", torch.zeros(1)), ("a", torch.zeros(1))], "'a' is there twice"),
    ],
)
def test_what_is_no_named_parameter_is_refused(pairs: list, message: str) -> None:
    with pytest.raises(TelemetryError, match=message):
        names.named(pairs)


def test_a_module_stands_for_what_lies_in_it_and_for_no_namesake() -> None:
    assert names.members(NAMES, {"one": ["trunk.0"], "two": ["head.weight", "trunk.10"]}) == {
        "one": NAMES[:2],
        "two": ("trunk.10.weight", "head.weight"),
    }
    with pytest.raises(TelemetryError, match=r"no parameter is called 'trunk\.1' .* there is trunk"):
        names.members(NAMES, {"one": ["trunk.1"]})


def test_a_function_puts_names_into_groups_or_leaves_them_out() -> None:
    groups = names.members(NAMES, lambda name: None if name.endswith("bias") else name.partition(".")[0])
    assert groups == {"trunk": ("trunk.0.weight", "trunk.10.weight"), "head": ("head.weight",)}


def test_an_empty_group_is_one() -> None:
    assert names.members(NAMES, {"seed": []}) == {"seed": ()}
    assert names.members(NAMES, None) == {}


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"host": "trunk"}, r"is a text: give a list of names, such as \['trunk'\]"),
        ({"host": [torch.zeros(1)]}, "holds Tensor: give names"),
        ({"host": ["haed.weight"]}, "there is head.weight"),
    ],
)
def test_a_group_that_names_nothing_is_refused(groups: dict, message: str) -> None:
    with pytest.raises(TelemetryError, match=message):
        names.members(NAMES, groups)


def test_no_parameters_at_all_are_no_error_but_a_group_of_them_is() -> None:
    assert GradientCollector([]).collect().materialize().status == "no gradients"
    with pytest.raises(TelemetryError, match="no parameter at all"):
        GradientCollector([], {"host": ["trunk"]})
