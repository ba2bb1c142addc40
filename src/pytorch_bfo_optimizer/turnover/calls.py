"""Watches while a model runs whether a layer is called as its trace says: what a trace can't know."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from pytorch_bfo_optimizer.errors import TurnoverRefusedError
from pytorch_bfo_optimizer.turnover.layers import Layer
from pytorch_bfo_optimizer.turnover.module_hooks import ModuleHook, given_to, is_recomputed
from pytorch_bfo_optimizer.turnover.tracing import is_compiled

_ALONE = "Call it in the forward of that module alone, once each time, or leave it out of layers="


class CallCheck:
    """Hooks on the producer, its consumers and its norm, and on the module that was traced.

    Each call of the traced module may call each of the others once, and nothing else may call them; and no other Linear
    of that width may read the same activation (a branch that an argument switches on). What runs compiled is not looked
    at: it is the same forward. (Under `torch.compile` hooks that come later are ignored.)
    """

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._scope_name = repr(layer.scope_name) if layer.scope_name else "the model"
        self._is_inside = False
        self._called: set[str] = set()
        self._ran_compiled = False
        self._why = ""
        members = [(layer.name, layer.producer), *layer.consumers]
        self._hooks = [
            layer.scope.register_forward_pre_hook(ModuleHook(self._enter)),
            layer.scope.register_forward_hook(ModuleHook(self._leave), always_call=True),
            *(module.register_forward_pre_hook(ModuleHook(self._noted(name))) for name, module in members),
        ]
        self._readings: list[tuple[weakref.ref[Tensor], str]] = []
        known = {id(module) for _, module in members}
        for name, module in layer.scope.named_modules():
            if id(module) not in known and isinstance(module, nn.Linear) and module.in_features == layer.width:
                self._hooks.append(self._on_read(module, f"the Linear {name!r}"))
        self._hooks += [self._on_read(module, "") for module in {layer.tap, *(one for _, one in layer.consumers)}]
        if layer.norm is not None:
            self._hooks.append(layer.norm.register_forward_pre_hook(ModuleHook(self._normalise), with_kwargs=True))

    def refuse(self) -> None:
        """Check how the layer was called so far.

        Raises:
            TurnoverRefusedError: in another way than the trace says.
        """
        if self._why and not self._ran_compiled and not is_compiled(self._layer.scope):
            raise TurnoverRefusedError(f"{self._layer.name!r} can't be resized: {self._why}")

    def close(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if torch.compiler.is_compiling():
            self._ran_compiled = True
            return
        self._is_inside = True
        self._called.clear()
        if DistributedDataParallel._active_ddp_module is not None:
            self._why = (
                "the model runs within DistributedDataParallel, which holds its parameters in buckets of their first "
                "sizes. Let neurons die and be born in one process, before the model is wrapped"
            )

    def _leave(self, module: nn.Module, args: tuple[Any, ...], result: Any) -> None:
        if not torch.compiler.is_compiling():
            self._is_inside = False
            self._readings.clear()

    def _on_read(self, module: nn.Module, stranger: str) -> RemovableHandle:
        """Hook on to a module that reads the activation, or to a stranger that is not known to."""

        def read(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            value = given_to(args, kwargs)
            if torch.compiler.is_compiling() or not (self._is_inside and torch.is_grad_enabled()):
                return
            if not isinstance(value, Tensor):
                return
            for reference, other in self._readings:
                if reference() is value and bool(other) != bool(stranger):
                    self._why = self._why or (
                        f"{other or stranger} reads its neurons, too, which the trace does not show: the forward goes "
                        "another way than it did there, by an argument or an attribute. Leave the layer out of layers="
                    )
            self._readings.append((weakref.ref(value), stranger))

        return module.register_forward_pre_hook(ModuleHook(read), with_kwargs=True)

    def _noted(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def note(module: nn.Module, args: tuple[Any, ...]) -> None:
            if torch.compiler.is_compiling():
                self._ran_compiled = True
            elif not torch.is_grad_enabled() or is_recomputed():
                return  # a look at a part of the model, from which nothing is learned; or a checkpoint's second look
            elif not self._is_inside:
                self._why = self._why or (
                    f"{name!r} was called outside of the forward of {self._scope_name}, which was traced. {_ALONE}"
                )
            elif name in self._called:
                self._why = self._why or (
                    f"{name!r} was called several times in one forward of {self._scope_name}, and once in its trace. "
                    f"{_ALONE}"
                )
            else:
                self._called.add(name)

        return note

    def _normalise(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        value = given_to(args, kwargs)
        if not torch.compiler.is_compiling() and isinstance(value, Tensor) and value.dim() != 2:
            self._why = (
                f"its BatchNorm1d gets a tensor of {value.dim()} dimensions, and normalises the second, which are no "
                "neurons. Leave it out of layers="
            )
