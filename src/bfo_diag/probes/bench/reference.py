"""What a target holds after some steps, and the same steps in float64 to compare with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from bfo_diag.records import Case
from bfo_diag.subject import used_by

_LOW = (torch.float32, torch.float16, torch.bfloat16)


def state_of(case: Case) -> dict[str, torch.Tensor]:
    """Return the tensors that the steps train, by name: of model, optimizer, parameters, and what the step uses."""
    found: dict[int, tuple[str, torch.Tensor]] = {}

    def add(name: str, tensor: object) -> None:
        if isinstance(tensor, torch.Tensor) and (tensor.is_floating_point() or tensor.is_complex()):
            found.setdefault(id(tensor), (name, tensor))

    holders = list(_holders(case))
    # (A module's names say more of a tensor than its place in an optimizer does.)
    for name, thing in sorted(holders, key=lambda holder: not isinstance(holder[1], torch.nn.Module)):
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


def optimizers_of(case: Case) -> list[torch.optim.Optimizer]:
    """Return the optimizers of a case, and those that its step names."""
    return [thing for _, thing in _holders(case) if isinstance(thing, torch.optim.Optimizer)]


def _holders(case: Case) -> Iterator[tuple[str, Any]]:
    model = case.model
    if isinstance(model, Mapping):
        yield from model.items()
    elif model is not None:
        yield "", model
    yield "optimizer", case.optimizer
    yield from case.parameters.items()
    yield from used_by(case.step)


def kept(value: Any) -> list[Any]:
    """Return copies of the tensors and numbers in what a step returned, before later steps change them."""
    return [leaf.detach().clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in tree_leaves(value)]


def arrays(state: Mapping[str, torch.Tensor], returned: list[list[Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """Return the state and its gradients as float64 arrays, with the numbers that the steps returned."""
    found: dict[str, np.ndarray[Any, Any]] = {}
    for name, tensor in state.items():
        found[f"state:{name}"] = _array(tensor)
        if tensor.is_leaf and tensor.grad is not None and not tensor.grad.is_sparse:
            found[f"gradient:{name}"] = _array(tensor.grad)
    for step, values in enumerate(returned, 1):
        for index, value in enumerate(values):
            if isinstance(value, torch.Tensor) and (value.is_floating_point() or value.is_complex()):
                found[f"returned:step {step}:{index}"] = _array(value)
            elif isinstance(value, float):
                found[f"returned:step {step}:{index}"] = np.asarray(value)
    return found


def _array(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    values = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
    array: np.ndarray[Any, Any] = values.to(device="cpu", dtype=torch.float64).numpy()
    return array


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


def widen(state: Mapping[str, torch.Tensor], optimizers: Sequence[torch.optim.Optimizer] = ()) -> None:
    """Make the state float64 where it lies, so that who holds a tensor of it holds the wide one."""
    for tensor in state.values():
        if tensor.dtype in _LOW:
            gradient = tensor.grad if tensor.is_leaf else None
            tensor.data = tensor.data.double()
            if gradient is not None:  # a bare optimizer step takes it as it finds it
                tensor.grad = None
                tensor.grad = gradient.double()
    for optimizer in optimizers:
        for kept_of in optimizer.state.values():
            for key, value in list(kept_of.items()):
                if isinstance(value, torch.Tensor) and value.dtype in _LOW and value.dim() > 0:
                    kept_of[key] = value.double()
