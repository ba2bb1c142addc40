"""What a target holds after some steps, and the same steps in float64 to compare with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from bfo_diag.records import Case

_LOW = (torch.float32, torch.float16, torch.bfloat16)


def state_of(case: Case) -> dict[str, torch.Tensor]:
    """Return the tensors that the steps train, by name: of model, optimizer, parameters, and what the step uses."""
    found: dict[int, tuple[str, torch.Tensor]] = {}

    def add(name: str, tensor: object) -> None:
        if isinstance(tensor, torch.Tensor) and (tensor.is_floating_point() or tensor.is_complex()):
            found.setdefault(id(tensor), (name, tensor))

    for name, thing in _holders(case):
        if isinstance(thing, torch.nn.Module):
            for inner, tensor in (*thing.named_parameters(), *thing.named_buffers()):
                add(f"{name}.{inner}" if name else inner, tensor)
        elif isinstance(thing, torch.optim.Optimizer):
            for group_index, group in enumerate(thing.param_groups):
                for index, tensor in enumerate(group["params"]):
                    add(f"{name}.{group_index}.{index}", tensor)
        elif isinstance(thing, torch.Tensor) and thing.requires_grad:
            add(name, thing)
    named: dict[str, torch.Tensor] = {}
    for name, tensor in found.values():
        named[name if name not in named else f"{name}#{len(named)}"] = tensor
    return named


def _holders(case: Case) -> Iterator[tuple[str, Any]]:
    model = case.model
    if isinstance(model, Mapping):
        yield from model.items()
    elif model is not None:
        yield "", model
    yield "optimizer", case.optimizer
    yield from case.parameters.items()
    yield from used_by(case.step)


def used_by(function: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    """Yield what a Python function names: its closure, its object, and the globals in its code."""
    function = inspect.unwrap(function)
    owner = getattr(function, "__self__", None)
    if owner is not None:
        yield "self", owner
    plain = getattr(function, "__func__", function)
    code = getattr(plain, "__code__", None)
    if code is None:
        return
    for name, cell in zip(code.co_freevars, plain.__closure__ or (), strict=False):
        try:
            yield name, cell.cell_contents
        except ValueError:
            continue
    for name in code.co_names:
        if name in plain.__globals__:
            yield name, plain.__globals__[name]


def arrays(state: Mapping[str, torch.Tensor], returned: list[Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Return the state as float64 arrays, with the numbers that the steps returned."""
    kept: dict[str, np.ndarray[Any, Any]] = {}
    for name, tensor in state.items():
        values = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
        kept[f"state:{name}"] = values.to(device="cpu", dtype=torch.float64).numpy()
    for index, value in enumerate(returned):
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            kept[f"returned:{index}"] = value.detach().to(device="cpu", dtype=torch.float64).numpy()
        elif isinstance(value, float):
            kept[f"returned:{index}"] = np.asarray(value)
    return kept


class InFloat64(TorchFunctionMode):
    """Runs every operation on float64 copies of narrower tensors; what is written in place keeps its dtype."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func` with wider arguments."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in ("__get__", "__set__", "backward") or "out" in kwargs:
            return func(*args, **kwargs)
        in_place = (name.endswith("_") and not name.endswith("__")) or name == "__setitem__"
        first, rest = (args[:1], args[1:]) if in_place else ((), args)
        wide = {key: _wide(value) for key, value in kwargs.items()}
        return func(*first, *(_wide(value) for value in rest), **wide)


def _wide(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.double() if value.dtype in _LOW else value
    if value in _LOW if isinstance(value, torch.dtype) else False:
        return torch.float64
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)(_wide(item) for item in value)
    return value


def widen(state: Mapping[str, torch.Tensor]) -> None:
    """Make the state float64 where it lies, so that who holds a tensor of it holds the wide one."""
    for tensor in state.values():
        if tensor.dtype in _LOW:
            tensor.data = tensor.data.double()
            if tensor.grad is not None:
                tensor.grad = None
