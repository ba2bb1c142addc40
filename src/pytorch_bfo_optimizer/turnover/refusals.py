"""Why a layer can't be resized that is no matter of its forward: wrappers, other kinds of Linear, shared memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pytorch_bfo_optimizer.errors import TurnoverRefusedError
from pytorch_bfo_optimizer.turnover.tracing import uncompiled

if TYPE_CHECKING:
    from pytorch_bfo_optimizer.turnover.layers import Layer

_WRAPPERS = {"DataParallel", "DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule"}


def refuse_wrapped(model: nn.Module) -> None:
    """Check that no part of the model is spread over processes or devices, or compiled for good.

    Raises:
        TurnoverRefusedError: DDP, FSDP or DataParallel, or `torch.jit`.
    """
    for name, module in model.named_modules():
        where = f"the part {name!r} of the model" if name else "the model"
        kinds = {kind.__name__ for kind in type(module).__mro__ if kind.__module__.startswith("torch.")}
        for kind in sorted(kinds & _WRAPPERS):
            raise TurnoverRefusedError(
                f"{where} is wrapped in {kind}, which holds its parameters in buckets or shards of their first sizes: "
                "neurons can only die or be born in one process on one device, before it is wrapped"
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise TurnoverRefusedError(
                f"{where} is compiled by torch.jit, and its forward can't be followed: use the module before "
                "torch.jit.script or trace"
            )


def refuse_unfit_layer(model: nn.Module, layer: Layer) -> None:
    """Check again, before surgery, what may have changed since the layer was found.

    Raises:
        TurnoverRefusedError: wrappers, parametrizations, or shared memory that came later.
    """
    refuse_wrapped(model)
    for name, linear in ((layer.name, layer.producer), *layer.consumers):
        refuse_unfit_linear(name, linear)
    refuse_tied(model, [(part.name, part.tensor) for part in layer.parts])


def refuse_unfit_linear(name: str, linear: nn.Module) -> None:
    """Check that a module is `nn.Linear` itself, with a weight and a bias of its own.

    Raises:
        TurnoverRefusedError: it is something else.
    """
    if parametrize.is_parametrized(linear):
        why = "is parametrized: its weight is computed from tensors of other shapes. Remove the parametrization"
    elif isinstance(linear, torch.jit.ScriptModule):
        why = "is compiled by torch.jit. Use the module before torch.jit.script or trace"
    elif type(linear) is not nn.Linear:
        why = f"is a {type(linear).__name__}, and only nn.Linear itself can be resized. Leave it out of layers="
    elif set(linear._parameters) != {"weight", "bias"}:
        extra = ", ".join(sorted(set(linear._parameters) ^ {"weight", "bias"}))
        why = f"computes its weight from other parameters ({extra}): remove weight_norm, spectral_norm or pruning"
    elif any(type(tensor) is not nn.Parameter for tensor in linear._parameters.values() if tensor is not None):
        why = f"holds its weight as a {type(linear.weight).__name__}, spread or not yet made, and no nn.Parameter"
    elif linear.weight.shape != (linear.out_features, linear.in_features):
        why = (
            f"has a weight of shape {tuple(linear.weight.shape)} for {linear.out_features} outputs and "
            f"{linear.in_features} inputs. Something has changed it"
        )
    elif "forward" in vars(linear):
        why = "has a forward that was put in place of nn.Linear's. Remove it"
    else:
        return
    raise TurnoverRefusedError(f"{name!r} can't be resized: it {why}")


def refuse_tied(model: nn.Module, tensors: list[tuple[str, Tensor]]) -> None:
    """Check that no other part of the model holds a tensor or memory of these.

    Raises:
        TurnoverRefusedError: one does.
    """
    holders: dict[int, list[tuple[str, Tensor]]] = {}
    for module_name, module in model.named_modules():
        if uncompiled(module) is not module:
            continue
        for held in (module._parameters, module._buffers, vars(module)):
            for attribute, tensor in held.items():
                if isinstance(tensor, Tensor) and (memory := _memory(tensor)):
                    holders.setdefault(memory, []).append((f"{module_name}.{attribute}".lstrip("."), tensor))
    for name, tensor in tensors:
        shared = holders.get(_memory(tensor), [])
        if len(shared) > 1:
            others = ", ".join(repr(other) for other, _ in shared)
            raise TurnoverRefusedError(
                f"{name!r} can't be resized: its memory is tied to that of others ({others}), which would keep the old "
                "width. Give each its own tensor, or leave the layer out of layers="
            )


def _memory(tensor: Tensor) -> int:
    """Return where the tensor's storage begins; 0 where it has none."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # sparse, or a subclass that wraps others
        return 0
