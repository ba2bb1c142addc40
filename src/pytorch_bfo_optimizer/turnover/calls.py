"""Watches while a model runs whether a layer is called as its trace says: what a trace can't know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pytorch_bfo_optimizer.errors import TurnoverRefusedError
from pytorch_bfo_optimizer.turnover.layers import Layer
from pytorch_bfo_optimizer.turnover.module_hooks import ModuleHook
from pytorch_bfo_optimizer.turnover.tracing import is_compiled

_ALONE = "Call it in the forward of that module alone, once each time, or leave it out of layers="


class CallCheck:
    """Hooks on the producer, its consumers and its norm, and on the module that was traced.

    Each call of the traced module may call each of the others once, and nothing else may call them. What runs compiled
    is not looked at: it is the same forward. (Under `torch.compile` hooks that come later are ignored.)
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
        if layer.norm is not None:
            self._hooks.append(layer.norm.register_forward_pre_hook(ModuleHook(self._normalise)))

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

    def _noted(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def note(module: nn.Module, args: tuple[Any, ...]) -> None:
            if torch.compiler.is_compiling():
                self._ran_compiled = True
            elif not torch.is_grad_enabled():
                return  # a look at a part of the model, from which nothing is learned
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

    def _normalise(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if not torch.compiler.is_compiling() and args and isinstance(args[0], Tensor) and args[0].dim() != 2:
            self._why = (
                f"its BatchNorm1d gets a tensor of {args[0].dim()} dimensions, and normalises the second, which are no "
                "neurons. Leave it out of layers="
            )
