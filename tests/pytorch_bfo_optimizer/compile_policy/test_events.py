from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pytorch_bfo_optimizer.compile_policy.events import Events, Watch

from .conftest import RECOMPILE_LIMIT

HERE = __file__


def watched(function: Any, *calls: tuple[Any, ...]) -> Events:
    compiled = torch.compile(function, backend="eager")
    watch = Watch()
    watch.begin()
    for args in calls:
        compiled(*args)
    assert watch.happened()
    found = watch.end()
    assert not watch.happened()
    return found


def prints_first(x: Tensor) -> Tensor:
    print(end="")
    return x + 1


def prints_in_a_loop(x: Tensor) -> Tensor:
    for _ in range(3):
        print(end="")
        x = x + 1
    return x


def loops_on_data(x: Tensor) -> Tensor:
    while x.sum() < 20:
        x = x + 10
    return x


@pytest.mark.parametrize(
    ("function", "says", "count"),
    [(prints_first, "print", 1), (prints_in_a_loop, "print", 1), (loops_on_data, "", 2)],
)
def test_breaks_have_a_reason_and_a_place(function: Any, says: str, count: int) -> None:
    found = watched(function, (torch.ones(3),))
    assert len(found.breaks) == count
    line = function.__code__.co_firstlineno
    for text in found.breaks:
        assert says in text
        assert any(text.endswith(f" at {HERE}:{line + near}") for near in range(1, 4)), text
    assert (found.recompiles, found.limit_hits, found.errors) == ((), (), ())


def test_recompiles_and_the_limit_are_told_apart() -> None:
    def function(x: Tensor, word: str) -> Tensor:
        return x + len(word)

    x = torch.ones(2)
    limit = RECOMPILE_LIMIT
    found = watched(function, *((x, "k" * count) for count in range(limit)))
    assert len(found.recompiles) == limit - 1
    assert "word == 'k'" in found.recompiles[1]
    assert found.limit_hits == ()
    compiled = torch.compile(function, backend="eager")
    watch = Watch()
    watch.begin()
    compiled(x, "another")
    found = watch.end()
    assert (len(found.limit_hits), found.recompiles, found.breaks, found.errors) == (1, (), (), ())
    watch.begin()
    compiled(x, "and another")  # in silence
    assert not watch.happened()


def test_what_others_compile_between_two_calls_is_not_ours() -> None:
    watch = Watch()
    watch.begin()
    watched(prints_first, (torch.ones(3),))
    watch.begin()
    assert not watch.happened()
    torch.compile(lambda x: x * 3, backend="eager")(torch.ones(2))
    assert watch.end() == Events()


@pytest.mark.parametrize("clears_counters", [False, True])
def test_a_reset_between_two_calls_is_survived(clears_counters: bool) -> None:
    watched(prints_first, (torch.ones(3),))
    watch = Watch()
    watch.begin()
    torch._dynamo.reset()
    if clears_counters:
        torch._dynamo.utils.counters.clear()
    watch.begin()
    torch.compile(prints_first, backend="eager")(torch.ones(3))
    assert len(watch.end().breaks) == 1


def test_an_error_that_dynamo_keeps_to_itself_is_told() -> None:
    def function(x: Tensor) -> Tensor:
        y = x * 2
        print(end="")
        return y.sum()

    with torch._dynamo.config.patch(suppress_errors=True):
        found = watched(function, (torch.ones(3, requires_grad=True),))  # warnings are errors here
    assert len(found.errors) == 1
    assert "leaf" in found.errors[0]
