"""Torch's state that belongs to the whole process, put back as it was."""

from __future__ import annotations

import copy
import logging
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def as_it_was() -> Iterator[None]:
    """Put back, whatever happens: random numbers, grad mode, defaults, dynamo's configuration and stance, log handlers.

    What was compiled before is forgotten by torch (`torch.compiler.reset`): it compiles again at its next call.
    """
    import numpy
    import torch
    import torch._dynamo
    from torch._dynamo import eval_frame

    generators = (torch.get_rng_state(), random.getstate(), numpy.random.get_state())
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    grad, dtype, device = torch.is_grad_enabled(), torch.get_default_dtype(), default_device()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    anomaly, check_nan = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    stance = copy.copy(getattr(eval_frame, "_stance", None))
    configurations = [(module, module.get_config_copy()) for module in _configurations()]
    loggers = {name: _logger_state(name) for name in ("", "torch", "torch.__trace", "torch._dynamo", "torch._inductor")}
    filters = list(warnings.filters)
    try:
        yield
    finally:
        torch.set_rng_state(generators[0])
        random.setstate(generators[1])
        numpy.random.set_state(generators[2])
        if on_gpus:
            torch.cuda.set_rng_state_all(on_gpus)
        torch.set_grad_enabled(grad)
        torch.set_default_dtype(dtype)
        if default_device() != device:
            torch.set_default_device(None if device == torch.device("cpu") else device)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.autograd.set_detect_anomaly(anomaly, check_nan=check_nan)
        if stance is not None:
            eval_frame._set_stance(stance)
        for module, before in configurations:
            _restore(module, before)
        for name, state in loggers.items():
            _restore_logger(name, state)
        warnings.filters[:] = filters  # type: ignore[index]
        torch.compiler.reset()


def default_device() -> Any:
    """Return the default device, also on a torch (2.6, 2.8) that can't say it once it was set to None."""
    import torch

    try:
        return torch.get_default_device()
    except AttributeError:
        return torch.device("cpu")


def _configurations() -> list[Any]:
    import torch._dynamo.config
    import torch._functorch.config
    import torch._inductor.config

    return [torch._dynamo.config, torch._functorch.config, torch._inductor.config]


def _restore(module: Any, before: dict[str, Any]) -> None:
    now = module.get_config_copy()
    for key, value in before.items():
        if key not in now or now[key] is value:
            continue
        try:
            same = bool(now[key] == value)
        except (TypeError, ValueError, RuntimeError):
            same = False
        if not same:
            setattr(module, key, value)


def _logger_state(name: str) -> tuple[int, bool, list[logging.Handler], list[Any]]:
    logger = logging.getLogger(name)
    return logger.level, logger.propagate, list(logger.handlers), list(logger.filters)


def _restore_logger(name: str, state: tuple[int, bool, list[logging.Handler], list[Any]]) -> None:
    logger = logging.getLogger(name)
    logger.setLevel(state[0])
    logger.propagate = state[1]
    logger.handlers[:] = state[2]
    logger.filters[:] = state[3]
