"""A probe from Python: the same answer, and torch's state as it was."""

from __future__ import annotations

import logging
import random
import warnings

import numpy as np
import pytest
import torch
import torch._dynamo

import bfo_diag
from bfo_diag import api
from bfo_diag.errors import DiagError
from bfo_diag.torch_state import as_it_was, default_device

pytestmark = pytest.mark.compile


def noisy_step():
    """Change what can be changed for all of torch, and break the graph."""
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    x = torch.randn(4)
    print("hello")
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    torch._dynamo.config.capture_scalar_outputs = True
    logging.getLogger("torch._dynamo").setLevel(logging.CRITICAL)
    return (x * 2).sum()


def state() -> dict[str, object]:
    logger = logging.getLogger("torch.__trace")
    return {
        "torch": torch.get_rng_state().tolist(),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),
        "grad": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "device": default_device(),
        "config": {k: repr(v) for k, v in sorted(torch._dynamo.config.get_config_copy().items())},
        "inductor": torch._inductor.config.fallback_random,
        "stance": torch._dynamo.eval_frame._stance,
        "trace": (logger.level, logger.propagate, list(logger.handlers)),
        "dynamo logger": logging.getLogger("torch._dynamo").level,
        "filters": list(warnings.filters),
    }


@pytest.mark.parametrize("probe", ["compile", "gradients"])
def test_the_state_of_torch_is_as_it_was(probe):

    before = state()
    options = {"backend": "eager", "fullgraph": True} if probe == "compile" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = api.examine(probe, noisy_step, **options)
    assert done.run.observations
    after = state()
    assert {key for key in before if before[key] != after[key]} == set()


def test_it_is_put_back_after_an_exception_too():
    before = state()

    def break_everything() -> None:
        torch.compiler.set_stance("force_eager")
        noisy_step()
        raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"), as_it_was():
        break_everything()
    after = state()
    assert {key for key in before if before[key] != after[key]} == set()


def test_a_live_step_gets_the_answer_that_the_command_gives():
    def step():
        y = torch.ones(4) * 2
        print("hello")
        return y + 1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = api.examine("compile", step, backend="eager")
    assert [finding.code for finding in done.findings if finding.gates] == ["GB0059"]
    assert done.findings[0].place.source == 'print("hello")'
    assert done.summary["user_sites"] == 1


def test_a_probe_that_needs_processes_is_refused():
    with pytest.raises(DiagError, match="bench measures in fresh processes"):
        api.examine("bench", noisy_step)


def test_a_probe_that_is_not_there_is_refused():
    with pytest.raises(DiagError, match="there is no probe 'guess'"):
        api.examine("guess", noisy_step)


def test_the_public_names():
    assert bfo_diag.__all__ == ["Case"]
