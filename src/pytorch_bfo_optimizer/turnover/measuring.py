"""A user's measurement around a turnover, which leaves no trace in the training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack

import torch
from torch import nn

from pytorch_bfo_optimizer.compile_policy.random_state import random_state_kept
from pytorch_bfo_optimizer.turnover.observing import Observer


def measured(measure: Callable[[], float], model: nn.Module, observers: Iterable[Observer]) -> float:
    """Return what `measure` says of the model in eval mode, without gradients.

    Afterwards the random numbers of the process and the train mode of each module are what they were, and nothing was
    observed.

    Raises:
        Exception: whatever `measure` raises.
    """
    modes = [(module, module.training) for module in model.modules()]
    with ExitStack() as kept:
        kept.enter_context(random_state_kept())
        for observer in observers:
            kept.enter_context(observer.off())
        kept.enter_context(torch.no_grad())
        try:
            model.eval()
            return float(measure())
        finally:
            for module, mode in modes:
                module.training = mode
