from __future__ import annotations

import pytest
import torch
from torch import nn

from pytorch_bfo_optimizer.compile_policy.preflight import disabled_by, refused


@pytest.mark.parametrize(("value", "off"), [("1", True), ("true", True), ("0", False), ("", False), ("False", False)])
def test_the_environment_counts_whenever_it_was_set(value: str, off: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", value)
    assert (disabled_by() is not None) == off


def test_stances_that_let_nothing_be_compiled() -> None:
    assert disabled_by() is None
    for stance, off in (("force_eager", True), ("eager_on_recompile", True), ("fail_on_recompile", False)):
        with torch.compiler.set_stance(stance):
            assert (disabled_by() is not None) == off


def test_within_a_compile_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert "while torch was compiling" in str(disabled_by())


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_what_has_no_shapes_yet_is_refused() -> None:
    lazy = nn.Sequential(nn.LazyLinear(3))
    assert "lazy parameters" in str(refused(lazy, lazy))
    lazy(torch.ones(2, 4))
    assert refused(lazy, lazy) is None


def test_a_function_that_is_compiled_already_is_refused() -> None:
    def function() -> None: ...

    assert refused(function, None) is None
    assert "torch.compile returned" in str(refused(torch.compile(function, backend="eager"), None))
