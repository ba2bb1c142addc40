"""Settings of a `TurnoverManager` that contradict each other, or are out of range."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence

from torch import nn
from torch.optim import Optimizer

from pytorch_bfo_optimizer.errors import HyperparameterError, TurnoverError, TurnoverRefusedError
from pytorch_bfo_optimizer.state import require_number
from pytorch_bfo_optimizer.turnover.layers import Layer
from pytorch_bfo_optimizer.turnover.schedule import Never, Schedule
from pytorch_bfo_optimizer.turnover.selectors import Selector

_MANAGED: weakref.WeakKeyDictionary[nn.Module, weakref.ref[object]] = weakref.WeakKeyDictionary()
"""Who manages a producer."""


def refuse_unfit(
    select: Selector | None, schedule: object, fraction: object, grow_to: float | int | None, grow: object
) -> None:
    """Check what can be checked without a model.

    Raises:
        HyperparameterError: naming the setting, its value and the mend.
    """
    if not isinstance(schedule, Schedule):
        raise HyperparameterError(
            f"schedule is {schedule!r}: use Every(steps), Continuous(rate), Once(step) or Never()"
        )
    require_number("fraction", fraction, low=0, high=1, open_low=True, open_high=True, mend="0.05 is usual")
    if grow not in ("newborn", "split"):
        raise HyperparameterError(f"grow is {grow!r}: use 'newborn' or 'split'")
    if select is None and grow_to is None and not isinstance(schedule, Never):
        raise HyperparameterError(
            "select is None and grow_to is None: nobody would die and nobody be born; name a selector, give grow_to, "
            "or use the preset 'none' for a control"
        )


def refuse_strange(model: object, optimizer: object, layers: object) -> None:
    """Check the kinds of what was given.

    Raises:
        HyperparameterError: naming what it has to be.
    """
    if not isinstance(model, nn.Module):
        raise HyperparameterError(f"model is {type(model).__name__}: give the nn.Module first, then its optimizer")
    if not isinstance(optimizer, Optimizer):
        raise HyperparameterError(f"optimizer is {type(optimizer).__name__}: give the torch.optim.Optimizer")
    names = [layers] if isinstance(layers, str) else layers
    if names is not None and not (isinstance(names, Sequence) and all(isinstance(name, str) for name in names)):
        raise HyperparameterError(
            f"layers is {type(layers).__name__}: give names or patterns of modules, such as 'blocks.*.mlp.0'"
        )


def refuse_cap(grow_to: float | int | None, widths: Mapping[str, int]) -> None:
    """Check the width to grow to against the first widths.

    Raises:
        HyperparameterError: it is neither a width of at least the first, nor a factor of at least 1.
    """
    if grow_to is None:
        return
    if isinstance(grow_to, bool) or not isinstance(grow_to, (int, float)):
        raise HyperparameterError(f"grow_to is {grow_to!r}: give a width (128) or a factor (1.5)")
    if isinstance(grow_to, float):
        require_number("grow_to", grow_to, low=1, high=1e6, mend="1.5 times the first width, say")
        return
    for name, width in widths.items():
        if grow_to < width:
            raise HyperparameterError(
                f"grow_to is {grow_to}, and {name!r} has {width} neurons: an integer is the width to grow to; a factor "
                f"is a float, as {float(grow_to)}"
            )


def trained(layers: Sequence[Layer], optimizer: Optimizer, *, named: bool) -> tuple[Layer, ...]:
    """Return the layers whose weights the optimizer trains; where newborn neurons could not learn, none is born.

    Raises:
        TurnoverRefusedError: one that was `named` is not trained, or none is.
    """
    stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    found, why = [], ""
    for layer in layers:
        fault = _not_trained(layer, stepped)
        if not fault:
            found.append(layer)
            continue
        why = f"{fault}: neurons born in {layer.name!r} would never learn"
        if named:
            raise TurnoverRefusedError(f"{why}. Leave it out of layers=, or train it")
    if layers and not found:
        raise TurnoverRefusedError(f"no layer is trained: {why}")
    return tuple(found)


def _not_trained(layer: Layer, stepped: set[int]) -> str:
    for name, module in ((layer.name, layer.producer), *layer.consumers):
        if not module.weight.requires_grad:
            return f"'{name}.weight' is frozen"
        if id(module.weight) not in stepped:
            return f"'{name}.weight' is no parameter of the optimizer"
    return ""


def take(layers: Iterable[Layer], manager: object) -> None:
    """Note whose these layers are.

    Raises:
        TurnoverError: one is somebody else's.
    """
    layers = tuple(layers)
    for layer in layers:
        other = _MANAGED.get(layer.producer)
        if other is not None and other() is not None:
            raise TurnoverError(
                f"{layer.name!r} has a TurnoverManager already: close() that one first, or give them other layers"
            )
    _MANAGED.update((layer.producer, weakref.ref(manager)) for layer in layers)


def release(manager: object) -> None:
    """Note that a manager has no layers any more."""
    for producer, owner in list(_MANAGED.items()):
        if owner() is manager:
            del _MANAGED[producer]
